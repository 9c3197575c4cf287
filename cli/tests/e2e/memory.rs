//! What of a key is in the daemon's memory, and who may look there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use key_server_proto::v1;
use key_server_testkit::client::{Client, connect};
use key_server_testkit::memory::copies;
use key_server_testkit::process::{Home, ServerProcess};

use crate::support::{OPENAI, home, is_root, release, report, select, selected, skip};

/// What every key begins with; six digits follow.
const MARK: &str = "sk-fake-mark-of-memory-";
const DIGITS: usize = 6;
const KEYS_COUNT: usize = 1_000;
const CLIENTS_COUNT: usize = 8;
/// Ten seconds, and the time of the looks themselves.
const LOOKS_MAX: usize = 40;
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The keys from `from` on.
fn csv(from: usize) -> String {
    let mut csv = String::from("provider,model,api_key\n");
    for number in from..KEYS_COUNT {
        writeln!(csv, "openai,gpt-4o,{MARK}{number:06}").unwrap();
    }
    csv
}

fn copies_in(server: &ServerProcess) -> BTreeMap<String, usize> {
    copies(server.pid(), MARK, DIGITS).unwrap()
}

/// Looks again and again, as a scan takes its time, until the copies are as
/// they should be; else the last ones are shown.
async fn settled(
    server: &ServerProcess,
    is_right: impl Fn(&BTreeMap<String, usize>) -> bool,
) -> BTreeMap<String, usize> {
    for _ in 0..LOOKS_MAX {
        let copies = copies_in(server);
        if is_right(&copies) {
            return copies;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let copies = copies_in(server);
    let many: Vec<_> = copies.iter().filter(|(_, count)| **count > 1).collect();
    panic!("{} keys are in memory; more than once: {many:?}", copies.len());
}

fn most(copies: &BTreeMap<String, usize>) -> usize {
    copies.values().copied().max().unwrap_or(0)
}

/// Each client gets keys, one and many at a time, and stays connected.
async fn use_keys(clients: &mut [Client], round: usize) {
    for (number, client) in clients.iter_mut().enumerate() {
        for count in [1, 2, 3, 20, 64] {
            let session = format!("s-{round}-{number}-{count}");
            let keys = selected(client, select(&session, &[OPENAI], count)).await;
            client.track_usage(report(&session, &keys[0], "e1")).await.unwrap();
            if count % 2 == 0 {
                client.release_key(release(&session)).await.unwrap();
            }
        }
        // The last answer on this connection has keys in it.
        selected(client, select(&format!("s-{round}-{number}-1"), &[OPENAI], 1)).await;
    }
}

async fn clients(home: &Home) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS_COUNT {
        clients.push(connect(&home.socket()).await.unwrap());
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_in_memory_twice_at_most_and_not_at_all_once_it_is_removed() {
    let name = "a_key_is_in_memory_twice_at_most_and_not_at_all_once_it_is_removed";
    if !is_root() {
        return skip(name, "only root may look into the daemon's memory");
    }
    let home = home(&csv(0));
    let (server, mut client) = home.start().await.unwrap();
    let mut clients = clients(&home).await;
    let started = copies_in(&server);
    assert_eq!(started.len(), KEYS_COUNT, "the daemon has every key");
    use_keys(&mut clients, 1).await;
    let live = settled(&server, |copies| most(copies) <= 2).await;
    assert_eq!(live.len(), KEYS_COUNT);
    // Half of the keys go, the last answers on all connections name some.
    home.write_csv(&csv(KEYS_COUNT / 2)).unwrap();
    let request = v1::ReloadKeysRequest { force: true, ..Default::default() };
    assert_eq!(client.reload_keys(request).await.unwrap().into_inner().withdrawn, 500);
    let removed = |copies: &BTreeMap<String, usize>| {
        let removed = copies.iter().filter(|(key, _)| key.parse::<usize>().unwrap() < 500);
        removed.map(|(_, count)| count).sum::<usize>()
    };
    let at_once = removed(&copies_in(&server));
    let after = settled(&server, |copies| removed(copies) == 0).await;
    assert_eq!(after.len(), KEYS_COUNT / 2);
    assert!(most(&after) <= 2, "{after:?}");
    let all = |copies: &BTreeMap<String, usize>| copies.values().sum::<usize>();
    eprintln!(
        "copies of {KEYS_COUNT} keys: {} after the start (at most {} of one), {} after use (at \
         most {}); of 500 removed keys: {at_once} at once, then 0; {} of the other 500",
        all(&started),
        most(&started),
        all(&live),
        most(&live),
        all(&after),
    );
    drop(clients);
}
