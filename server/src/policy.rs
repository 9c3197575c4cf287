//! Who may do what: a value made from the policy file, and the one function
//! that answers for it.
//!
//! The first rule that fits the caller is the caller's rule and says all that
//! the caller may do; what it does not allow is denied. `docs/policy.md` is
//! for operators.

mod file;
mod parse;

use std::path::PathBuf;
use std::sync::Arc;

use key_server_core::ModelName;

pub use file::{PolicyError, Problem, load};
pub use parse::{Names, parse};

/// What a caller may want; the names are those of the policy file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Be given keys.
    Select,
    /// Report usage.
    Track,
    /// Give keys of an own session back.
    Release,
    /// Look at an own session.
    Stats,
    /// Look at everybody's keys, pools and sessions.
    StatsAll,
    /// End anybody's session.
    ReleaseAll,
    /// Read CSV and policy again.
    Reload,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 7] = [
        Self::Select,
        Self::Track,
        Self::Release,
        Self::Stats,
        Self::StatsAll,
        Self::ReleaseAll,
        Self::Reload,
    ];
    /// What applications do; what a rule allows that names no verbs.
    pub const OF_APPLICATIONS: [Self; 4] = [Self::Select, Self::Track, Self::Release, Self::Stats];

    /// Its name in the policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Track => "track",
            Self::Release => "release",
            Self::Stats => "stats",
            Self::StatsAll => "stats-all",
            Self::ReleaseAll => "release-all",
            Self::Reload => "reload",
        }
    }

    /// The verb of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    /// Whether it is about more than the caller's own sessions.
    pub const fn is_of_operators(self) -> bool {
        matches!(self, Self::StatsAll | Self::ReleaseAll | Self::Reload)
    }

    /// The verb that includes it, if one does.
    const fn wider(self) -> Option<Self> {
        match self {
            Self::Release => Some(Self::ReleaseAll),
            Self::Stats => Some(Self::StatsAll),
            _ => None,
        }
    }
}

/// What is known of a caller.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its user.
    pub uid: u32,
    /// Its first group,
    pub gid: u32,
    /// and its other ones.
    pub groups: &'a [u32],
    /// The path of its program; none when it could not be read.
    pub executable: Option<&'a str>,
}

impl Subject<'_> {
    fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// What a caller wants.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// This,
    pub verb: Verb,
    /// for these models; only a select has some.
    pub models: &'a [ModelName],
    /// Keys wanted for each model.
    pub count: u32,
}

impl Ask<'_> {
    /// A verb that is not about models.
    pub const fn of(verb: Verb) -> Self {
        Self { verb, models: &[], count: 0 }
    }
}

/// One rule of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique in the file.
    pub name: Arc<str>,
    /// Where it begins.
    pub line: u32,
    /// Whom it fits.
    pub who: Who,
    /// What it allows.
    pub verbs: Vec<Verb>,
    /// Of these providers, in lower case; none: of all.
    pub providers: Option<Vec<String>>,
    /// These models; none: all.
    pub models: Option<Vec<Pattern>>,
    /// How much of it.
    pub limits: Limits,
}

/// Whom a rule fits: everything that is named must fit, of each list one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// These users.
    pub uids: Option<Vec<u32>>,
    /// Members of these groups.
    pub gids: Option<Vec<u32>>,
    /// These programs.
    pub executables: Option<Vec<String>>,
}

/// A model as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Exactly(String),
    /// Those that begin so.
    Beginning(String),
}

/// How much a rule allows to each uid; none: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Keys for each model of one call.
    pub count_max: Option<u32>,
    /// Live sessions at once.
    pub sessions_max: Option<u32>,
    /// Keys given.
    pub keys_per_minute: Option<u64>,
    /// Tokens reported.
    pub tokens_per_minute: Option<u64>,
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground<'policy> {
    /// This rule.
    Rule(&'policy Rule),
    /// The caller is root or runs the server, and looks after it.
    Operator,
    /// No rule of the file fits the caller.
    NoRule,
    /// There is no file.
    NoFile,
}

/// Why it is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial<'ask> {
    /// The caller may do nothing at all.
    Caller,
    /// The verb is not allowed.
    Verb,
    /// The model is not allowed.
    Model(&'ask ModelName),
    /// Too many keys for each model; so many are allowed.
    Count(u32),
}

/// The answer, and what decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'policy, 'ask> {
    /// What decided.
    pub ground: Ground<'policy>,
    /// None: it is allowed.
    pub denial: Option<Denial<'ask>>,
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Who runs the server.
    pub server_uid: u32,
    /// Where the rules come from.
    pub source: Source,
}

/// Where the rules come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// No file: applications are the server's uid, root, and whom the socket
    /// belongs to.
    None {
        /// The socket's owner.
        socket_uid: Option<u32>,
        /// The socket's group, when its mode lets a group in.
        socket_gid: Option<u32>,
    },
    /// A file, and its rules in their order.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its rules.
        rules: Vec<Rule>,
    },
}

impl Policy {
    /// Whether a caller may do what it wants, and who says so.
    pub fn decide<'ask>(&self, subject: &Subject, ask: &Ask<'ask>) -> Decision<'_, 'ask> {
        let is_operator = subject.uid == 0 || subject.uid == self.server_uid;
        let allowed = |ground| Decision { ground, denial: None };
        let denied = |ground, denial| Decision { ground, denial: Some(denial) };
        let looks_after = ask.verb.is_of_operators() || ask.verb.wider().is_some();
        if is_operator && looks_after {
            return allowed(Ground::Operator);
        }
        match &self.source {
            Source::None { socket_uid, socket_gid } => {
                let is_owner = *socket_uid == Some(subject.uid);
                let is_member = socket_gid.is_some_and(|gid| subject.is_in(gid));
                match (is_operator || is_owner || is_member, ask.verb.is_of_operators()) {
                    (true, false) => allowed(Ground::NoFile),
                    (true, true) => denied(Ground::NoFile, Denial::Verb),
                    (false, _) => denied(Ground::NoFile, Denial::Caller),
                }
            }
            Source::File { rules, .. } => match rules.iter().find(|rule| rule.who.fits(subject)) {
                Some(rule) => Decision { ground: Ground::Rule(rule), denial: rule.denial(ask) },
                None => denied(Ground::NoRule, Denial::Caller),
            },
        }
    }
}

impl Decision<'_, '_> {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }
}

impl Rule {
    fn denial<'ask>(&self, ask: &Ask<'ask>) -> Option<Denial<'ask>> {
        let allows = |verb| self.verbs.contains(&verb);
        if !allows(ask.verb) && !ask.verb.wider().is_some_and(allows) {
            return Some(Denial::Verb);
        }
        if let Some(model) = ask.models.iter().find(|model| !self.allows_model(model)) {
            return Some(Denial::Model(model));
        }
        let count_max = self.limits.count_max.filter(|max| ask.count > *max);
        count_max.map(Denial::Count)
    }

    /// Whether keys for the model may be given.
    pub fn allows_model(&self, model: &ModelName) -> bool {
        let provider = model.provider();
        self.providers.as_ref().is_none_or(|names| names.iter().any(|name| name == provider))
            && self.models.as_ref().is_none_or(|models| models.iter().any(|one| one.fits(model)))
    }
}

impl Who {
    fn fits(&self, subject: &Subject) -> bool {
        let named = |path: &String| subject.executable == Some(path.as_str());
        self.uids.as_ref().is_none_or(|uids| uids.contains(&subject.uid))
            && self.gids.as_ref().is_none_or(|gids| gids.iter().any(|gid| subject.is_in(*gid)))
            && self.executables.as_ref().is_none_or(|paths| paths.iter().any(named))
    }

    /// Whether it surely fits everybody whom the other one fits.
    fn includes(&self, other: &Self) -> bool {
        fn all<T: PartialEq>(wide: Option<&Vec<T>>, narrow: Option<&Vec<T>>) -> bool {
            let Some(wide) = wide else { return true };
            narrow.is_some_and(|narrow| narrow.iter().all(|one| wide.contains(one)))
        }
        all(self.uids.as_ref(), other.uids.as_ref())
            && all(self.gids.as_ref(), other.gids.as_ref())
            && all(self.executables.as_ref(), other.executables.as_ref())
    }

    /// Whether it names nobody, and so fits everybody.
    pub fn is_everyone(&self) -> bool {
        *self == Self::default()
    }
}

/// Rules that no caller comes to, for an earlier one fits all whom they fit.
pub fn shadowed(rules: &[Rule]) -> Vec<Problem> {
    let behind = rules.iter().enumerate().filter_map(|(place, rule)| {
        let first = rules[..place].iter().find(|first| first.who.includes(&rule.who))?;
        let message = format!(
            "no caller ever comes to rule {:?}: rule {:?} of line {} fits all whom it fits",
            rule.name, first.name, first.line
        );
        Some(Problem { line: Some(rule.line), message })
    });
    behind.collect()
}

impl Pattern {
    fn fits(&self, model: &ModelName) -> bool {
        match self {
            Self::Exactly(name) => model.as_str() == name,
            Self::Beginning(start) => model.as_str().starts_with(start.as_str()),
        }
    }
}

#[cfg(test)]
mod tests;
