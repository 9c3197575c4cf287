//! Several real daemons on a real Redis and a real Vault, as a fleet meets
//! them: what is shared, what is lost and comes back, what never leaks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

mod canary;
mod caps;
mod load;
mod node_kills;
mod nodes;
mod redis_faults;
mod sharing;
#[expect(unused_imports, reason = "the tests of one daemon use more of it")]
#[path = "../e2e/support.rs"]
mod support;
mod vault_away;
mod vault_changes;
mod vault_losses;
mod vaults;

use key_server_testkit::redis::RedisServer;
use key_server_testkit::suite;
use key_server_testkit::vault::VaultServer;

fn main() {
    let redis = RedisServer::find().map(drop);
    let vault = VaultServer::find().map(drop);
    let both = redis.clone().and(vault.clone());
    suite::run_each([
        (both, canary::TESTS.to_vec()),
        (redis, [sharing::TESTS, caps::TESTS, redis_faults::TESTS, node_kills::TESTS].concat()),
        (vault, [vault_away::TESTS, vault_changes::TESTS, vault_losses::TESTS].concat()),
    ])
}
