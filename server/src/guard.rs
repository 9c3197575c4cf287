//! Who may do what, and what a request may look like.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use key_server_core::{KeyId, ModelName, SessionRef, Tokens};
use key_server_ledger::Caller;
use tonic::Extensions;

use crate::access::Access;
use crate::config::Settings;
use crate::error::{ErrorKind, ServiceError};
use crate::policy::{Ask, Denial, Ground, Policy, Rule, Source, Subject, Verb};
use crate::rate::Spent;

/// The peer of a connection, as the kernel told it at accept.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub caller: Arc<Caller>,
    /// Its groups besides the first one.
    pub groups: Arc<[u32]>,
}

impl Peer {
    fn subject(&self) -> Subject<'_> {
        let Caller { uid, gid, ref exe, .. } = *self.caller;
        Subject { uid, gid, groups: &self.groups, executable: exe.as_deref() }
    }
}

impl Deref for Peer {
    type Target = Arc<Caller>;

    fn deref(&self) -> &Arc<Caller> {
        &self.caller
    }
}

/// Checks callers and requests.
pub struct Guard {
    access: Arc<Access>,
    limits: Limits,
}

#[derive(Debug)]
struct Limits {
    models_max: usize,
    count_max: u32,
    id_bytes_max: usize,
    name_bytes_max: usize,
    tokens_max: u64,
    page_size_max: usize,
}

/// What the policy grants to one call, for as long as the call takes.
pub struct Grant {
    policy: Arc<Policy>,
    /// Who is granted it,
    uid: u32,
    /// and the place of the rule that says so; none: no rule was needed.
    rule: Option<usize>,
}

impl Grant {
    fn rule(&self) -> Option<&Rule> {
        match &self.policy.source {
            Source::File { rules, .. } => rules.get(self.rule?),
            Source::None { .. } => None,
        }
    }

    /// Whether the caller may be given keys for a model.
    pub(crate) fn shows_model(&self, model: &ModelName) -> bool {
        self.rule().is_none_or(|rule| rule.allows_model(model))
    }

    /// How many sessions the caller may have live at once; none: no limit.
    pub(crate) fn sessions_max(&self) -> Option<u32> {
        self.rule().and_then(|rule| rule.limits.sessions_max)
    }
}

impl Guard {
    /// With the limits of the settings, and the policy in force.
    pub fn new(settings: &Settings, access: Arc<Access>) -> Self {
        Self {
            access,
            limits: Limits {
                models_max: settings.models_max,
                count_max: settings.count_max,
                id_bytes_max: settings.id_bytes_max,
                name_bytes_max: settings.name_bytes_max,
                tokens_max: settings.tokens_max,
                page_size_max: settings.page_size_max,
            },
        }
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// `Unidentified` when the connection has no peer.
    pub fn caller(&self, extensions: &Extensions) -> Result<Peer, ServiceError> {
        extensions.get::<Peer>().cloned().ok_or_else(|| {
            ServiceError::new(
                ErrorKind::Unidentified,
                "PEER_UNKNOWN",
                "the kernel did not say who is calling; connect to the socket directly",
            )
        })
    }

    /// Whether the policy lets the caller do this.
    pub fn may(&self, peer: &Peer, verb: Verb) -> bool {
        self.access.policy().decide(&peer.subject(), &Ask::of(verb)).is_allowed()
    }

    /// Lets those pass whom the policy lets do this.
    ///
    /// # Errors
    /// `NotPermitted` for everybody else.
    pub fn allow(&self, peer: &Peer, verb: Verb) -> Result<Grant, ServiceError> {
        self.decide(peer, &Ask::of(verb))
    }

    /// Lets a select pass that the policy allows.
    ///
    /// # Errors
    /// `NotPermitted`, whether or not there are keys for the models.
    pub fn allow_select(
        &self,
        peer: &Peer,
        models: &[ModelName],
        count: u32,
    ) -> Result<Grant, ServiceError> {
        self.decide(peer, &Ask { verb: Verb::Select, models, count })
    }

    fn decide(&self, peer: &Peer, ask: &Ask<'_>) -> Result<Grant, ServiceError> {
        let policy = self.access.policy();
        let decision = policy.decide(&peer.subject(), ask);
        if let Some(denial) = decision.denial {
            return Err(denied(peer.uid, policy.server_uid, ask, decision.ground, denial));
        }
        let rule = match (decision.ground, &policy.source) {
            (Ground::Rule(rule), Source::File { rules, .. }) => {
                rules.iter().position(|one| std::ptr::eq(one, rule))
            }
            _ => None,
        };
        Ok(Grant { rule, uid: peer.uid, policy })
    }

    /// Takes keys from what the policy lets the caller have in a minute.
    ///
    /// # Errors
    /// `Exhausted`, with the time to wait.
    pub(crate) fn take_keys(&self, grant: &Grant, keys: u64) -> Result<(), ServiceError> {
        let Some(rule) = grant.rule() else { return Ok(()) };
        let Access { rates, clock, .. } = &*self.access;
        let taken = rates.take_keys(grant.uid, &rule.name, &rule.limits, clock.now(), keys);
        taken.map_err(|spent| used_up(rule, spent))
    }

    /// Gives back keys that were taken and not given.
    pub(crate) fn give_back_keys(&self, grant: &Grant, keys: u64) {
        let Some(rule) = grant.rule() else { return };
        self.access.rates.give_back_keys(grant.uid, &rule.name, &rule.limits, keys);
    }

    /// Counts tokens that the caller reported.
    pub(crate) fn charge_tokens(&self, grant: &Grant, tokens: u64) {
        let Some(rule) = grant.rule() else { return };
        let Access { rates, clock, .. } = &*self.access;
        rates.charge_tokens(grant.uid, &rule.name, &rule.limits, clock.now(), tokens);
    }

    /// The session that the caller means: his own, or anybody's if he may do
    /// `of_others`.
    ///
    /// # Errors
    /// `InvalidInput`; `NotFound` when it would be somebody else's.
    pub fn session(
        &self,
        peer: &Peer,
        id: &str,
        owner: Option<u32>,
        of_others: Verb,
    ) -> Result<SessionRef, ServiceError> {
        let id = self.id("session_id", id)?;
        let owner = owner.unwrap_or(peer.uid);
        if owner != peer.uid && !self.may(peer, of_others) {
            return Err(ServiceError::session_not_found());
        }
        Ok(SessionRef { owner, id })
    }

    /// The session of that id that is the caller's own.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn own_session(&self, peer: &Peer, id: &str) -> Result<SessionRef, ServiceError> {
        Ok(SessionRef { owner: peer.uid, id: self.id("session_id", id)? })
    }

    /// An id that a caller chose.
    ///
    /// # Errors
    /// `InvalidInput` when it is empty, too long or not printable.
    pub fn id(&self, field: &'static str, text: &str) -> Result<Arc<str>, ServiceError> {
        let max = self.limits.id_bytes_max;
        if text.is_empty() {
            return Err(ServiceError::invalid(field, format!("{field} is empty; give one")));
        }
        if text.len() > max {
            let message = format!("{field} has {} bytes; at most {max} are allowed", text.len());
            return Err(ServiceError::invalid(field, message));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let message = format!("{field} has white space or control characters; leave them out");
            return Err(ServiceError::invalid(field, message));
        }
        Ok(text.into())
    }

    /// The models of a select.
    ///
    /// # Errors
    /// `InvalidInput` when there are none, too many, or one is malformed.
    pub fn models(&self, names: &[String]) -> Result<Vec<ModelName>, ServiceError> {
        let max = self.limits.models_max;
        if names.is_empty() {
            return Err(ServiceError::invalid("models", "models is empty; name at least one"));
        }
        if names.len() > max {
            let message = format!("models has {} names; at most {max} are allowed", names.len());
            return Err(ServiceError::invalid("models", message));
        }
        names.iter().map(|name| self.model("models", name)).collect()
    }

    /// One model.
    ///
    /// # Errors
    /// `InvalidInput` when it is too long or malformed.
    pub fn model(&self, field: &'static str, name: &str) -> Result<ModelName, ServiceError> {
        let max = self.limits.name_bytes_max;
        if name.len() > max {
            let message = format!("{field} has {} bytes; at most {max} are allowed", name.len());
            return Err(ServiceError::invalid(field, message));
        }
        name.parse().map_err(|error| ServiceError::invalid(field, format!("{field}: {error}")))
    }

    /// How many keys are wanted; 0 means 1.
    ///
    /// # Errors
    /// `InvalidInput` when it is negative or too large.
    pub fn count(&self, count: i32) -> Result<u32, ServiceError> {
        let max = self.limits.count_max;
        let wanted = u32::try_from(count.max(1)).unwrap_or(1);
        if count < 0 || wanted > max {
            let message = format!("count_per_model is {count}; it must be 0 to {max}");
            return Err(ServiceError::invalid("count_per_model", message));
        }
        Ok(wanted)
    }

    /// A key id.
    ///
    /// # Errors
    /// `InvalidInput` when it is none.
    pub fn key_id(&self, text: &str) -> Result<KeyId, ServiceError> {
        text.parse().map_err(|error| ServiceError::invalid("key_id", format!("key_id: {error}")))
    }

    /// The tokens of a report.
    ///
    /// # Errors
    /// `InvalidInput` when one is negative or too large, or more were cached
    /// than read.
    pub fn tokens(&self, input: i64, output: i64, cached: i64) -> Result<Tokens, ServiceError> {
        let tokens = Tokens {
            input: self.tokens_of("input_tokens", input)?,
            output: self.tokens_of("output_tokens", output)?,
            cached_input: self.tokens_of("cached_input_tokens", cached)?,
        };
        if tokens.cached_input > tokens.input {
            let message = format!(
                "cached_input_tokens is {cached}; it is a part of input_tokens ({input}) and cannot be more"
            );
            return Err(ServiceError::invalid("cached_input_tokens", message));
        }
        Ok(tokens)
    }

    fn tokens_of(&self, field: &'static str, tokens: i64) -> Result<u64, ServiceError> {
        let max = self.limits.tokens_max;
        let count = u64::try_from(tokens).ok().filter(|count| *count <= max);
        count.ok_or_else(|| {
            ServiceError::invalid(field, format!("{field} is {tokens}; it must be 0 to {max}"))
        })
    }

    /// Rows of one page; 0 means 100.
    ///
    /// # Errors
    /// `InvalidInput` when it is negative or too large.
    pub fn page_size(&self, size: i32) -> Result<usize, ServiceError> {
        let max = self.limits.page_size_max;
        match usize::try_from(size) {
            Ok(0) => Ok(max.min(100)),
            Ok(size) if size <= max => Ok(size),
            _ => {
                let message = format!("page_size is {size}; it must be 0 to {max}");
                Err(ServiceError::invalid("page_size", message))
            }
        }
    }

    /// A span of time as the wire has it.
    ///
    /// # Errors
    /// `InvalidInput` when it is negative or malformed.
    pub fn span(
        &self,
        field: &'static str,
        span: Option<prost_types::Duration>,
    ) -> Result<Option<Duration>, ServiceError> {
        let span = span.map(Duration::try_from).transpose();
        span.map_err(|_| {
            ServiceError::invalid(field, format!("{field} is not a span of time from 0 on"))
        })
    }
}

/// Says no without a word about what there is: only about the request and the
/// caller's own rule.
fn denied(
    uid: u32,
    server_uid: u32,
    ask: &Ask<'_>,
    ground: Ground<'_>,
    denial: Denial<'_>,
) -> ServiceError {
    let verb = ask.verb.name();
    if ask.verb.is_of_operators() {
        let message = format!(
            "uid {uid} may not do this: it is for root, for uid {server_uid}, which runs the \
             server, and for whom the policy names ({verb})"
        );
        let error = ServiceError::new(ErrorKind::NotPermitted, "OPERATORS_ONLY", message);
        return error.with("verb", verb).with("uid", uid);
    }
    let what = match denial {
        Denial::Caller | Denial::Verb => format!("use {verb}"),
        Denial::Model(model) => format!("use {model}"),
        Denial::Count(max) => {
            format!("ask for {} keys for each model; at most {max}", ask.count)
        }
    };
    let why = match ground {
        Ground::Rule(rule) => format!("by the rule {:?} of the policy", &*rule.name),
        Ground::NoRule => "no rule of the policy fits it".to_owned(),
        Ground::NoFile | Ground::Operator => format!(
            "without a policy, keys are for root, for uid {server_uid}, which runs the server, \
             and for the socket's owner and group"
        ),
    };
    let message = format!("uid {uid} may not {what} ({why}); ask the operator");
    let error = ServiceError::new(ErrorKind::NotPermitted, "POLICY_DENIED", message);
    let error = error.with("verb", verb).with("uid", uid);
    match ground {
        Ground::Rule(rule) => error.with("rule", &rule.name),
        _ => error,
    }
}

fn used_up(rule: &Rule, spent: Spent) -> ServiceError {
    let Spent { limit, retry_after } = spent;
    let name = &*rule.name;
    let message = match retry_after {
        Some(_) => format!("what the rule {name:?} of the policy allows is used up ({limit})"),
        None => format!(
            "the call asks for more keys at once than the rule {name:?} of the policy allows in \
             a minute ({limit}); ask for fewer"
        ),
    };
    let error = ServiceError::new(ErrorKind::Exhausted, "RATE_LIMITED", message);
    let error = error.with("limit", limit).with("rule", name);
    match retry_after {
        Some(time) => error.retry_after(time),
        None => error,
    }
}
