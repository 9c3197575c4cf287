//! The Vault adapter against a real Vault server.

#![expect(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod denial;
mod entries;
mod hostile;
mod many;
mod outage;
mod scripted;
mod setup;
mod sign_in;

use key_server_testkit::suite;
use key_server_testkit::vault::VaultServer;

fn main() {
    let tests =
        [entries::TESTS, denial::TESTS, sign_in::TESTS, outage::TESTS, hostile::TESTS, many::TESTS]
            .concat();
    suite::run(VaultServer::find().map(drop), tests)
}
