//! What other nodes published of themselves.

use crate::changes::SessionRow;
use crate::event::SessionRef;
use crate::id::{KeyId, ModelName};
use crate::key::Usage;
use crate::time::Time;

/// Rows of one other node, as absolute values: taking them twice is harmless.
/// Instants and minutes are of the reading node's timeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeRows {
    /// Keys that the node knows, as they are there.
    pub keys: Vec<NodeKeyRow>,
    /// Sessions that live at the node; what they gave back is left out.
    pub sessions: Vec<SessionRow>,
    /// Sessions that do not live there any more.
    pub ended: Vec<SessionRef>,
}

/// What one node knows of a key from its own ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeKeyRow {
    /// The key.
    pub key: KeyId,
    /// What it spent through the node.
    pub lifetime: Usage,
    /// When the node last gave it or was told of its use.
    pub last_used: Option<Time>,
    /// (minute of the timeline, tokens), oldest first.
    pub window: Vec<(u32, u64)>,
    /// Models it cools for, and until when.
    pub cooling: Vec<(ModelName, Time)>,
}
