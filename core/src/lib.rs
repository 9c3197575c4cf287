//! The rules of Key Server, as values and functions.
//!
//! [`State`] is what the ledger adds up to. A verb ([`Select`],
//! [`TrackUsage`], [`Release`], [`SyncKeys`], [`Expire`]) looks at it and
//! *decides*: it answers with events and a reply, or refuses. [`State::apply`]
//! is the only thing that changes what is known; [`State::advance`] lets time
//! pass. Both are deterministic: the same state, command, time and seed give
//! the same events.
//!
//! Nothing here reads a clock, draws a random number, does I/O, is async,
//! serialises, logs, or ever sees a secret.

mod changes;
mod deadlines;
mod draw;
mod event;
mod fleet;
mod id;
mod key;
mod nearest;
mod pool;
mod receipts;
mod release_key;
mod replay;
mod restore;
mod rules;
mod select;
mod session;
mod state;
mod stats;
mod sum_tree;
mod sync_keys;
mod tier;
mod time;
mod track_usage;
mod window;

pub use changes::{AllocationRow, Changes, KeyRow, ReceiptRow, SessionRow, UsageRow};
pub use event::{
    Event, KeyFacts, KeysReleased, KeysSelected, MovedAllocation, Outcome, OwnWeight, Pick,
    SessionExpired, SessionMovedIn, SessionMovedOut, SessionRef, Tokens, UsageTracked,
};
pub use fleet::{
    CappedHold, NodeKeyRow, NodeKeyStats, NodeRows, NodeTotals, Settle, SharedChanges,
};
pub use id::{IdError, KeyId, ModelName};
pub use key::{KeyState, Usage};
pub use receipts::Receipt;
pub use release_key::{Release, ReleaseRefusal, ReleaseScope, Released};
pub use replay::{PickFault, Replay, Review, Violation};
pub use restore::{Restore, RestoreError};
pub use rules::{Rules, TierTable};
pub use select::{Reserved, Select, SelectRefusal, Selected, Shortage, ShortageReason, Wish};
pub use session::Expire;
pub use state::{Decide, Decision, State};
pub use stats::{AllocationStats, KeyStats, PoolStats, SessionStats, Totals};
pub use sync_keys::{SyncKeys, Synced};
pub use tier::Tier;
pub use time::Time;
pub use track_usage::{TrackUsage, TrackUsageRefusal, Tracked};
