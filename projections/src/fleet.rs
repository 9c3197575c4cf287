use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use key_server_core::{Changes, KeyId, ModelName, NodeRows, PoolStats, SessionRef, Time};

use crate::error::ProjectionError;
use crate::projection::Mark;

/// What the nodes of a fleet learn of each other, beside what each of them
/// publishes through its shared [`crate::Projection`].
///
/// Every instant that crosses this port is of the calling node's own timeline:
/// the adapter knows the difference to the fleet's clock. Nothing here may be
/// needed to go on serving; whoever calls bears with every error.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// What people call it: `redis`.
    fn name(&self) -> &'static str;

    /// Writes rows of this node ahead of `mark`, after
    /// [`crate::Projection::clear`]: what is too much for one batch. The others
    /// are told with the [`crate::Projection::write`] of that or a later mark.
    ///
    /// # Errors
    /// As for `write`.
    async fn fill(&self, mark: &Mark, changes: &Changes) -> Result<(), ProjectionError>;

    /// Says that the node is there, and how it is; to be repeated every second
    /// or so. A node that has not done so for a while is away.
    ///
    /// # Errors
    /// `Unavailable`: say it again later. `Foreign`: an operator decides.
    async fn announce(&self, status: &NodeStatus) -> Result<Announced, ProjectionError>;

    /// Says that the node ends in good order: nobody has to wonder why it is
    /// silent until it announces itself again.
    ///
    /// # Errors
    /// `Unavailable`: the others find out by its silence.
    async fn leave(&self) -> Result<(), ProjectionError>;

    /// The other nodes that have announced themselves, living or away.
    ///
    /// # Errors
    /// `Unavailable`: ask again later.
    async fn others(&self) -> Result<Vec<OtherNode>, ProjectionError>;

    /// What an operator types so that all forget a node that is gone for good.
    /// One that is not comes back with its next announcement.
    fn how_to_forget(&self, node: &str) -> String;

    /// Everything that another node has published, in pages of some thousand
    /// rows; answers a sequence number of that node up to which it is all
    /// there (later rows may be, too). None when the node has published
    /// nothing, or is publishing everything anew just now.
    ///
    /// # Errors
    /// `Unavailable`: begin again later. `Corrupt`: a row cannot be read; that
    /// node will write it again when its rows are deleted.
    async fn read(
        &self,
        node: &str,
        page: &mut (dyn FnMut(NodeRows) + Send),
    ) -> Result<Option<u64>, ProjectionError>;

    /// Begins to listen to what other nodes publish.
    ///
    /// # Errors
    /// `Unavailable`: try again later.
    async fn listen(&self) -> Result<Box<dyn Listen>, ProjectionError>;

    /// Reserves capped keys for a session, for a short time (10 s), in one
    /// round trip: for each model, the first of the named keys that have room,
    /// as many as wanted. Keys without a cap always have room; a key that the
    /// session holds or has reserved already has room for it. When a model that
    /// needs a key gets none, nothing is reserved; the answer says who had
    /// room. What becomes an allocation is confirmed with [`Fleet::hold`].
    ///
    /// # Errors
    /// `Unavailable`: perhaps reserved, perhaps not; it goes away by itself.
    async fn reserve(&self, wanted: &Reservation) -> Result<Vec<Vec<KeyId>>, ProjectionError>;

    /// Confirms, renews and ends holds of capped keys; absolute and
    /// repeatable, whatever the caps say. What another node holds or reserved
    /// for the same session stays.
    ///
    /// # Errors
    /// `Unavailable`: do it again later.
    async fn hold(&self, holds: &[Hold]) -> Result<(), ProjectionError>;
}

/// A subscription to what other nodes publish.
#[async_trait]
pub trait Listen: Send {
    /// Also listens to this node. When it returns, whatever the node publishes
    /// from now on will be heard.
    ///
    /// # Errors
    /// `Unavailable`: the subscription is broken, begin a new one.
    async fn follow(&mut self, node: &str) -> Result<(), ProjectionError>;

    /// The next piece of news, in the order that its node published it. Pieces
    /// may be missing: then `from` does not join on.
    ///
    /// # Errors
    /// `Unavailable`: the subscription is broken, begin a new one.
    ///
    /// # Cancellation
    /// Nothing is lost.
    async fn next(&mut self) -> Result<News, ProjectionError>;
}

/// Something that another node published.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A node announced itself for the first time, or anew.
    Joined {
        /// Which.
        node: Arc<str>,
    },
    /// Rows that changed at a node.
    Rows {
        /// Where.
        node: Arc<str>,
        /// The sequence number that these rows follow on; none when the node
        /// is publishing everything anew.
        from: Option<u64>,
        /// The sequence number that they lead to.
        to: u64,
        /// The rows.
        rows: NodeRows,
    },
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    /// Of the program.
    pub version: &'static str,
    /// When it began to serve.
    pub started: Time,
    /// Now.
    pub now: Time,
    /// Keys that it serves.
    pub keys: usize,
    /// Sessions that live at it.
    pub sessions_live: usize,
    /// Its pools; none when they are as last time.
    pub pools: Option<Vec<PoolStats>>,
}

/// What came of an announcement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The sequence number up to which this node's rows are there; none when
    /// they were lost or never written.
    pub mark_seq: Option<u64>,
    /// True when the fleet's clock moved against the node's, so that instants
    /// which were published before are wrong: publish everything anew.
    pub clock_moved: bool,
    /// What an operator should change at the server, in words, as long as it is
    /// so: its eviction policy, that it is a read-only replica.
    pub warnings: Vec<String>,
}

/// Another node, as the fleet knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherNode {
    /// Its id.
    pub node: Arc<str>,
    /// Of its program.
    pub version: String,
    /// The sequence number up to which its rows are there; none when they are
    /// not.
    pub mark_seq: Option<u64>,
    /// How long ago it last announced itself.
    pub silent_for: Duration,
    /// Whether it has said that it ends.
    pub has_left: bool,
}

/// Keys that a session would like, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Whose.
    pub session: SessionRef,
    /// For each model of the call.
    pub models: Vec<ReservationForModel>,
}

/// Keys of one model that a session would like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationForModel {
    /// The model.
    pub model: ModelName,
    /// How many of them.
    pub count: usize,
    /// Whether the call is refused as a whole when none has room.
    pub is_needed: bool,
    /// The keys, each once, and how many live sessions may hold each; none: no
    /// cap.
    pub keys: Vec<(KeyId, Option<u32>)>,
}

/// A session's hold of a capped key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The key.
    pub key: KeyId,
    /// The session.
    pub session: SessionRef,
    /// Until when, unless renewed; none when it was given back.
    pub until: Option<Time>,
    /// The node that the session came from, if any: it may not be there any
    /// more to give back what it held.
    pub came_from: Option<Arc<str>>,
    /// Whether this node perhaps reserves it for the session again just now:
    /// then giving it back leaves it reserved.
    pub is_reserving: bool,
}
