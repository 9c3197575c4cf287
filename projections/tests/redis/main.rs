//! The shared projection, against real Redis servers.
#![expect(clippy::unwrap_used, reason = "the program is a test")]

mod conformance;
mod faults;
mod fixture;
mod fleet;
mod page;
mod places;
mod reserve;

use conformance::{cluster_keeps_the_contract, sentinel_keeps_the_contract, single};
use faults::*;
use fleet::*;
use key_server_testkit::redis::RedisServer;
use key_server_testkit::{projection_conformance, suite, tests};
use page::*;
use places::*;
use reserve::*;

fn main() {
    let needs = RedisServer::find().map(drop);
    let tests = tests![
        sentinel_keeps_the_contract,
        cluster_keeps_the_contract,
        what_one_node_writes_another_hears_and_reads,
        news_that_were_missed_leave_a_gap,
        a_node_that_joins_is_heard_of,
        a_list_of_nodes_that_was_lost_is_there_with_the_next_announcement,
        others_are_named_with_mark_and_silence,
        a_node_that_left_is_not_missed_until_it_comes_again,
        a_node_that_is_gone_is_forgotten,
        a_pool_that_is_gone_is_taken_out,
        a_node_that_is_an_hour_ahead_publishes_instants_that_others_read_right,
        a_clock_that_moved_is_noticed_and_rows_are_published_anew,
        batches_of_many_rows_are_written_in_pieces,
        a_row_that_cannot_be_read_is_named,
        a_node_that_says_nonsense_of_itself_hides_no_other,
        a_node_that_published_nothing_is_read_as_none,
        the_first_keys_with_room_are_given,
        several_models_are_reserved_in_one_call,
        a_call_that_is_refused_leaves_nothing_reserved,
        keys_without_caps_need_no_redis,
        no_cap_is_exceeded_by_sixty_four_tasks_of_four_nodes,
        a_reservation_goes_away_by_itself_unless_it_is_held,
        room_that_is_given_back_is_given_again,
        a_session_that_moves_between_nodes_never_loses_its_reservation,
        no_node_ends_what_another_holds_of_the_same_session,
        who_took_over_from_a_node_that_died_gives_back_for_it,
        what_is_given_back_while_it_is_reserved_again_stays_reserved,
        a_hold_beyond_its_cap_is_kept,
        rows_that_were_flushed_are_noticed_and_written_anew,
        rows_that_somebody_deleted_are_noticed,
        a_restart_without_data_is_noticed,
        after_twenty_kills_the_rows_are_those_of_the_books,
        calls_end_in_time_when_the_server_hangs,
        a_full_server_is_named_with_its_cure,
        keys_of_something_else_are_named_with_their_cure,
        a_read_only_replica_is_named_with_its_cure,
        a_wrong_password_is_said_without_it,
        missing_rights_are_named_with_their_cure,
        commands_that_the_server_does_not_have_are_not_needed,
        operators_are_told_what_they_should_change,
        scripts_that_the_server_forgot_are_sent_again,
        a_connection_that_was_cut_is_made_anew,
        a_connection_that_was_closed_while_idle_costs_no_reservation,
        a_write_on_a_connection_that_was_closed_is_not_sent_again,
        a_connection_that_was_not_waited_for_is_made_anew,
        lost_replies_never_lead_to_wrong_values,
        a_reply_that_was_lost_is_not_taken_for_a_loss_of_rows,
        a_broken_subscription_says_so,
        news_that_nobody_takes_do_not_pile_up_without_end,
        a_long_read_does_not_delay_what_is_published,
        rows_that_a_fail_over_lost_are_noticed_and_written_anew,
        sentinels_that_do_not_know_the_master_are_named_with_the_cure,
        nodes_of_a_cluster_do_all_of_it,
        a_server_of_a_cluster_that_comes_back_empty_is_filled_again,
        a_list_of_nodes_that_a_cluster_lost_is_there_again,
        a_unix_socket_and_another_database_are_used,
        a_password_comes_from_its_file_and_may_be_replaced,
        a_password_file_for_everyone_is_refused,
        a_cluster_taken_for_a_single_server_says_so,
        what_an_operator_changes_at_the_server_is_noticed_within_a_minute,
        two_processes_of_one_node_are_noticed,
        tls_takes_the_certificates_that_are_named_and_no_others,
        every_key_and_field_is_on_the_page_and_nothing_else_is,
        a_hundred_thousand_keys_and_sessions_take_little_room,
    ];
    suite::run(needs, projection_conformance!(list single).into_iter().chain(tests))
}
