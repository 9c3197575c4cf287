use std::collections::BTreeMap;
use std::num::NonZeroU64;

use crate::session::SessionIndex;
use crate::time::Time;

/// Links of one session within one list of a chain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Links {
    previous: Option<SessionIndex>,
    next: Option<SessionIndex>,
}

/// A session is in at most one list of each chain.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chain {
    /// By what is due next: a deadline, an expiry, being forgotten.
    Due,
    /// By user.
    User,
}

/// Something that keeps the links of sessions.
pub(crate) trait Linked {
    fn links(&mut self, session: SessionIndex, chain: Chain) -> &mut Links;

    fn next(&self, session: SessionIndex, chain: Chain) -> Option<SessionIndex>;
}

impl Links {
    pub(crate) fn next(&self) -> Option<SessionIndex> {
        self.next
    }
}

/// A list of sessions threaded through their own links: O(1) to add and to
/// take out, and no memory of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    chain: Chain,
    first: Option<SessionIndex>,
    last: Option<SessionIndex>,
}

impl List {
    pub(crate) const fn new(chain: Chain) -> Self {
        Self { chain, first: None, last: None }
    }

    pub(crate) fn first(&self) -> Option<SessionIndex> {
        self.first
    }

    pub(crate) fn iter(&self, sessions: &impl Linked) -> impl Iterator<Item = SessionIndex> {
        let chain = self.chain;
        std::iter::successors(self.first, move |session| sessions.next(*session, chain))
    }

    pub(crate) fn push(&mut self, sessions: &mut impl Linked, session: SessionIndex) {
        *sessions.links(session, self.chain) = Links { previous: self.last, next: None };
        match self.last {
            Some(last) => sessions.links(last, self.chain).next = Some(session),
            None => self.first = Some(session),
        }
        self.last = Some(session);
    }

    pub(crate) fn remove(&mut self, sessions: &mut impl Linked, session: SessionIndex) {
        let Links { previous, next } = std::mem::take(sessions.links(session, self.chain));
        match previous {
            Some(previous) => sessions.links(previous, self.chain).next = next,
            None => self.first = next,
        }
        match next {
            Some(next) => sessions.links(next, self.chain).previous = previous,
            None => self.last = previous,
        }
    }
}

/// The second that a session is kept under, or none. It takes seven bytes, so
/// that a session's phase takes sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due([u8; 7]);

impl Due {
    /// Kept under no second.
    pub(crate) const NONE: Self = Self([0; 7]);

    /// No second of the timeline needs the eighth byte: instants are
    /// milliseconds in eight.
    fn at(second: NonZeroU64) -> Self {
        let [_, bytes @ ..] = second.get().to_be_bytes();
        Self(bytes)
    }

    pub(crate) fn second(self) -> Option<NonZeroU64> {
        let mut bytes = [0; 8];
        bytes[1..].copy_from_slice(&self.0);
        NonZeroU64::new(u64::from_be_bytes(bytes))
    }
}

/// Live sessions by the second in which somebody has to look at them.
///
/// A renewal does not move a session: it is looked at when its old second
/// comes, and moved then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadlines {
    seconds: BTreeMap<NonZeroU64, List>,
}

impl Deadlines {
    /// Adds a session and returns the second it is kept under.
    pub(crate) fn push(
        &mut self,
        sessions: &mut impl Linked,
        session: SessionIndex,
        deadline: Time,
    ) -> Due {
        let second = second_of(deadline);
        self.seconds.entry(second).or_insert(List::new(Chain::Due)).push(sessions, session);
        Due::at(second)
    }

    /// Takes a session out from under `second`.
    pub(crate) fn remove(
        &mut self,
        sessions: &mut impl Linked,
        session: SessionIndex,
        second: NonZeroU64,
    ) {
        let Some(list) = self.seconds.get_mut(&second) else { return };
        list.remove(sessions, session);
        if list.first().is_none() {
            self.seconds.remove(&second);
        }
    }

    /// A session that somebody has to look at by now, and its second.
    pub(crate) fn due(&self, now: Time) -> Option<(NonZeroU64, SessionIndex)> {
        let (second, list) = self.seconds.first_key_value()?;
        let due_ms = second.get().saturating_mul(1_000);
        (due_ms <= now.as_ms()).then_some((*second, list.first()?))
    }
}

/// The first full second at or after `deadline`.
pub(crate) fn second_of(deadline: Time) -> NonZeroU64 {
    NonZeroU64::new(deadline.as_ms().div_ceil(1_000)).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::SessionRef;
    use crate::session::{Phase, Session, Sessions};

    /// So many sessions, none of them in a list.
    fn sessions(count: usize) -> (Sessions, Vec<SessionIndex>) {
        let mut sessions = Sessions::default();
        let new = |place: usize| {
            let name = SessionRef { owner: 0, id: Arc::from(place.to_string()) };
            let at = Time::default();
            sessions.insert(Session::new(&name, 0, at, Phase::Ended { at })).unwrap()
        };
        let indices = (0..count).map(new).collect();
        (sessions, indices)
    }

    fn members(list: &List, sessions: &Sessions, all: &[SessionIndex]) -> Vec<usize> {
        let place = |index| all.iter().position(|other| *other == index).unwrap();
        list.iter(sessions).map(place).collect()
    }

    #[test]
    fn members_keep_their_order_whichever_leaves() {
        for (leaves, left) in [
            (&[][..], &[0, 1, 2, 3][..]),
            (&[0], &[1, 2, 3]),
            (&[3], &[0, 1, 2]),
            (&[1, 2], &[0, 3]),
            (&[2, 1], &[0, 3]),
            (&[0, 3], &[1, 2]),
            (&[3, 2, 1, 0], &[]),
        ] {
            let (mut sessions, all) = sessions(4);
            let mut list = List::new(Chain::Due);
            all.iter().for_each(|index| list.push(&mut sessions, *index));
            leaves.iter().for_each(|place| list.remove(&mut sessions, all[*place]));
            assert_eq!(members(&list, &sessions, &all), left, "without {leaves:?}");
            let again = leaves.first().copied();
            again.iter().for_each(|place| list.push(&mut sessions, all[*place]));
            let expected: Vec<usize> = left.iter().copied().chain(again).collect();
            assert_eq!(members(&list, &sessions, &all), expected, "{again:?} comes again");
        }
    }

    #[test]
    fn a_session_is_in_a_list_of_each_chain_at_once() {
        let (mut sessions, all) = sessions(3);
        let (mut due, mut user) = (List::new(Chain::Due), List::new(Chain::User));
        for place in [0, 1, 2] {
            due.push(&mut sessions, all[place]);
            user.push(&mut sessions, all[2 - place]);
        }
        due.remove(&mut sessions, all[1]);
        assert_eq!(members(&due, &sessions, &all), [0, 2]);
        assert_eq!(members(&user, &sessions, &all), [2, 1, 0]);
    }

    #[test]
    fn the_second_of_every_instant_is_kept() {
        assert_eq!(Due::NONE.second(), None);
        for deadline_ms in [0, 1, 1_000, 1_001, 1 << 40, u64::MAX - 1, u64::MAX] {
            let second = second_of(Time::from_ms(deadline_ms));
            assert_eq!(Due::at(second).second(), Some(second), "{deadline_ms}");
        }
    }

    #[test]
    fn sessions_are_due_by_full_seconds_the_soonest_first() {
        let (mut sessions, all) = sessions(4);
        let mut deadlines = Deadlines::default();
        for (place, deadline_ms) in [(0, 2_001), (1, 0), (2, 2_000), (3, u64::MAX)] {
            deadlines.push(&mut sessions, all[place], Time::from_ms(deadline_ms));
        }
        for (now_ms, due) in [
            (999, None),
            (1_000, Some(1)),
            (1_999, None),
            (2_000, Some(2)),
            (2_999, None),
            (3_000, Some(0)),
            (u64::MAX - 1, None),
            (u64::MAX, Some(3)),
        ] {
            let found = deadlines.due(Time::from_ms(now_ms));
            assert_eq!(found.map(|(_, index)| index), due.map(|place: usize| all[place]));
            if let Some((second, index)) = found {
                deadlines.remove(&mut sessions, index, second);
            }
        }
        assert!(deadlines.seconds.is_empty(), "a second without sessions takes no room");
    }
}
