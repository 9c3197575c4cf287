//! The wire contract of Key Server, generated from
//! `keyserver/v1/key_server.proto`.

mod codec;

use std::fmt;

/// Messages, client and server of package `keyserver.v1`.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated; the .proto has the words"
)]
pub mod v1 {
    tonic::include_proto!("keyserver.v1");
}

/// The compiled contract, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/key_server.binpb"));

impl fmt::Debug for v1::SelectedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectedKey")
            .field("provider", &self.provider)
            .field("model", &self.model)
            .field("key_id", &self.key_id)
            .field("already_held", &self.already_held)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_selected_key_does_not_show_the_credential() {
        let key = v1::SelectedKey { api_key: "sk-fake-canary".into(), ..Default::default() };
        let reply = v1::SelectKeysResponse { keys: vec![key], ..Default::default() };
        assert!(!format!("{reply:?} {reply:#?}").contains("canary"));
    }
}
