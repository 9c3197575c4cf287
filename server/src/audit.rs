//! Records of calls that change nothing: refused ones, and those that only
//! read. Nobody waits for them, and a flood of them neither slows the service
//! nor fills the disk: the first few of a kind in a minute have a line each,
//! the others are counted and told in one line.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use key_server_core::{KeyId, ModelName, SessionRef, State, Time};
use key_server_ledger::{CallNoted, Caller, CallsCounted, Entry, Fact};
use key_server_proto::v1;

use crate::engine::Engine;

/// How long calls of one kind are counted together.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// Refused calls of one kind that have a line each within a window.
pub(crate) const REFUSED_LINES_MAX: u64 = 10;
/// The same for calls that were answered: whoever watches asks all the time.
pub(crate) const ANSWERED_LINES_MAX: u64 = 1;
/// Kinds that are told apart by user at a time; of others the users are not
/// told, so that their number is bounded by what the program can say.
const KINDS_MAX: usize = 1_024;

/// Calls that touch keys or sessions.
const VERBS: [&str; 5] =
    ["SelectKeysForSession", "TrackUsage", "GetStats", "ReleaseKey", "ReloadKeys"];

/// What a call names, as it was sent.
#[derive(Debug, Default)]
pub(crate) struct About<'call> {
    verb: &'static str,
    session: Option<&'call str>,
    owner: Option<u32>,
    model: Option<&'call str>,
    key: Option<&'call str>,
}

impl<'call> About<'call> {
    pub(crate) fn select(request: &'call v1::SelectKeysRequest) -> Self {
        Self {
            verb: "SelectKeysForSession",
            session: named(&request.session_id),
            model: request.models.first().and_then(|model| named(model)),
            ..Self::default()
        }
    }

    pub(crate) fn usage(request: &'call v1::TrackUsageRequest) -> Self {
        Self {
            verb: "TrackUsage",
            session: named(&request.session_id),
            model: named(&request.model),
            key: named(&request.key_id),
            ..Self::default()
        }
    }

    pub(crate) fn stats(request: &'call v1::GetStatsRequest) -> Self {
        Self {
            verb: "GetStats",
            session: named(&request.session_id),
            owner: request.owner_uid,
            model: named(&request.model),
            key: named(&request.key_id),
        }
    }

    pub(crate) fn release(request: &'call v1::ReleaseKeyRequest) -> Self {
        Self {
            verb: "ReleaseKey",
            session: named(&request.session_id),
            owner: request.owner_uid,
            model: named(&request.model),
            key: named(&request.key_id),
        }
    }

    /// A call of which nothing but its path is known; none when it touches
    /// neither keys nor sessions.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let verb = path.strip_prefix("/keyserver.v1.KeyServer/")?;
        let verb = VERBS.into_iter().find(|known| *known == verb)?;
        Some(Self { verb, ..Self::default() })
    }

    pub(crate) fn reload() -> Self {
        Self { verb: "ReloadKeys", ..Self::default() }
    }

    /// With another model: the one that is the reason.
    pub(crate) fn model(self, model: &'call str) -> Self {
        Self { model: named(model), ..self }
    }

    /// The names that the node knows; any other text could be anything, a
    /// credential in the wrong field too.
    fn known(&self, state: &State, caller: Option<&Caller>, reason: Option<&str>) -> CallNoted {
        let owner = self.owner.or(caller.map(|caller| caller.uid));
        let session = self.session.zip(owner);
        let session = session.map(|(id, owner)| SessionRef { owner, id: id.into() });
        let model = self.model.and_then(|name| name.parse::<ModelName>().ok());
        let key = self.key.and_then(|id| id.parse::<KeyId>().ok());
        CallNoted {
            verb: self.verb.into(),
            reason: reason.map(Arc::from),
            session: session.filter(|session| state.session_stats(session).is_some()),
            model: model.filter(|model| state.keys_of_model(model, 0).next().is_some()),
            key: key.filter(|key| state.key_stats(*key).is_some()),
        }
    }
}

fn named(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    uid: Option<u32>,
    verb: &'static str,
    reason: Option<&'static str>,
}

/// Calls of one kind within a window.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Time,
    lines: u64,
    /// Calls without a line.
    count: u64,
}

/// Tells the ledger of calls that change nothing.
pub(crate) struct Audit {
    engine: Arc<Engine>,
    windows: Mutex<HashMap<Kind, Window>>,
}

impl Audit {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, windows: Mutex::default() }
    }

    /// Records a call that changed nothing; `reason` when it was refused.
    pub(crate) fn tell(
        &self,
        caller: Option<&Arc<Caller>>,
        about: &About<'_>,
        reason: Option<&'static str>,
    ) {
        let kind = Kind { uid: caller.map(|caller| caller.uid), verb: about.verb, reason };
        let kind = match admit(&mut self.windows(), kind, self.engine.clock.now()) {
            Admitted::Line(kind) => kind,
            Admitted::Counted => return,
        };
        let noted = self.engine.read(|state| about.known(state, caller.map(|c| &**c), reason));
        let entry = Entry { caller: caller.cloned(), fact: Fact::CallNoted(noted) };
        if !self.engine.note_soon(vec![entry]) {
            count(&mut self.windows(), kind, self.engine.clock.now(), 1);
        }
    }

    /// Tells what was counted in windows that are over.
    pub(crate) fn tick(&self) {
        let now = self.engine.clock.now();
        self.tell_counts(|window| now.since(window.since) >= WINDOW);
    }

    /// Tells everything that was counted: the server ends.
    pub(crate) fn finish(&self) {
        self.tell_counts(|_| true);
    }

    fn tell_counts(&self, is_over: impl Fn(&Window) -> bool) {
        let over: Vec<(Kind, Window)> =
            self.windows().extract_if(|_, window| is_over(window)).collect();
        for (kind, window) in over.into_iter().filter(|(_, window)| window.count > 0) {
            let Kind { uid, verb, reason } = kind;
            let Window { since, count: calls, .. } = window;
            let counted = CallsCounted {
                verb: verb.into(),
                reason: reason.map(Arc::from),
                uid,
                count: calls,
                since,
            };
            let entry = Entry::of_node(Fact::CallsCounted(counted));
            if !self.engine.note_soon(vec![entry]) {
                // The ledger takes nothing now: they are told when it does.
                count(&mut self.windows(), kind, since, calls);
            }
        }
    }

    /// No step under the lock leaves it half changed.
    fn windows(&self) -> MutexGuard<'_, HashMap<Kind, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is done with a call.
#[derive(Debug, PartialEq, Eq)]
enum Admitted {
    /// It gets a line; of this kind it counts when that cannot be written.
    Line(Kind),
    /// It was counted.
    Counted,
}

fn admit(windows: &mut HashMap<Kind, Window>, kind: Kind, now: Time) -> Admitted {
    let has_room = windows.len() < KINDS_MAX || windows.contains_key(&kind);
    let kind = if has_room { kind } else { Kind { uid: None, ..kind } };
    let window = windows.entry(kind).or_insert(Window { since: now, lines: 0, count: 0 });
    let lines_max = match kind.reason {
        Some(_) => REFUSED_LINES_MAX,
        None => ANSWERED_LINES_MAX,
    };
    if window.lines < lines_max {
        window.lines += 1;
        return Admitted::Line(kind);
    }
    window.count += 1;
    Admitted::Counted
}

/// Adds calls that could not be told; the window begins with the oldest.
fn count(windows: &mut HashMap<Kind, Window>, kind: Kind, since: Time, calls: u64) {
    match windows.entry(kind) {
        Place::Occupied(mut window) => {
            let window = window.get_mut();
            window.count += calls;
            window.since = window.since.min(since);
        }
        Place::Vacant(place) => {
            place.insert(Window { since, lines: 0, count: calls });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(uid: u32) -> Kind {
        Kind { uid: Some(uid), verb: "ReleaseKey", reason: Some("SESSION_NOT_FOUND") }
    }

    #[test]
    fn a_flood_of_many_users_is_counted_without_growing() {
        let (mut windows, now) = (HashMap::new(), Time::from_ms(1));
        let calls = 100_000;
        let mut lines = 0_u64;
        for uid in 0..calls {
            lines += u64::from(matches!(admit(&mut windows, kind(uid), now), Admitted::Line(_)));
        }
        assert_eq!(windows.len(), KINDS_MAX + 1);
        let counted: u64 = windows.values().map(|window| window.count).sum();
        assert_eq!(lines + counted, u64::from(calls), "none is dropped");
        assert_eq!(lines, KINDS_MAX as u64 + REFUSED_LINES_MAX);
    }

    #[test]
    fn kinds_have_windows_of_their_own() {
        let (mut windows, now) = (HashMap::new(), Time::from_ms(1));
        let answered = Kind { reason: None, ..kind(1) };
        for (kind, lines_max) in [
            (kind(1), REFUSED_LINES_MAX),
            (kind(2), REFUSED_LINES_MAX),
            (answered, ANSWERED_LINES_MAX),
        ] {
            for _ in 0..lines_max {
                assert_eq!(admit(&mut windows, kind, now), Admitted::Line(kind));
            }
            assert_eq!(admit(&mut windows, kind, now), Admitted::Counted);
        }
    }
}
