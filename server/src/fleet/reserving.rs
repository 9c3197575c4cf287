//! Keeps reservations and give-backs of one session apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use key_server_core::{CappedHold, SessionRef};
use tokio::sync::Notify;

/// Sessions whose reservations are under way, and those whose give-backs are.
///
/// A session that was released may be selected again before the others were
/// told: then the give-back, decided before, reaches the shared store after the
/// reservation. So a reservation waits while a give-back of its session is on
/// its way; and what is given back of a session that was being reserved since
/// the state was looked at stays reserved for a moment, for whatever is decided
/// of it is told next. Between nodes, the store itself tells whose a hold is.
#[derive(Default)]
pub(crate) struct Reserving {
    sessions: Mutex<SessionsUnderWay>,
    told: Notify,
}

#[derive(Default)]
struct SessionsUnderWay {
    /// Being reserved and decided, in so many calls.
    reserved: BTreeMap<SessionRef, usize>,
    /// The same at any time since the last look at the state.
    since_look: BTreeSet<SessionRef>,
    /// Given back, and the others are being told.
    told: BTreeSet<SessionRef>,
}

/// A call that reserves; until it is dropped, nothing is decided.
pub(crate) struct UnderWay {
    reserving: Arc<Reserving>,
    session: SessionRef,
}

/// The others are being told; ends when dropped.
pub(crate) struct Telling<'reserving> {
    reserving: &'reserving Reserving,
    reserved: BTreeSet<SessionRef>,
}

impl Reserving {
    /// Begins to reserve for a session.
    pub(crate) async fn begin(self: &Arc<Self>, session: &SessionRef) -> UnderWay {
        loop {
            let told = self.told.notified();
            if let Some(under_way) = self.try_begin(session) {
                return under_way;
            }
            told.await;
        }
    }

    fn try_begin(self: &Arc<Self>, session: &SessionRef) -> Option<UnderWay> {
        let mut sessions = self.lock();
        if sessions.told.contains(session) {
            return None;
        }
        *sessions.reserved.entry(session.clone()).or_default() += 1;
        sessions.since_look.insert(session.clone());
        Some(UnderWay { reserving: Arc::clone(self), session: session.clone() })
    }

    /// To be called before the state is looked at for what to tell.
    pub(crate) fn look(&self) {
        let mut sessions = self.lock();
        sessions.since_look = sessions.reserved.keys().cloned().collect();
    }

    /// Begins to tell.
    pub(crate) fn tell(&self, holds: &[CappedHold]) -> Telling<'_> {
        let mut sessions = self.lock();
        let given_back = holds.iter().filter(|hold| hold.until.is_none());
        let (reserved, told) = given_back
            .map(|hold| hold.session.clone())
            .partition(|session| sessions.since_look.contains(session));
        sessions.told = told;
        Telling { reserving: self, reserved }
    }

    fn lock(&self) -> MutexGuard<'_, SessionsUnderWay> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telling<'_> {
    /// Whether the session of a hold is perhaps being reserved.
    pub(crate) fn is_reserving(&self, hold: &CappedHold) -> bool {
        self.reserved.contains(&hold.session)
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.reserving.lock().told.clear();
        self.reserving.told.notify_waiters();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut sessions = self.reserving.lock();
        if let Some(calls) = sessions.reserved.get_mut(&self.session) {
            *calls -= 1;
            if *calls == 0 {
                sessions.reserved.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str) -> SessionRef {
        SessionRef { owner: 1, id: id.into() }
    }

    fn given_back(id: &str) -> CappedHold {
        let key = key_server_core::KeyId::from_digest(&[0; 32]);
        CappedHold { key, session: session(id), until: None, came_from: None }
    }

    #[tokio::test]
    async fn a_reservation_waits_for_the_give_back_of_its_session() {
        let reserving = Arc::new(Reserving::default());
        reserving.look();
        let telling = reserving.tell(&[given_back("s")]);
        assert!(!telling.is_reserving(&given_back("s")));
        drop(reserving.begin(&session("t")).await);
        let again = session("s");
        let mut begin = Box::pin(reserving.begin(&again));
        let moment = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(moment, &mut begin).await.is_err(), "it waits");
        drop(telling);
        drop(begin.await);
    }

    #[tokio::test]
    async fn a_session_that_was_reserved_since_the_look_stays_reserved() {
        let reserving = Arc::new(Reserving::default());
        let before = reserving.begin(&session("before")).await;
        drop(reserving.begin(&session("decided")).await);
        reserving.look();
        drop(before);
        drop(reserving.begin(&session("since")).await);
        let holds = ["before", "decided", "since"].map(given_back);
        let telling = reserving.tell(&holds);
        let reserved = holds.each_ref().map(|hold| telling.is_reserving(hold));
        assert_eq!(reserved, [true, false, true]);
    }
}
