//! How everything is called in Redis. Braces make a cluster keep together what
//! is within one pair of them.

use key_server_core::KeyId;

/// The ids of all nodes.
pub(crate) const NODES: &str = "keys:nodes";
/// The names of all pools.
pub(crate) const POOLS: &str = "keys:pools";
/// The channel for nodes that announce themselves for the first time, or anew.
pub(crate) const JOINED: &str = "keys:joined";
/// What the channels for changes begin with.
const CHANGES: &str = "keys:changes:";

/// How long what nobody renews is kept.
pub(crate) const KEPT_MS: u64 = 7 * 24 * 3_600_000;

/// What a node says of itself, and its mark.
pub(crate) fn node(node: &str) -> String {
    format!("keys:node:{{{node}}}")
}

/// A node's keys.
pub(crate) fn keys(node: &str) -> String {
    format!("keys:keys:{{{node}}}")
}

/// A node's live sessions.
pub(crate) fn sessions(node: &str) -> String {
    format!("keys:sessions:{{{node}}}")
}

/// What the nodes say of a pool.
pub(crate) fn pool(model: &str) -> String {
    format!("keys:pool:{model}")
}

/// Who holds a capped key.
pub(crate) fn cap(key: KeyId) -> String {
    format!("keys:cap:{{caps}}:{key}")
}

/// The number of a node among the holders of capped keys, below 500. Two nodes
/// may have the same: then one may end what the other one has just reserved for
/// the same session.
pub(crate) fn number(node: &str) -> u32 {
    // FNV-1a: it is to be the same everywhere and at all times.
    let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    1 + node.bytes().fold(0x811c_9dc5, mix) % 499
}

/// The channel of a node's changes.
pub(crate) fn changes(node: &str) -> String {
    format!("{CHANGES}{node}")
}

/// The node whose changes come over `channel`.
pub(crate) fn node_of_changes(channel: &str) -> Option<&str> {
    channel.strip_prefix(CHANGES)
}
