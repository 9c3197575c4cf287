//! The Vault adapter against a real Vault server.

#![expect(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod entries;
mod setup;

use key_server_testkit::suite;
use key_server_testkit::vault::VaultServer;

fn main() {
    let tests = [entries::TESTS].concat();
    suite::run(VaultServer::find().map(drop), tests)
}
