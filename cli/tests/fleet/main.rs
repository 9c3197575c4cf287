//! Several real daemons on a real Redis and a real Vault, as a fleet meets
//! them: what is shared, what is lost and comes back, what never leaks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

mod load;
mod nodes;
mod redis_faults;
mod sharing;
#[expect(dead_code, reason = "the tests of one daemon use more of it")]
#[path = "../e2e/support.rs"]
mod support;

use key_server_testkit::redis::RedisServer;
use key_server_testkit::suite;

fn main() {
    let redis = [sharing::TESTS, redis_faults::TESTS].concat();
    suite::run_each([(RedisServer::find().map(drop), redis)])
}
