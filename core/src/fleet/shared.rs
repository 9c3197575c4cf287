//! What other nodes have not been told of this one.

use std::sync::Arc;

use crate::changes::{Changes, KeyRow, Reader, SessionRow};
use crate::event::SessionRef;
use crate::id::KeyId;
use crate::key::{Key, KeyIndex};
use crate::receipts::oldest_hour;
use crate::session::{Phase, Session, SessionIndex};
use crate::state::State;
use crate::time::Time;

/// What changed here since the last look, for the other nodes. Absolute
/// values; without `usage` and `receipts`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedChanges {
    /// Keys and sessions of this node, as they are now.
    pub changes: Changes,
    /// What sessions that changed hold, or do not hold any more, of keys with
    /// a cap. While everything is told anew, also what sessions that ended do
    /// not hold any more: that may never have been told.
    pub holds: Vec<CappedHold>,
    /// Whether nothing is left: with these the other nodes know everything.
    pub is_all: bool,
}

/// A session's hold of a key that only so many sessions may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CappedHold {
    /// The key.
    pub key: KeyId,
    /// The session.
    pub session: SessionRef,
    /// Until when, unless renewed; none when it does not hold it any more.
    pub until: Option<Time>,
    /// The node that the session came from, if that is known.
    pub came_from: Option<Arc<str>>,
}

/// What changed, by place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unshared {
    keys: Vec<KeyIndex>,
    sessions: Vec<SessionIndex>,
    forgotten: Vec<SessionRef>,
    /// While everything is told anew: the places of the next key and session.
    rest: Option<(usize, usize)>,
}

impl Unshared {
    pub(crate) fn key(&mut self, index: KeyIndex) {
        self.keys.push(index);
    }

    pub(crate) fn session(&mut self, index: SessionIndex) {
        self.sessions.push(index);
    }

    pub(crate) fn forgotten(&mut self, session: SessionRef) {
        self.forgotten.push(session);
    }

    fn len(&self) -> usize {
        self.keys.len() + self.sessions.len() + self.forgotten.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0 && self.rest.is_none()
    }
}

impl State {
    /// How many entries wait for [`State::take_shared`], not counting what
    /// [`State::share_everything`] asked for.
    pub fn unshared_count(&self) -> usize {
        self.fleet.as_ref().map_or(0, |fleet| fleet.unshared.len())
    }

    /// Makes [`State::take_shared`] answer everything once more, a part at a
    /// time.
    pub fn share_everything(&mut self) {
        self.discard_unshared();
        if let Some(fleet) = &mut self.fleet {
            fleet.unshared.rest = Some((0, 0));
        }
    }

    /// Lets go of what was not shared; to be followed by
    /// [`State::share_everything`] sooner or later.
    pub fn discard_unshared(&mut self) {
        let Some(fleet) = &mut self.fleet else { return };
        let unshared = std::mem::take(&mut fleet.unshared);
        for index in unshared.keys {
            self.keys[index.0 as usize].listed.take(Reader::Fleet);
        }
        for index in unshared.sessions {
            if let Some(session) = self.sessions.get_mut(index) {
                session.listed.take(Reader::Fleet);
            }
        }
    }

    /// At most some `rows_max` of what other nodes have not been told; none
    /// when they know everything.
    pub fn take_shared(&mut self, rows_max: usize) -> Option<SharedChanges> {
        let fleet = self.fleet.as_mut()?;
        let unshared = &mut fleet.unshared;
        if unshared.is_empty() {
            return None;
        }
        let keys = take_some(&mut unshared.keys, rows_max);
        let sessions = take_some(&mut unshared.sessions, rows_max);
        // All of them: one of these sessions may have come again.
        let forgotten = std::mem::take(&mut unshared.forgotten);
        let mut changes = Changes { forgotten, ..Changes::default() };
        changes.oldest_receipt_hour = oldest_hour(self.now);
        changes.keys = keys.into_iter().map(|index| self.take_unshared_key(index)).collect();
        let sessions = sessions.into_iter();
        changes.sessions = sessions.filter_map(|index| self.take_unshared(index)).collect();
        let mut holds = self.take_rest(rows_max, &mut changes);
        holds.extend(changes.sessions.iter().flat_map(|row| self.capped_holds(row)));
        let is_all = self.fleet.as_ref().is_none_or(|fleet| fleet.unshared.is_empty());
        Some(SharedChanges { changes, holds, is_all })
    }

    fn take_unshared_key(&mut self, index: KeyIndex) -> KeyRow {
        self.keys[index.0 as usize].listed.take(Reader::Fleet);
        self.key_row(&self.keys[index.0 as usize])
    }

    /// None when the session is forgotten and its place used again.
    fn take_unshared(&mut self, index: SessionIndex) -> Option<SessionRow> {
        let is_listed = self.sessions.get_mut(index)?.listed.take(Reader::Fleet);
        is_listed.then(|| self.sessions.get(index).map(|one| self.session_row(one)))?
    }

    /// Goes on telling everything; answers what ended sessions, which have no
    /// row, do not hold any more.
    fn take_rest(&mut self, rows_max: usize, changes: &mut Changes) -> Vec<CappedHold> {
        let rest = self.fleet.as_ref().and_then(|fleet| fleet.unshared.rest);
        let Some((mut key, mut session)) = rest else { return Vec::new() };
        for one in self.keys.iter().skip(key).take(rows_max) {
            changes.keys.push(self.key_row(one));
            key += 1;
        }
        let (mut looked_at, mut ended) = (0, Vec::new());
        for (place, one) in self.sessions.iter_from(session).take(rows_max) {
            (session, looked_at) = (place + 1, looked_at + 1);
            if one.is_live() || one.base > 0 {
                changes.sessions.push(self.session_row(one));
            } else if self.may_be_held(one) {
                ended.extend(self.capped_holds(&self.session_row(one)));
            }
        }
        let is_all = key == self.keys.len() && looked_at < rows_max;
        if let Some(fleet) = &mut self.fleet {
            fleet.unshared.rest = (!is_all).then_some((key, session));
        }
        ended
    }

    /// Whether keys may still count as held by a session that ended: what is
    /// not given back goes away by itself with its deadline.
    fn may_be_held(&self, session: &Session) -> bool {
        let Phase::Ended { at } = session.phase else { return false };
        self.keys_capped > 0 && at.after(self.rules.session_ttl) > self.now
    }

    /// Those of a session that went on at another node are that node's.
    fn capped_holds(&self, row: &SessionRow) -> Vec<CappedHold> {
        if row.ended && self.lives_elsewhere(&row.session) {
            return Vec::new();
        }
        let allocations = row.allocations.iter();
        let capped = allocations.filter(|allocation| {
            let key = self.key(allocation.key);
            key.is_some_and(|(_, key)| key.holders_max(&self.rules).is_some())
        });
        let fleet = self.fleet.as_ref();
        let came_from = self.session(&row.session).and_then(|own| fleet?.home_of(own));
        let mut holds: Vec<CappedHold> = Vec::new();
        for allocation in capped {
            let until = (allocation.held && !row.ended).then_some(row.end);
            match holds.iter_mut().find(|hold| hold.key == allocation.key) {
                // Held for any model is held.
                Some(hold) => hold.until = hold.until.max(until),
                None => holds.push(CappedHold {
                    key: allocation.key,
                    session: row.session.clone(),
                    until,
                    came_from: came_from.clone(),
                }),
            }
        }
        holds
    }
}

impl Key {
    /// Whether a key that is served has a cap.
    pub(crate) fn is_capped(&self, rules: &crate::rules::Rules) -> bool {
        !self.retired && self.holders_max(rules).is_some()
    }
}

/// At most `max` entries; the others stay.
fn take_some<T>(list: &mut Vec<T>, max: usize) -> Vec<T> {
    list.split_off(list.len().saturating_sub(max))
}
