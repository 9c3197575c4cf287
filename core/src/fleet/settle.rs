use std::collections::HashSet;
use std::convert::Infallible;

use super::Fleet;
use crate::event::{Event, MovedAllocation, SessionMovedIn, SessionMovedOut, SessionRef};
use crate::id::{KeyId, ModelName};
use crate::session::{Allocation, Session};
use crate::state::{Decide, Decision, State};
use crate::time::Time;

/// Decide where sessions live that other nodes speak of, too.
#[derive(Clone, Debug)]
pub struct Settle {
    /// Which.
    pub sessions: Vec<SessionRef>,
    /// Whether a call names them here just now: then they come here.
    pub wanted: bool,
}

impl Decide for Settle {
    /// How many moved.
    type Reply = usize;
    type Refusal = Infallible;

    fn decide(&self, state: &State, now: Time, _seed: u64) -> Result<Decision<usize>, Infallible> {
        let now = state.not_before(now);
        let events = self.sessions.iter().filter_map(|name| self.settle(state, now, name));
        let events: Vec<Event> = events.collect();
        Ok(Decision { reply: events.len(), events })
    }
}

impl Settle {
    fn settle(&self, state: &State, now: Time, name: &SessionRef) -> Option<Event> {
        let fleet = state.fleet.as_ref()?;
        let (_, guest) = fleet.guest(name)?;
        let is_there = guest.live_until(now).is_some();
        let Some(own) = state.session(name).filter(|own| own.live_until(now).is_some()) else {
            let comes = self.wanted && is_there;
            return comes.then(|| move_in(state, fleet, None, guest));
        };
        if fleet.claim(guest) <= (own.term, &*fleet.own) {
            return None;
        }
        // What was drawn here since the other node took the session is not
        // known there, and would be lost.
        let is_used_here = own.term > guest.base || (self.wanted && is_there);
        Some(if is_used_here {
            move_in(state, fleet, Some(own), guest)
        } else {
            let (to, term) = (fleet.home_of(guest)?, guest.term);
            Event::SessionMovedOut(SessionMovedOut { session: name.clone(), to, term })
        })
    }
}

/// The session lives here from now on, with what it holds there and here.
fn move_in(state: &State, fleet: &Fleet, own: Option<&Session>, guest: &Session) -> Event {
    let (end, ended) = guest.end();
    let own_end = own.map_or(Time::default(), |own| own.end().0);
    let held_here: HashSet<(ModelName, KeyId)> =
        own.into_iter().flat_map(|own| held(state, own)).collect();
    let allocations = guest.allocations.iter().filter(|one| one.held);
    let allocations = allocations.map(|allocation| {
        let (model, key) = name(state, allocation);
        MovedAllocation { model, key, usage: allocation.usage }
    });
    let allocations = allocations.filter(|one| !held_here.contains(&(one.model.clone(), one.key)));
    let term = own.map_or(guest.term, |own| own.term.max(guest.term)).saturating_add(1);
    Event::SessionMovedIn(SessionMovedIn {
        session: guest.name(),
        user: own.unwrap_or(guest).user,
        opened: own.map_or(guest.opened, |own| own.opened.min(guest.opened)),
        deadline: if ended { own_end } else { end.max(own_end) },
        from: fleet.home_of(guest).unwrap_or_default(),
        term,
        base: guest.term,
        allocations: allocations.collect(),
    })
}

fn held(state: &State, session: &Session) -> Vec<(ModelName, KeyId)> {
    let held = session.allocations.iter().filter(|allocation| allocation.held);
    held.map(|allocation| name(state, allocation)).collect()
}

fn name(state: &State, allocation: &Allocation) -> (ModelName, KeyId) {
    (state.model_of(allocation.pool), state.keys[allocation.key.0 as usize].id())
}

impl State {
    /// Whether another node says that the session lives there.
    pub fn is_elsewhere(&self, session: &SessionRef) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.guest(session).is_some())
    }

    /// Sessions that live here and at another node in a larger term, since the
    /// last look; to be settled.
    pub fn take_displaced(&mut self) -> Vec<SessionRef> {
        self.fleet.as_mut().map(|fleet| std::mem::take(&mut fleet.displaced)).unwrap_or_default()
    }

    pub(crate) fn move_in(&mut self, at: Time, moved: &SessionMovedIn) {
        let index = match self.sessions.find(moved.session.owner, &moved.session.id) {
            Some(index) => index,
            None => self.insert_session(&moved.session, moved.user, at),
        };
        if !self.sessions.get(index).is_some_and(Session::is_live) {
            self.open(index, moved.user, moved.opened, moved.deadline);
        }
        self.renew(index, moved.deadline);
        for allocation in &moved.allocations {
            let pool = self.pool_place(&allocation.model);
            let Some((key, _)) = self.key(allocation.key) else { continue };
            self.hold(index, key, pool);
            if let Some(session) = self.sessions.get_mut(index)
                && let Some(held) = session.allocation_mut(key, pool)
            {
                held.usage = allocation.usage;
            }
        }
        if let Some(session) = self.sessions.get_mut(index) {
            (session.term, session.base) = (moved.term, moved.base);
        }
        self.session_changed(index);
        self.forget_guest(&moved.session);
    }

    pub(crate) fn move_out(&mut self, at: Time, moved: &SessionMovedOut) {
        self.end_named(at, &moved.session);
        if let Some(index) = self.sessions.find(moved.session.owner, &moved.session.id)
            && let Some(session) = self.sessions.get_mut(index)
        {
            (session.term, session.base) = (moved.term, 0);
        }
        self.forget_ended_guest(&moved.session);
    }

    /// The session lives here now, whatever its old node still says.
    fn forget_guest(&mut self, session: &SessionRef) {
        let guest = self.fleet.as_ref().and_then(|fleet| fleet.guest(session));
        if let Some((index, _)) = guest {
            self.remove_guest(index);
        }
    }

    /// The end of the session elsewhere has had its effect.
    fn forget_ended_guest(&mut self, session: &SessionRef) {
        let guest = self.fleet.as_ref().and_then(|fleet| fleet.guest(session));
        if let Some((index, guest)) = guest
            && !guest.is_live()
        {
            self.remove_guest(index);
        }
    }
}
