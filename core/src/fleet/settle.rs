use std::convert::Infallible;
use std::time::Duration;

use super::Fleet;
use crate::event::{
    Event, MovedAllocation, SessionExpired, SessionMovedIn, SessionMovedOut, SessionRef,
};
use crate::id::{KeyId, ModelName};
use crate::session::{Allocation, Session};
use crate::state::{Decide, Decision, State};
use crate::time::Time;

/// How often a session is taken back for keys that another node does not name.
/// It may not know them, and would take the session back for its own.
const TAKEN_BACK_MAX: u8 = 4;

/// How far apart two nodes may have one instant.
const TIMELINES_APART_MAX: Duration = Duration::from_secs(1);

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
        let events = self.sessions.iter().flat_map(|name| self.settle(state, now, name));
        let events: Vec<Event> = events.collect();
        Ok(Decision { reply: events.len(), events })
    }
}

impl Settle {
    fn settle(&self, state: &State, now: Time, name: &SessionRef) -> Vec<Event> {
        let Some((fleet, guest)) = state.guest_of(name) else { return Vec::new() };
        let own = state.session(name);
        let live = own.filter(|own| own.is_live());
        if live.is_some_and(|live| !fleet.is_displaced(live, guest)) {
            return Vec::new();
        }
        let is_wanted = self.wanted && guest.live_until(now).is_some();
        let used = live.filter(|own| goes_on(now, own, guest));
        let used = used.filter(|own| is_wanted || is_used_since(own, guest));
        let gone = live.filter(|_| used.is_none());
        let gone = gone.and_then(|own| fleet.end_here(now, own, guest));
        let comes = used.is_some() || is_wanted;
        let term = own.map_or(0, |own| own.term);
        let came = comes.then(|| move_in(state, (now, term), used, guest));
        gone.into_iter().chain(came).collect()
    }
}

/// Whether a session that lives here and there is one: it goes on until now,
/// and its time was not over here when it was opened there.
fn goes_on(now: Time, own: &Session, guest: &Session) -> bool {
    let is_live = own.live_until(now).is_some() || guest.live_until(now).is_some();
    is_live && !is_over(now, own, guest)
}

fn is_over(now: Time, own: &Session, guest: &Session) -> bool {
    own.live_until(now.min(guest.opened)).is_none()
}

/// Whether keys were drawn here since the other node took the session: they
/// are not known there, and would be lost. The other node may have taken it
/// from a third one, where its term was larger than it is here.
fn is_used_since(own: &Session, guest: &Session) -> bool {
    let mut held = own.allocations.iter().filter(|allocation| allocation.held);
    let may_take = own.listed.taken_back() < TAKEN_BACK_MAX;
    // What was given back in an earlier period of use says nothing of this one.
    let is_one_period = guest.opened.after(TIMELINES_APART_MAX) >= own.opened;
    let is_known = |one: &Allocation| guest.mentions(one, is_one_period);
    own.term > guest.base || (may_take && held.any(|one| !is_known(one)))
}

/// The session lives here from now on, with what it holds there and here, in a
/// term above all that it had.
fn move_in(
    state: &State,
    (now, term): (Time, u32),
    own: Option<&Session>,
    guest: &Session,
) -> Event {
    let (end, ended) = guest.end();
    let own_end = own.map_or(Time::default(), |own| own.end().0);
    // No deadline is later than one that is renewed now.
    let end = end.min(now.after(state.rules.session_ttl));
    let known = state.session(&guest.name());
    let allocations = guest.allocations.iter().filter(|one| one.held);
    let allocations = allocations.filter_map(|there| {
        let here = known.and_then(|known| known.allocation(there.key, there.pool));
        // What was spent before it last moved is in both.
        let usage = here.map_or(there.usage, |here| there.usage.larger(&here.usage));
        let is_known = own.is_some() && here.is_some_and(|here| here.held && here.usage == usage);
        let (model, key) = name(state, there);
        (!is_known).then_some(MovedAllocation { model, key, usage })
    });
    Event::SessionMovedIn(SessionMovedIn {
        session: guest.name(),
        user: own.unwrap_or(guest).user,
        opened: own.map_or(guest.opened, |own| own.opened.min(guest.opened)),
        deadline: if ended { own_end } else { end.max(own_end) },
        from: state.fleet.as_ref().and_then(|fleet| fleet.home_of(guest)).unwrap_or_default(),
        term: term.max(guest.term).saturating_add(1),
        base: guest.term,
        allocations: allocations.collect(),
    })
}

fn expired(session: &Session) -> Event {
    Event::SessionExpired(SessionExpired { session: session.name() })
}

impl Fleet {
    /// Whether another node is right to say that a session lives there, or was
    /// ended there.
    pub(super) fn is_displaced(&self, own: &Session, guest: &Session) -> bool {
        self.claim(guest) > (own.term, &*self.own)
    }

    /// What ends a session here that is displaced.
    fn end_here(&self, now: Time, own: &Session, guest: &Session) -> Option<Event> {
        if is_over(now, own, guest) || is_used_since(own, guest) {
            return Some(expired(own));
        }
        let (session, to) = (own.name(), self.home_of(guest)?);
        Some(Event::SessionMovedOut(SessionMovedOut { session, to, term: guest.term }))
    }
}

impl Session {
    /// Whether the allocation is held, or was given back, if that counts.
    fn mentions(&self, allocation: &Allocation, given_back: bool) -> bool {
        self.allocations.iter().any(|one| one.names(allocation) && (one.held || given_back))
    }
}

fn name(state: &State, allocation: &Allocation) -> (ModelName, KeyId) {
    (state.model_of(allocation.pool), state.keys[allocation.key.0 as usize].id())
}

impl State {
    /// Whether another node says that the session lives there.
    pub fn is_elsewhere(&self, session: &SessionRef) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.guest(session).is_some())
    }

    /// Whether another node says that the session lives there, and it does.
    pub(crate) fn lives_elsewhere(&self, session: &SessionRef) -> bool {
        let guest = self.fleet.as_ref().and_then(|fleet| fleet.guest(session));
        guest.is_some_and(|(_, guest)| guest.is_live())
    }

    /// Sessions that live here and at another node in a larger term, since the
    /// last look; to be settled.
    pub fn take_displaced(&mut self) -> Vec<SessionRef> {
        let displaced = self.fleet.as_mut().map(|fleet| std::mem::take(&mut fleet.displaced));
        displaced.unwrap_or_default().into_iter().collect()
    }

    /// What becomes of a session that is overdue here: at another node, in a
    /// larger term, it may be in use.
    pub(crate) fn settle_overdue(&self, now: Time, session: &Session) -> Vec<Event> {
        let settle = Settle { sessions: vec![session.name()], wanted: false };
        let events = settle.settle(self, now, &settle.sessions[0]);
        if events.is_empty() { vec![expired(session)] } else { events }
    }

    fn guest_of(&self, session: &SessionRef) -> Option<(&Fleet, &Session)> {
        let fleet = self.fleet.as_ref()?;
        fleet.guest(session).map(|(_, guest)| (&**fleet, guest))
    }

    pub(crate) fn move_in(&mut self, at: Time, moved: &SessionMovedIn) {
        let index = match self.sessions.find(moved.session.owner, &moved.session.id) {
            Some(index) => index,
            None => self.insert_session(&moved.session, moved.user, at),
        };
        let is_back = self.sessions.get(index).is_some_and(Session::is_live);
        if !is_back {
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
        let came_from = self.node_place(&moved.from);
        if let Some(session) = self.sessions.get_mut(index) {
            (session.term, session.base) = (moved.term, moved.base);
            session.node = came_from;
            let times = if is_back { session.listed.taken_back() + 1 } else { 0 };
            session.listed.set_taken_back(times);
        }
        self.session_changed(index);
        self.forget_guest(&moved.session);
    }

    pub(crate) fn move_out(&mut self, at: Time, moved: &SessionMovedOut) {
        self.end_named(at, &moved.session);
        // It may have been forgotten at once.
        if let Some(index) = self.sessions.find(moved.session.owner, &moved.session.id)
            && let Some(session) = self.sessions.get_mut(index)
        {
            (session.term, session.base) = (moved.term, 0);
            self.session_changed(index);
        }
    }

    /// The session lives here now, whatever its old node still says.
    fn forget_guest(&mut self, session: &SessionRef) {
        let guest = self.fleet.as_ref().and_then(|fleet| fleet.guest(session));
        if let Some((index, _)) = guest {
            self.remove_guest(index);
        }
    }

    /// The end of the session elsewhere has had its effect, or none is needed.
    pub(crate) fn forget_ended_guest(&mut self, session: &SessionRef) {
        let guest = self.fleet.as_ref().and_then(|fleet| fleet.guest(session));
        if let Some((index, guest)) = guest
            && !guest.is_live()
        {
            self.remove_guest(index);
        }
    }
}
