//! Who may do what, and what a request may look like.

use std::sync::Arc;
use std::time::Duration;

use key_server_core::{KeyId, ModelName, SessionRef, Tokens};
use key_server_ledger::Caller;
use tonic::Extensions;

use crate::config::Settings;
use crate::error::{ErrorKind, ServiceError};

/// The peer of a connection, as the kernel told it at accept.
#[derive(Clone, Debug)]
pub struct Peer(pub Arc<Caller>);

/// Checks callers and requests.
#[derive(Debug)]
pub struct Guard {
    server_uid: u32,
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

impl Guard {
    /// With the limits of the settings; `server_uid` is an operator.
    pub fn new(settings: &Settings, server_uid: u32) -> Self {
        Self {
            server_uid,
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
    pub fn caller(&self, extensions: &Extensions) -> Result<Arc<Caller>, ServiceError> {
        let peer = extensions.get::<Peer>().map(|peer| Arc::clone(&peer.0));
        peer.ok_or_else(|| {
            ServiceError::new(
                ErrorKind::Unidentified,
                "PEER_UNKNOWN",
                "the kernel did not say who is calling; connect to the socket directly",
            )
        })
    }

    /// Whether the caller is root or the server's own uid.
    pub fn is_operator(&self, caller: &Caller) -> bool {
        caller.uid == 0 || caller.uid == self.server_uid
    }

    /// Lets operators pass.
    ///
    /// # Errors
    /// `NotPermitted` for everybody else.
    pub fn operator(&self, caller: &Caller, verb: &'static str) -> Result<(), ServiceError> {
        if self.is_operator(caller) {
            return Ok(());
        }
        let message = format!(
            "uid {} may not do this: it is for root and for uid {}, which runs the server",
            caller.uid, self.server_uid
        );
        let error = ServiceError::new(ErrorKind::NotPermitted, "OPERATORS_ONLY", message);
        Err(error.with("verb", verb).with("uid", caller.uid))
    }

    /// The session that the caller means: his own, or for operators anybody's.
    ///
    /// # Errors
    /// `InvalidInput`; `NotFound` when it would be somebody else's.
    pub fn session(
        &self,
        caller: &Caller,
        id: &str,
        owner: Option<u32>,
    ) -> Result<SessionRef, ServiceError> {
        let id = self.id("session_id", id)?;
        let owner = owner.unwrap_or(caller.uid);
        if owner != caller.uid && !self.is_operator(caller) {
            return Err(ServiceError::session_not_found());
        }
        Ok(SessionRef { owner, id })
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
