//! Sessions that live at other nodes.

use std::sync::Arc;

use super::{Fleet, NodeIndex};
use crate::changes::SessionRow;
use crate::event::SessionRef;
use crate::id::ModelName;
use crate::key::{Elsewhere, KeyIndex};
use crate::pool::PoolIndex;
use crate::session::{Allocation, Phase, Session, SessionIndex};
use crate::state::State;
use crate::time::Time;

/// How many sessions of other nodes are kept; rows of more are passed over.
const GUESTS_MAX: usize = 10_000_000;

/// Models that other nodes speak of and no key of this node ever served.
const POOLS_MAX: usize = 10_000;

/// Which of two nodes that say a session lives there is right: the larger one.
pub(super) type Claim<'name> = (u32, &'name str);

impl State {
    /// Takes in that a session lives at `node`, or was ended there after it had
    /// come there.
    pub(super) fn learn_session(&mut self, node: NodeIndex, row: &SessionRow) {
        if !self.is_news(node, row) {
            return self.learn_end(node, &row.session);
        }
        let own = self.session(&row.session);
        let displaces = own.is_some_and(Session::is_live);
        if row.ended && !displaces {
            return self.learn_end_at(node, row);
        }
        self.put_guest(node, row);
        if displaces && let Some(fleet) = &mut self.fleet {
            fleet.displaced.insert(row.session.clone());
        }
    }

    /// Whether a row says more than what is known here and from other nodes.
    fn is_news(&self, node: NodeIndex, row: &SessionRow) -> bool {
        let Some(fleet) = &self.fleet else { return false };
        let claim = (row.term, &*fleet.nodes[usize::from(node.0)].name);
        if !row.ended && row.end <= self.now {
            return false;
        }
        if let Some((_, guest)) = fleet.guest(&row.session)
            && guest.node != Some(node)
            && fleet.claim(guest) > claim
        {
            return false;
        }
        let own = self.session(&row.session);
        own.is_none_or(|own| says_more(row, claim, own, (own.term, &fleet.own)))
    }

    /// A session that came to another node was ended there.
    fn learn_end_at(&mut self, node: NodeIndex, row: &SessionRow) {
        let Some(fleet) = &self.fleet else { return };
        let claim = (row.term, &*fleet.nodes[usize::from(node.0)].name);
        if let Some((index, guest)) = fleet.guest(&row.session)
            && (guest.node == Some(node) || fleet.claim(guest) < claim)
            && guest.opened <= row.end
        {
            self.remove_guest(index);
        }
    }

    /// `node` has no row of the session any more.
    pub(super) fn learn_end(&mut self, node: NodeIndex, session: &SessionRef) {
        let Some(fleet) = &self.fleet else { return };
        if let Some((index, guest)) = fleet.guest(session)
            && guest.node == Some(node)
        {
            self.remove_guest(index);
        }
    }

    fn put_guest(&mut self, node: NodeIndex, row: &SessionRow) {
        let allocations = self.known_allocations(row);
        let Some(fleet) = &mut self.fleet else { return };
        let round = fleet.nodes[usize::from(node.0)].round;
        if let Some(index) = fleet.guests.find(row.session.owner, &row.session.id) {
            if let Some(guest) = fleet.guests.get_mut(index)
                && guest.renew_as(node, row, &allocations, round)
            {
                return;
            }
            self.remove_guest(index);
        }
        self.insert_guest(node, row, allocations, round);
    }

    fn insert_guest(
        &mut self,
        node: NodeIndex,
        row: &SessionRow,
        allocations: Vec<Allocation>,
        round: bool,
    ) {
        let Some(fleet) = &mut self.fleet else { return };
        if fleet.guests_live >= GUESTS_MAX {
            return;
        }
        let phase = Phase::Ended { at: row.end };
        let mut guest = Session::new(&row.session, row.user, row.opened, phase);
        (guest.term, guest.base, guest.node) = (row.term, row.base, Some(node));
        guest.allocations = allocations;
        guest.listed.set_round(round);
        let keys = guest.keys_held();
        let Some(index) = fleet.guests.insert(guest) else { return };
        fleet.nodes[usize::from(node.0)].sessions += 1;
        if !row.ended {
            fleet.nodes[usize::from(node.0)].sessions_live += 1;
            fleet.guests_live += 1;
            fleet.look_at(index, row.end);
        }
        self.count_holders(&keys, |holders| holders.saturating_add(1));
    }

    /// Forgets a session of another node.
    pub(crate) fn remove_guest(&mut self, index: SessionIndex) {
        let Some(fleet) = &mut self.fleet else { return };
        let Some(guest) = fleet.guests.get(index) else { return };
        let (node, phase, keys) = (guest.node, guest.phase, guest.keys_held());
        let is_live = matches!(phase, Phase::Live { .. });
        if let Some(node) = node {
            let node = &mut fleet.nodes[usize::from(node.0)];
            node.sessions -= 1;
            node.sessions_live -= usize::from(is_live);
        }
        if let Phase::Live { due, .. } = phase {
            fleet.guests_live -= 1;
            if let Some(second) = due.second() {
                fleet.deadlines.remove(&mut fleet.guests, index, second);
            }
        }
        fleet.guests.remove(index);
        self.count_holders(&keys, |holders| holders.saturating_sub(1));
    }

    fn count_holders(&mut self, keys: &[KeyIndex], change: impl Fn(u32) -> u32) {
        for index in keys {
            let key = &mut self.keys[index.0 as usize];
            let Elsewhere { holders, .. } = &mut **key.elsewhere.get_or_insert_default();
            *holders = change(*holders);
            self.refresh(*index);
        }
    }

    /// What a session of another node holds or gave back, of keys that are
    /// known here.
    fn known_allocations(&mut self, row: &SessionRow) -> Vec<Allocation> {
        // Sessions that became one hold what both held.
        let allocations_max = self.rules.session_allocations_max.saturating_mul(8);
        let mut allocations: Vec<Allocation> = Vec::new();
        for one in row.allocations.iter().take(allocations_max) {
            let Some((key, _)) = self.key(one.key) else { continue };
            let Some(pool) = self.pool_elsewhere(&one.model) else { continue };
            let held = one.held && !row.ended;
            allocations.push(Allocation { key, pool, held, usage: one.usage });
        }
        allocations
    }

    /// The pool of a model that another node speaks of: one that is known here,
    /// or one of few that are made for it.
    fn pool_elsewhere(&mut self, model: &ModelName) -> Option<PoolIndex> {
        if let Some(index) = self.pool_index.get(model) {
            return Some(*index);
        }
        let fleet = self.fleet.as_mut()?;
        fleet.pools_made = fleet.pools_made.checked_add(1).filter(|made| *made <= POOLS_MAX)?;
        Some(self.pool_place(model))
    }

    /// Forgets guests whose deadline has passed: their node is away, or about to
    /// say so.
    pub(crate) fn advance_guests(&mut self) {
        while let Some(fleet) = &mut self.fleet
            && let Some((second, index)) = fleet.deadlines.due(self.now)
        {
            let guest = fleet.guests.get(index);
            match guest.and_then(|guest| guest.live_until(self.now)) {
                None => self.remove_guest(index),
                Some(deadline) => fleet.look_later(index, second, deadline),
            }
        }
    }

    pub(super) fn forget_unsaid_guests(
        &mut self,
        node: NodeIndex,
        place: usize,
        rows_max: usize,
    ) -> Option<usize> {
        let fleet = self.fleet.as_ref()?;
        let round = fleet.nodes[usize::from(node.0)].round;
        let rows = fleet.guests.iter_from(place).take(rows_max);
        let (mut next, mut gone) = (None, Vec::new());
        for (place, guest) in rows {
            next = Some(place + 1);
            if guest.node == Some(node) && guest.listed.round() != round {
                gone.extend(fleet.guests.find(guest.owner, &guest.id));
            }
        }
        gone.into_iter().for_each(|index| self.remove_guest(index));
        next
    }
}

impl Fleet {
    pub(crate) fn guest(&self, name: &SessionRef) -> Option<(SessionIndex, &Session)> {
        let index = self.guests.find(name.owner, &name.id)?;
        Some((index, self.guests.get(index)?))
    }

    pub(super) fn claim(&self, guest: &Session) -> Claim<'_> {
        (guest.term, guest.node.map_or("", |node| &*self.nodes[usize::from(node.0)].name))
    }

    /// Where a session of another node lives, or one of this node came from.
    pub(crate) fn home_of(&self, session: &Session) -> Option<Arc<str>> {
        session.node.map(|node| Arc::clone(&self.nodes[usize::from(node.0)].name))
    }

    fn look_later(&mut self, index: SessionIndex, second: std::num::NonZeroU64, deadline: Time) {
        self.deadlines.remove(&mut self.guests, index, second);
        self.look_at(index, deadline);
    }

    fn look_at(&mut self, index: SessionIndex, deadline: Time) {
        let due = self.deadlines.push(&mut self.guests, index, deadline);
        if let Some(guest) = self.guests.get_mut(index) {
            guest.phase = Phase::Live { deadline, due };
        }
    }
}

/// Whether a row says more than what happened to the session here.
fn says_more(row: &SessionRow, claim: Claim<'_>, own: &Session, own_claim: Claim<'_>) -> bool {
    match own.phase {
        Phase::Live { .. } => claim > own_claim && (!row.ended || row.end >= own.opened),
        // Where it came from, they may not know of its end yet.
        Phase::Ended { at } => row.ended || own.base == 0 || claim > own_claim || row.opened > at,
    }
}

impl Session {
    /// The keys it holds, each once.
    fn keys_held(&self) -> Vec<KeyIndex> {
        let held = self.allocations.iter().filter(|allocation| allocation.held);
        let mut keys: Vec<KeyIndex> = held.map(|allocation| allocation.key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Takes in a row that changes neither where the session lives nor what it
    /// holds; false when it does.
    fn renew_as(
        &mut self,
        node: NodeIndex,
        row: &SessionRow,
        allocations: &[Allocation],
        round: bool,
    ) -> bool {
        let holds_the_same = self.allocations.len() == allocations.len()
            && self
                .allocations
                .iter()
                .zip(allocations)
                .all(|(one, other)| one.names(other) && one.held == other.held);
        let Phase::Live { deadline, .. } = &mut self.phase else { return false };
        if self.node != Some(node) || row.ended || row.end < *deadline || !holds_the_same {
            return false;
        }
        *deadline = row.end;
        (self.user, self.opened, self.term, self.base) = (row.user, row.opened, row.term, row.base);
        self.allocations.clone_from_slice(allocations);
        self.listed.set_round(round);
        true
    }
}
