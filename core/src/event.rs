use std::num::NonZeroU32;
use std::sync::Arc;

use crate::id::{KeyId, ModelName};
use crate::key::Usage;
use crate::tier::Tier;
use crate::time::Time;

/// Something that happened, and all that is needed to repeat its effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A key is served from now on, or again.
    KeyAdded(Arc<KeyFacts>),
    /// A known key's facts were replaced as a whole.
    KeyChanged(Arc<KeyFacts>),
    /// A key left every pool; sessions that hold it keep what they have seen.
    KeyRetired {
        /// The key.
        key: KeyId,
    },
    /// Keys were given to a session.
    KeysSelected(KeysSelected),
    /// A use of a key was reported.
    UsageTracked(UsageTracked),
    /// A session gave keys back.
    KeysReleased(KeysReleased),
    /// A session's deadline passed.
    SessionExpired(SessionExpired),
    /// A session that lived at another node lives here from now on.
    SessionMovedIn(SessionMovedIn),
    /// A session lives at another node from now on.
    SessionMovedOut(SessionMovedOut),
}

/// What is known of a key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// The key.
    pub key: KeyId,
    /// The models it serves, sorted, each once; all of one provider.
    pub models: Vec<ModelName>,
    /// Its own weight.
    pub own_weight: OwnWeight,
    /// How many live sessions may hold it; no cap when absent.
    pub max_holders: Option<NonZeroU32>,
    /// A name for people.
    pub label: Option<Arc<str>>,
    /// Who lists it: `csv@<node id>`, `cli`; sorted, each once.
    pub sources: Vec<Arc<str>>,
}

impl KeyFacts {
    /// The provider of the key's models, in lower case.
    pub fn provider(&self) -> &str {
        self.models.first().map_or("", ModelName::provider)
    }
}

/// A key's own weight in thousandths: 1,000 is the default, 0 takes it out of
/// the draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnWeight(u32);

impl OwnWeight {
    /// The weight of a key that names none: 1.
    pub const DEFAULT: Self = Self(1_000);
    /// The largest weight: 1,000.
    pub const MAX: Self = Self(1_000_000);

    /// A weight of `thousandths` / 1,000; none above [`OwnWeight::MAX`].
    pub fn from_thousandths(thousandths: u32) -> Option<Self> {
        (thousandths <= Self::MAX.0).then_some(Self(thousandths))
    }

    /// The weight times 1,000.
    pub const fn thousandths(self) -> u32 {
        self.0
    }
}

/// A session as its owner names it. Ids of different owners never meet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionRef {
    /// The uid that opened it.
    pub owner: u32,
    /// The caller's name for it.
    pub id: Arc<str>,
}

/// Keys given to a session by one call.
#[derive(Clone, Debug, PartialEq)]
pub struct KeysSelected {
    /// Who holds them.
    pub session: SessionRef,
    /// The caller's number for whom it works.
    pub user: i32,
    /// True when the call opened the session (or opened it again).
    pub opened: bool,
    /// When the session ends unless renewed.
    pub deadline: Time,
    /// The seed of the draws.
    pub seed: u64,
    /// What was given, in the order of the reply.
    pub picks: Vec<Pick>,
}

/// One key given for one model, and why this one.
#[derive(Clone, Debug, PartialEq)]
pub struct Pick {
    /// For this model.
    pub model: ModelName,
    /// This key.
    pub key: KeyId,
    /// Its tier at that time.
    pub tier: Tier,
    /// True when the session held it already: nothing was drawn.
    pub already_held: bool,
    /// How many keys stood for the draw; 0 when nothing was drawn.
    pub candidates: u32,
    /// The key's effective weight in the draw.
    pub weight: u64,
    /// The effective weights of all candidates together.
    pub total_weight: u64,
}

/// Tokens of one report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Tokens of the prompt, cached ones included.
    pub input: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// The part of `input` that came from the provider's cache.
    pub cached_input: u64,
}

impl Tokens {
    /// What counts in a window: input and output.
    pub fn spent(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// How a use of a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It worked.
    Success,
    /// The provider asked to slow down.
    RateLimited,
    /// The provider refused the key.
    AuthFailed,
    /// The provider failed.
    ProviderError,
    /// The caller gave up, or asked for something wrong.
    Cancelled,
}

/// A use of a key, as reported.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageTracked {
    /// Through this session.
    pub session: SessionRef,
    /// For this user: the session's.
    pub user: i32,
    /// With this key.
    pub key: KeyId,
    /// For this model.
    pub model: ModelName,
    /// What it spent.
    pub tokens: Tokens,
    /// How it ended.
    pub outcome: Outcome,
    /// The report's own id; a repeat counts once.
    pub event_id: Arc<str>,
    /// When it was spent; never later than the event itself.
    pub occurred: Time,
    /// True when the session or the allocation had ended before.
    pub late: bool,
    /// When the session ends now; absent when it had ended.
    pub deadline: Option<Time>,
    /// Until when the key cools for this model, when the report made it cool.
    pub cooling_until: Option<Time>,
}

/// Keys given back.
#[derive(Clone, Debug, PartialEq)]
pub struct KeysReleased {
    /// By this session.
    pub session: SessionRef,
    /// These; none when the session held nothing.
    pub allocations: Vec<(ModelName, KeyId)>,
    /// When the session ends now; absent when this ended it.
    pub deadline: Option<Time>,
}

/// A session that was not renewed in time.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionExpired {
    /// The session.
    pub session: SessionRef,
}

/// A session that another node published lives here from now on; what it held
/// here already, it keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionMovedIn {
    /// The session.
    pub session: SessionRef,
    /// The caller's number for whom it works.
    pub user: i32,
    /// When it was opened.
    pub opened: Time,
    /// When it ends unless renewed.
    pub deadline: Time,
    /// Where it lived.
    pub from: Arc<str>,
    /// Its term here; above any that was published before.
    pub term: u32,
    /// The term in which it lived there.
    pub base: u32,
    /// What it held there.
    pub allocations: Vec<MovedAllocation>,
}

/// A key that a session holds when it moves.
#[derive(Clone, Debug, PartialEq)]
pub struct MovedAllocation {
    /// For this model.
    pub model: ModelName,
    /// This key.
    pub key: KeyId,
    /// What the session spent with it so far; counted where it was reported.
    pub usage: Usage,
}

/// A session lives at another node from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionMovedOut {
    /// The session.
    pub session: SessionRef,
    /// Where it lives, or was ended.
    pub to: Arc<str>,
    /// Its term there.
    pub term: u32,
}
