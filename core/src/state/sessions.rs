//! Sessions, what they hold, and when they end.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::State;
use crate::deadlines::{Chain, Due, List, second_of};
use crate::event::{KeysReleased, KeysSelected, Pick, SessionRef};
use crate::key::KeyIndex;
use crate::pool::PoolIndex;
use crate::rules::ALLOCATIONS_PER_SESSION;
use crate::session::{Phase, Session, SessionIndex, Sessions};
use crate::time::Time;

impl State {
    pub(super) fn select(&mut self, at: Time, selected: &KeysSelected) {
        let index = match self.sessions.find(selected.session.owner, &selected.session.id) {
            Some(index) => index,
            None => self.insert_session(&selected.session, selected.user, at),
        };
        let is_live = self.sessions.get(index).is_some_and(Session::is_live);
        if selected.opened || !is_live {
            self.open(index, selected.user, at, selected.deadline);
        } else {
            self.renew(index, selected.deadline);
        }
        self.make_room(index, &selected.picks);
        if let Some(session) = self.sessions.get_mut(index)
            && (selected.opened || selected.picks.iter().any(|pick| !pick.already_held))
        {
            session.next_term(selected.opened.then_some(at));
        }
        for pick in &selected.picks {
            let pool = self.pool_place(&pick.model);
            if let Some((key, _)) = self.key(pick.key) {
                self.hold(index, key, pool);
                self.keys[key.0 as usize].last_used = Some(at);
                self.key_changed(key);
            }
        }
        self.session_changed(index);
    }

    /// Adds a session as ended; [`State::open`] makes it live.
    pub(crate) fn insert_session(
        &mut self,
        name: &SessionRef,
        user: i32,
        at: Time,
    ) -> SessionIndex {
        let session = Session::new(name, user, at, Phase::Ended { at });
        let index = self
            .sessions
            .insert(session)
            .expect("`State::select` looked for it and did not find it");
        self.join_ended(index);
        self.user_list(user).push(index);
        index
    }

    /// Adds a session as it was; none when it is there already.
    pub(crate) fn restore_session(&mut self, session: Session) -> Option<SessionIndex> {
        let (user, phase) = (session.user, session.phase);
        let index = self.sessions.insert(session)?;
        self.user_list(user).push(index);
        match phase {
            Phase::Ended { .. } => {
                self.join_ended(index);
            }
            Phase::Live { deadline, .. } => {
                let due = self.deadlines.push(&mut self.sessions, index, deadline);
                self.count_live(index);
                if let Some(session) = self.sessions.get_mut(index) {
                    session.phase = Phase::Live { deadline, due };
                }
            }
        }
        Some(index)
    }

    /// Begins a period of use, in which nothing is held yet.
    pub(crate) fn open(&mut self, index: SessionIndex, user: i32, at: Time, deadline: Time) {
        self.give_back_all(index);
        self.leave_phase(index);
        self.user_list_of(index).remove(index);
        self.user_list(user).push(index);
        let due = self.deadlines.push(&mut self.sessions, index, deadline);
        self.count_live(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.user = user;
        session.opened = at;
        session.phase = Phase::Live { deadline, due };
    }

    pub(crate) fn renew(&mut self, index: SessionIndex, later: Time) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Phase::Live { deadline, due } = &mut session.phase else { return };
        *deadline = later;
        let is_in_time = due.second().is_some_and(|second| second <= second_of(later));
        if !is_in_time {
            self.look_at(index, later);
        }
    }

    /// Moves a live session that would be looked at too late, or was found
    /// overdue before it was renewed.
    pub(super) fn look_at(&mut self, index: SessionIndex, deadline: Time) {
        self.leave_phase(index);
        let due = self.deadlines.push(&mut self.sessions, index, deadline);
        self.count_live(index);
        if let Some(session) = self.sessions.get_mut(index) {
            session.phase = Phase::Live { deadline, due };
        }
    }

    /// Takes the session out of the list that its phase keeps it in.
    pub(super) fn leave_phase(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get(index) else { return };
        match session.phase {
            Phase::Live { due, .. } => {
                self.sessions_live -= 1;
                self.allocations_live -= session.allocations.len();
                if let Entry::Occupied(mut live) = self.live_by_owner.entry(session.owner) {
                    *live.get_mut() -= 1;
                    if *live.get() == 0 {
                        live.remove();
                    }
                }
                match due.second() {
                    Some(second) => self.deadlines.remove(&mut self.sessions, index, second),
                    None => self.overdue.remove(&mut self.sessions, index),
                }
            }
            Phase::Ended { .. } => {
                self.sessions_ended -= 1;
                self.allocations_ended -= session.allocations.len();
                self.ended.remove(&mut self.sessions, index);
            }
        }
    }

    fn join_ended(&mut self, index: SessionIndex) {
        self.ended.push(&mut self.sessions, index);
        self.sessions_ended += 1;
        if let Some(session) = self.sessions.get(index) {
            self.allocations_ended += session.allocations.len();
        }
    }

    fn count_live(&mut self, index: SessionIndex) {
        self.sessions_live += 1;
        if let Some(session) = self.sessions.get(index) {
            self.allocations_live += session.allocations.len();
            *self.live_by_owner.entry(session.owner).or_default() += 1;
        }
    }

    /// Live sessions of one owner at this node.
    pub(crate) fn live_of(&self, owner: u32) -> u32 {
        self.live_by_owner.get(&owner).copied().unwrap_or(0)
    }

    /// Takes the memory that new allocations need, and no more.
    pub(super) fn make_room(&mut self, index: SessionIndex, picks: &[Pick]) {
        let drawn = picks.iter().filter(|pick| !pick.already_held).count();
        if let Some(session) = self.sessions.get_mut(index) {
            session.allocations.reserve_exact(drawn);
        }
    }

    pub(crate) fn hold(&mut self, index: SessionIndex, key: KeyIndex, pool: PoolIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let is_new_holder = !session.holds(key);
        let known = session.allocations.len();
        session.hold(key, pool, self.rules.session_allocations_max);
        let count = match session.phase {
            Phase::Live { .. } => &mut self.allocations_live,
            Phase::Ended { .. } => &mut self.allocations_ended,
        };
        *count = *count + session.allocations.len() - known;
        if is_new_holder {
            self.keys[key.0 as usize].holders += 1;
            self.refresh(key);
        }
    }

    pub(super) fn give_back(&mut self, index: SessionIndex, key: KeyIndex, pool: PoolIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(allocation) = session.allocation_mut(key, pool) else { return };
        if !std::mem::take(&mut allocation.held) || session.holds(key) {
            return;
        }
        self.keys[key.0 as usize].holders -= 1;
        self.refresh(key);
    }

    pub(super) fn give_back_all(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let allocations = session.allocations.iter_mut();
        let held = allocations.filter_map(|one| std::mem::take(&mut one.held).then_some(one.key));
        let mut keys: Vec<KeyIndex> = held.collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            self.keys[key.0 as usize].holders -= 1;
            self.refresh(key);
        }
    }

    pub(super) fn release(&mut self, at: Time, released: &KeysReleased) {
        let name = &released.session;
        let Some(deadline) = released.deadline else { return self.end_named(at, name) };
        let Some(index) = self.sessions.find(name.owner, &name.id) else { return };
        for (model, key) in &released.allocations {
            let pool = self.pool_place(model);
            if let Some((key, _)) = self.key(*key) {
                self.give_back(index, key, pool);
            }
        }
        self.renew(index, deadline);
        self.session_changed(index);
    }

    pub(crate) fn end_named(&mut self, at: Time, name: &SessionRef) {
        if let Some(index) = self.sessions.find(name.owner, &name.id) {
            self.end(index, at);
        }
        self.forget_ended_guest(name);
    }

    /// Ends a live session; one that has ended stays as it is.
    pub(super) fn end(&mut self, index: SessionIndex, at: Time) {
        if !self.sessions.get(index).is_some_and(Session::is_live) {
            return;
        }
        self.give_back_all(index);
        self.leave_phase(index);
        self.join_ended(index);
        if let Some(session) = self.sessions.get_mut(index) {
            session.phase = Phase::Ended { at };
        }
        self.session_changed(index);
        self.forget_ended();
    }

    pub(crate) fn advance_deadlines(&mut self) {
        while let Some((second, index)) = self.deadlines.due(self.now) {
            self.deadlines.remove(&mut self.sessions, index, second);
            let due = self.keep_or_expire(index);
            if let Some(session) = self.sessions.get_mut(index)
                && let Phase::Live { due: kept, .. } = &mut session.phase
            {
                *kept = due;
            }
        }
    }

    /// Puts a session whose second came back under its deadline, if it was
    /// renewed, or among the overdue ones.
    pub(super) fn keep_or_expire(&mut self, index: SessionIndex) -> Due {
        let renewed = self.sessions.get(index).and_then(|session| session.live_until(self.now));
        match renewed {
            Some(deadline) => self.deadlines.push(&mut self.sessions, index, deadline),
            None => {
                self.overdue.push(&mut self.sessions, index);
                Due::NONE
            }
        }
    }

    pub(super) fn forget_ended(&mut self) {
        while let Some(index) = self.ended.first() {
            let Some(session) = self.sessions.get(index) else { return };
            let Phase::Ended { at } = session.phase else { return };
            let is_recent = at.after(self.rules.ended_session_ttl) > self.now;
            let sessions_max = self.rules.ended_sessions_max;
            let allocations_max = sessions_max.saturating_mul(ALLOCATIONS_PER_SESSION);
            let has_room =
                self.sessions_ended <= sessions_max && self.allocations_ended <= allocations_max;
            if is_recent && has_room {
                return;
            }
            self.leave_phase(index);
            self.user_list_of(index).remove(index);
            if let Some(session) = self.sessions.remove(index) {
                if let Some(fleet) = &mut self.fleet {
                    fleet.unshared.forgotten(session.name());
                }
                self.journal.forgotten.push(session.name());
            }
        }
    }

    /// Puts the ended sessions in the order they ended in. Those of the same
    /// instant stay as they are.
    pub(crate) fn order_ended(&mut self) {
        let ended = self.ended.iter(&self.sessions);
        let mut ended: Vec<_> =
            ended.filter_map(|index| Some((self.ended_at(index)?, index))).collect();
        ended.sort_by_key(|(at, _)| *at);
        self.ended = List::new(Chain::Due);
        for (_, index) in ended {
            self.ended.push(&mut self.sessions, index);
        }
    }

    pub(super) fn ended_at(&self, index: SessionIndex) -> Option<Time> {
        match self.sessions.get(index)?.phase {
            Phase::Ended { at } => Some(at),
            Phase::Live { .. } => None,
        }
    }

    fn user_list(&mut self, user: i32) -> UserList<'_> {
        UserList { user, by_user: &mut self.by_user, sessions: &mut self.sessions }
    }

    fn user_list_of(&mut self, index: SessionIndex) -> UserList<'_> {
        let user = self.sessions.get(index).map_or(0, |session| session.user);
        self.user_list(user)
    }
}

/// The sessions of one user; users without any take no room.
struct UserList<'state> {
    user: i32,
    by_user: &'state mut HashMap<i32, List>,
    sessions: &'state mut Sessions,
}

impl UserList<'_> {
    fn push(self, index: SessionIndex) {
        let list = self.by_user.entry(self.user).or_insert(List::new(Chain::User));
        list.push(self.sessions, index);
    }

    fn remove(self, index: SessionIndex) {
        let Some(list) = self.by_user.get_mut(&self.user) else { return };
        list.remove(self.sessions, index);
        if list.first().is_none() {
            self.by_user.remove(&self.user);
        }
    }
}
