//! What other nodes published, added up. It is no part of what the ledger adds
//! up to: it can be lost at any time, and it never leaves this node again.

mod guests;
mod keys;
mod settle;
mod shared;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::changes::SessionRow;
use crate::deadlines::Deadlines;
use crate::event::SessionRef;
use crate::id::{KeyId, ModelName};
use crate::key::Usage;
use crate::session::{Session, Sessions};
use crate::state::State;
use crate::time::Time;

pub use settle::Settle;
pub use shared::{CappedHold, SharedChanges};

use shared::Unshared;

/// Rows of one other node, as absolute values: taking them twice is harmless.
/// Instants and minutes are of the reading node's timeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeRows {
    /// Keys that the node knows, as they are there.
    pub keys: Vec<NodeKeyRow>,
    /// Sessions that live at the node, or that came to it and were ended there.
    /// Of those that came (`base` is not 0), what they gave back is there, too:
    /// where they came from, it is told from what was drawn in between.
    pub sessions: Vec<SessionRow>,
    /// Sessions that the node has no row of any more.
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

/// One node's part of the fleet, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTotals {
    /// The node.
    pub node: Arc<str>,
    /// Sessions that live there.
    pub sessions_live: usize,
    /// Tokens spent through it in the last hour.
    pub window_tokens: u64,
    /// What was spent through it since its keys were first seen.
    pub lifetime: Usage,
}

/// One node's part of a key, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeKeyStats {
    /// The node.
    pub node: Arc<str>,
    /// Tokens spent through it in the last hour.
    pub window_tokens: u64,
    /// What was spent through it since the key was first seen there.
    pub lifetime: Usage,
    /// When the node last gave it or was told of its use.
    pub last_used: Option<Time>,
}

/// Where another node is kept; stable while the state lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeIndex(pub(crate) u16);

/// Another node.
#[derive(Clone, Debug)]
struct Node {
    name: Arc<str>,
    keys: HashMap<KeyId, NodeKey>,
    lifetime: Usage,
    sessions_live: usize,
    /// Live ones, and ended ones that are to have their effect here.
    sessions: usize,
    /// Turns over with each reading of the whole node.
    round: bool,
}

#[derive(Clone, Debug, Default)]
struct NodeKey {
    lifetime: Usage,
    last_used: Option<Time>,
    window: Vec<(u32, u64)>,
    cooling: Vec<(ModelName, Time)>,
    /// The round in which it was last read.
    round: bool,
}

/// What other nodes published, and what of this node's they have not been told.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    /// This node.
    own: Arc<str>,
    nodes: Vec<Node>,
    /// Sessions of other nodes: for each name, the one with the largest term.
    guests: Sessions,
    guests_live: usize,
    deadlines: Deadlines,
    /// Sessions that live here, and at another node in a larger term.
    displaced: BTreeSet<SessionRef>,
    /// Pools made for models that only other nodes speak of.
    pools_made: usize,
    pub(crate) unshared: Unshared,
}

/// How many other nodes are kept; rows of more are passed over.
const NODES_MAX: usize = 1_024;

impl State {
    /// Begins to work with other nodes, as the node called `own`.
    pub fn join_fleet(&mut self, own: &Arc<str>) {
        let fleet = Fleet {
            own: Arc::clone(own),
            nodes: Vec::new(),
            guests: Sessions::default(),
            guests_live: 0,
            deadlines: Deadlines::default(),
            displaced: BTreeSet::new(),
            pools_made: 0,
            unshared: Unshared::default(),
        };
        self.fleet = Some(Box::new(fleet));
        self.share_everything();
    }

    /// Takes in what `node` published. Rows of this node itself are passed over.
    /// What a session holds of a key that is not known here counts when its row
    /// comes again after the key.
    pub fn learn(&mut self, node: &str, rows: &NodeRows) {
        let Some(node) = self.node_place(node) else { return };
        for row in &rows.keys {
            self.learn_key(node, row);
        }
        for row in &rows.sessions {
            self.learn_session(node, row);
        }
        for session in &rows.ended {
            self.learn_end(node, session);
        }
    }

    /// Says that all rows of `node` will be learned now; what is not learned
    /// again by [`State::learned_all`] is gone there.
    pub fn learn_all(&mut self, node: &str) {
        if let Some(node) = self.node_place(node) {
            let node = &mut self.fleet_mut(node);
            node.round = !node.round;
        }
    }

    /// Forgets what `node` did not say again since [`State::learn_all`]. Looks
    /// at what is known from `place` on, at most at `rows_max` sessions; answers
    /// where to go on, none when that was all.
    pub fn learned_all(&mut self, node: &str, place: usize, rows_max: usize) -> Option<usize> {
        let node = self.node_place(node)?;
        if place == 0 {
            self.forget_unsaid_keys(node);
        }
        self.forget_unsaid_guests(node, place, rows_max)
    }

    /// The other nodes of which anything is known.
    pub fn node_totals(&self) -> Vec<NodeTotals> {
        let nodes = self.fleet.iter().flat_map(|fleet| &fleet.nodes);
        let totals = nodes.filter(|node| !node.is_empty()).map(|node| NodeTotals {
            node: Arc::clone(&node.name),
            sessions_live: node.sessions_live,
            window_tokens: node.window_tokens(self.now),
            lifetime: node.lifetime,
        });
        totals.collect()
    }

    /// What each other node knows of a key.
    pub fn key_by_node(&self, key: KeyId) -> Vec<NodeKeyStats> {
        let nodes = self.fleet.iter().flat_map(|fleet| &fleet.nodes);
        let rows = nodes.filter_map(|node| Some((node, node.keys.get(&key)?)));
        let stats = rows.map(|(node, row)| NodeKeyStats {
            node: Arc::clone(&node.name),
            window_tokens: row.window_tokens(self.now),
            lifetime: row.lifetime,
            last_used: row.last_used,
        });
        stats.collect()
    }

    fn node_place(&mut self, name: &str) -> Option<NodeIndex> {
        let fleet = self.fleet.as_mut()?;
        if *fleet.own == *name {
            return None;
        }
        let place_of = |is_it: &dyn Fn(&Node) -> bool| fleet.nodes.iter().position(is_it);
        if let Some(place) = place_of(&|node| *node.name == *name) {
            return Some(NodeIndex(place as u16));
        }
        if fleet.nodes.len() < NODES_MAX {
            fleet.nodes.push(Node::new(name));
            return Some(NodeIndex((fleet.nodes.len() - 1) as u16));
        }
        // A node that went for good leaves its place.
        let place = place_of(&|node| node.is_empty())?;
        fleet.nodes[place] = Node::new(name);
        Some(NodeIndex(place as u16))
    }

    fn fleet_mut(&mut self, node: NodeIndex) -> &mut Node {
        let fleet = self.fleet.as_mut().expect("only a fleet gives out places of nodes");
        &mut fleet.nodes[usize::from(node.0)]
    }
}

impl Fleet {
    /// This node.
    pub(crate) fn own(&self) -> Arc<str> {
        Arc::clone(&self.own)
    }

    /// Sessions that live at other nodes.
    pub(crate) fn guests_live(&self) -> usize {
        self.guests_live
    }

    /// What was spent through each other node.
    pub(crate) fn lifetime(&self) -> impl Iterator<Item = Usage> {
        self.nodes.iter().map(|node| node.lifetime)
    }

    /// Sessions of other nodes from `place` on, with their places.
    pub(crate) fn guests_from(&self, place: usize) -> impl Iterator<Item = (usize, &Session)> {
        self.guests.iter_from(place).filter(|(_, guest)| guest.is_live())
    }
}

impl Node {
    fn new(name: &str) -> Self {
        Self {
            name: Arc::from(name),
            keys: HashMap::new(),
            lifetime: Usage::default(),
            sessions_live: 0,
            sessions: 0,
            round: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.sessions == 0
    }

    fn window_tokens(&self, now: Time) -> u64 {
        self.keys.values().map(|key| key.window_tokens(now)).fold(0, u64::saturating_add)
    }
}
