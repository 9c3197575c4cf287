//! The shared projection, against real Redis servers.
#![allow(missing_docs, reason = "a test program")]

mod conformance;
mod fixture;
mod fleet;
mod reserve;

use conformance::{cluster_keeps_the_contract, sentinel_keeps_the_contract, single};
use fleet::*;
use key_server_testkit::redis::RedisServer;
use key_server_testkit::{projection_conformance, suite, tests};
use reserve::*;

fn main() {
    let needs = RedisServer::find().map(drop);
    let tests = tests![
        sentinel_keeps_the_contract,
        cluster_keeps_the_contract,
        what_one_node_writes_another_hears_and_reads,
        news_that_were_missed_leave_a_gap,
        a_node_that_joins_is_heard_of,
        others_are_named_with_mark_and_silence,
        a_node_that_is_gone_is_forgotten,
        a_pool_that_is_gone_is_taken_out,
        a_node_that_is_an_hour_ahead_publishes_instants_that_others_read_right,
        a_clock_that_moved_is_noticed_and_rows_are_published_anew,
        batches_of_many_rows_are_written_in_pieces,
        a_row_that_cannot_be_read_is_named,
        a_node_that_published_nothing_is_read_as_none,
        the_first_keys_with_room_are_given,
        several_models_are_reserved_in_one_call,
        keys_without_caps_need_no_redis,
        no_cap_is_exceeded_by_sixty_four_tasks_of_four_nodes,
        a_reservation_goes_away_by_itself_unless_it_is_held,
        room_that_is_given_back_is_given_again,
        a_hold_beyond_its_cap_is_kept,
    ];
    suite::run(needs, projection_conformance!(list single).into_iter().chain(tests))
}
