use key_server_core::{Outcome, Time, TrackUsage, TrackUsageRefusal};
use key_server_proto::v1;
use prost_types::Timestamp;

use crate::audit::About;
use crate::clock;
use crate::error::{ErrorKind, ServiceError};
use crate::guard::Peer;
use crate::policy::Verb;
use crate::service::Service;

impl Service {
    pub(crate) async fn track_usage(
        &self,
        caller: &Peer,
        request: &v1::TrackUsageRequest,
    ) -> Result<v1::TrackUsageResponse, ServiceError> {
        let grant = self.guard.allow(caller, Verb::Track)?;
        let command = self.report(caller, request)?;
        let session = Some(&command.session);
        match self.engine.submit(Some(caller), session, &command).await? {
            Ok(tracked) => {
                if tracked.repeated {
                    self.audit.tell(Some(caller), &About::usage(request), None);
                } else {
                    self.guard.charge_tokens(&grant, command.tokens.spent());
                }
                Ok(v1::TrackUsageResponse { success: true, late: tracked.late })
            }
            Err(refusal) => Err(refusal_error(refusal, request)),
        }
    }

    fn report(
        &self,
        caller: &Peer,
        request: &v1::TrackUsageRequest,
    ) -> Result<TrackUsage, ServiceError> {
        let guard = &self.guard;
        Ok(TrackUsage {
            session: guard.own_session(caller, &request.session_id)?,
            key: guard.key_id(&request.key_id)?,
            model: guard.model("model", &request.model)?,
            tokens: guard.tokens(
                request.input_tokens,
                request.output_tokens,
                request.cached_input_tokens,
            )?,
            outcome: outcome(request.outcome)?,
            event_id: guard.id("event_id", &request.event_id)?,
            occurred: self.occurred(request.occurred_at)?,
            retry_after: guard.span("retry_after", request.retry_after)?,
        })
    }

    fn occurred(&self, at: Option<Timestamp>) -> Result<Time, ServiceError> {
        let clock = self.engine.clock.as_ref();
        let Some(at) = at else { return Ok(clock.now()) };
        let second_ms = at.seconds.checked_mul(1_000);
        let ms = second_ms.and_then(|ms| ms.checked_add(i64::from(at.nanos) / 1_000_000));
        let is_time = (0..1_000_000_000).contains(&at.nanos);
        let ms = ms.filter(|_| is_time).ok_or_else(|| {
            ServiceError::invalid("occurred_at", "occurred_at is not an instant of time")
        })?;
        Ok(clock::time_of(clock, ms))
    }
}

fn outcome(number: i32) -> Result<Outcome, ServiceError> {
    match v1::Outcome::try_from(number) {
        Ok(v1::Outcome::Unspecified | v1::Outcome::Success) => Ok(Outcome::Success),
        Ok(v1::Outcome::RateLimited) => Ok(Outcome::RateLimited),
        Ok(v1::Outcome::AuthFailed) => Ok(Outcome::AuthFailed),
        Ok(v1::Outcome::ProviderError) => Ok(Outcome::ProviderError),
        Ok(v1::Outcome::Cancelled) => Ok(Outcome::Cancelled),
        Err(_) => Err(ServiceError::invalid("outcome", format!("outcome {number} is not known"))),
    }
}

fn refusal_error(refusal: TrackUsageRefusal, request: &v1::TrackUsageRequest) -> ServiceError {
    match refusal {
        TrackUsageRefusal::UnknownSession => ServiceError::session_not_found(),
        TrackUsageRefusal::NotAllocated => ServiceError::new(
            ErrorKind::NotFound,
            "KEY_NOT_ALLOCATED",
            "the session never held this key for this model; report with the key_id and model as selected",
        )
        .with("key_id", &request.key_id),
        TrackUsageRefusal::Conflict => ServiceError::new(
            ErrorKind::Conflict,
            "EVENT_ID_REUSED",
            "this event_id was reported before with another content; the first one counts; use a new event_id for a new event",
        )
        .with("event_id", &request.event_id),
    }
}
