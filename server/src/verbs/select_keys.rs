use std::sync::Arc;
use std::time::Duration;

use key_server_core::{
    Decide, Pick, Reserved, Select, SelectRefusal, Selected, SessionRef, Shortage, ShortageReason,
    Wish,
};
use key_server_ledger::Caller;
use key_server_proto::v1;

use super::wire;
use crate::config::CapsAlone;
use crate::engine::Selecting;
use crate::error::{ErrorKind, ServiceError};
use crate::fleet::UnderWay;
use crate::gate::Pass;
use crate::guard::{Grant, Peer};
use crate::service::Service;

impl Service {
    pub(crate) async fn select_keys(
        &self,
        caller: &Peer,
        pass: Option<&Pass>,
        request: &v1::SelectKeysRequest,
    ) -> Result<v1::SelectKeysResponse, ServiceError> {
        let session = self.guard.own_session(caller, &request.session_id)?;
        let models = self.guard.models(&request.models)?;
        let count = self.guard.count(request.count_per_model)?;
        let grant = self.guard.allow_select(caller, &models, count)?;
        self.keys.check_ready()?;
        let wanted = u64::from(count) * models.len() as u64;
        pass.map_or(Ok(()), |pass| pass.widen(wanted))?;
        self.guard.take_keys(&grant, wanted)?;
        let command = Select {
            session,
            user: request.user_id,
            models,
            count,
            reserved: None,
            owner_sessions_max: grant.sessions_max(),
        };
        let answer = self.answer(caller, &grant, command).await;
        let given = answer.as_ref().map_or(0, |answer| answer.keys.len() as u64);
        self.guard.give_back_keys(&grant, wanted.saturating_sub(given));
        answer
    }

    async fn answer(
        &self,
        caller: &Arc<Caller>,
        grant: &Grant,
        command: Select,
    ) -> Result<v1::SelectKeysResponse, ServiceError> {
        match self.choose(caller, command).await? {
            Ok(selected) => self.selected(&selected),
            Err(SelectRefusal::Short(mut shortages)) => {
                // Names of models that the caller may not use are not for it.
                for shortage in &mut shortages {
                    shortage.did_you_mean.retain(|model| grant.shows_model(model));
                }
                Ok(refused(&shortages))
            }
            Err(refusal) => Err(refusal_error(&refusal)),
        }
    }

    /// Chooses keys; those with a cap are reserved among all nodes first.
    async fn choose(
        &self,
        caller: &Arc<Caller>,
        mut command: Select,
    ) -> Result<Result<Selected, SelectRefusal>, ServiceError> {
        let reserves = self.fleet.is_some();
        let wishes = match self.engine.select(Some(caller), &command, reserves).await? {
            Selecting::Reserve(wishes) => wishes,
            Selecting::Selected(selected) => return Ok(Ok(selected)),
            Selecting::Refused(refusal) => return Ok(Err(refusal)),
        };
        let reserved = self.reserve_some(&command, wishes).await?;
        // Whatever is decided has been decided when it is dropped.
        let (is_refused, _under_way) = match reserved {
            None => (false, None),
            Some((reserved, is_refused, under_way)) => {
                command.reserved = Some(reserved);
                (is_refused, Some(under_way))
            }
        };
        if is_refused {
            let decided = self.engine.read(|state| command.decide(state, state.now(), 0));
            if let Err(refusal) = decided {
                return Ok(Err(refusal));
            }
            // It came to hold the model meanwhile, and gets what it holds.
            command.reserved = Some(Reserved::new());
        }
        match self.engine.select(Some(caller), &command, false).await? {
            Selecting::Selected(selected) => Ok(Ok(selected)),
            Selecting::Refused(refusal) => Ok(Err(refusal)),
            Selecting::Reserve(_) => Err(ServiceError::bug(&"it was not to be reserved again")),
        }
    }

    /// Reserves keys in one round trip; in one more where others were quicker
    /// with all that was named and there are keys that were not. True: a model
    /// that needs a key got none, and nothing stays reserved.
    async fn reserve_some(
        &self,
        command: &Select,
        wishes: Vec<Wish>,
    ) -> Result<Option<(Reserved, bool, UnderWay)>, ServiceError> {
        let Some((reserved, under_way)) = self.reserve(&command.session, &wishes).await? else {
            return Ok(None);
        };
        let refused = refused_wishes(&wishes, &reserved);
        if refused.is_empty() {
            return Ok(Some((reserved, false, under_way)));
        }
        let Some(further) = self.engine.further_wishes(command, &refused)? else {
            return Ok(Some((reserved, true, under_way)));
        };
        let again = self.reserve(&command.session, &further).await?;
        Ok(again.map(|(reserved, under_way)| {
            let is_refused = !refused_wishes(&further, &reserved).is_empty();
            (reserved, is_refused, under_way)
        }))
    }

    /// None when nodes cannot be asked, and this node's own count is to do.
    async fn reserve(
        &self,
        session: &SessionRef,
        wishes: &[Wish],
    ) -> Result<Option<(Reserved, UnderWay)>, ServiceError> {
        let Some(fleet) = &self.fleet else { return Ok(None) };
        let reserved = fleet.reserve(session, wishes).await;
        if reserved.is_none() && self.node.caps_alone == CapsAlone::Refuse {
            return Err(caps_unknown());
        }
        Ok(reserved)
    }

    fn selected(&self, selected: &Selected) -> Result<v1::SelectKeysResponse, ServiceError> {
        let expires_at = Some(self.timestamp(selected.deadline));
        let keys = selected.picks.iter().map(|pick| self.key(pick, expires_at));
        Ok(v1::SelectKeysResponse {
            success: true,
            keys: keys.collect::<Result<_, _>>()?,
            error: String::new(),
            expires_at,
            shortages: selected.shortages.iter().map(shortage).collect(),
        })
    }

    fn key(
        &self,
        pick: &Pick,
        expires_at: Option<prost_types::Timestamp>,
    ) -> Result<v1::SelectedKey, ServiceError> {
        let secret = self.keys.secret(pick.key).ok_or_else(withdrawn_meanwhile)?;
        Ok(v1::SelectedKey {
            provider: pick.model.provider().to_owned(),
            model: pick.model.model().to_owned(),
            api_key: secret.expose().to_owned(),
            key_id: pick.key.to_string(),
            tier: wire::tier(pick.tier).into(),
            expires_at,
            already_held: pick.already_held,
        })
    }
}

/// Those of which nothing was reserved, though the call needs it.
fn refused_wishes(wishes: &[Wish], reserved: &Reserved) -> Vec<Wish> {
    let is_refused = |wish: &&Wish| {
        wish.is_needed && reserved.get(&wish.model).is_none_or(|keys| keys.is_empty())
    };
    wishes.iter().filter(is_refused).cloned().collect()
}

fn caps_unknown() -> ServiceError {
    ServiceError::new(
        ErrorKind::Unavailable,
        "CAPS_UNKNOWN",
        "the keys have a cap that must hold among all nodes, and these cannot be asked now \
         (caps_alone = \"refuse\"); try again when Health says that the fleet is back",
    )
    .retry_after(Duration::from_secs(1))
}

fn withdrawn_meanwhile() -> ServiceError {
    ServiceError::new(
        ErrorKind::Unavailable,
        "KEY_WITHDRAWN",
        "a chosen key was withdrawn by a reload at the same time; ask again",
    )
    .retry_after(Duration::from_millis(50))
}

fn refusal_error(refusal: &SelectRefusal) -> ServiceError {
    match refusal {
        SelectRefusal::Short(_) => ServiceError::bug(&"a shortage is an answer, not an error"),
        SelectRefusal::OtherUser => ServiceError::new(
            ErrorKind::Conflict,
            "SESSION_OF_OTHER_USER",
            "the session is open for another user_id; release it first or use another session_id",
        ),
        SelectRefusal::TooManySessions => ServiceError::new(
            ErrorKind::Exhausted,
            "TOO_MANY_SESSIONS",
            "as many sessions are live as may be (sessions_max); release some or wait",
        )
        .retry_after(Duration::from_secs(1)),
        SelectRefusal::TooManyOfOwner => ServiceError::new(
            ErrorKind::Exhausted,
            "SESSIONS_LIMIT",
            "the caller's uid has as many live sessions as the policy allows (sessions_max); \
             release some or wait",
        )
        .with("limit", "sessions_max")
        .retry_after(Duration::from_secs(1)),
        SelectRefusal::TooManyAllocations => ServiceError::new(
            ErrorKind::Exhausted,
            "TOO_MANY_KEYS_HELD",
            "the session holds as many keys as it may (session_allocations_max), or all together \
             do (8 for each of sessions_max); release some",
        ),
    }
}

fn refused(shortages: &[Shortage]) -> v1::SelectKeysResponse {
    let error: Vec<String> = shortages.iter().map(in_words).collect();
    v1::SelectKeysResponse {
        success: false,
        error: error.join("; "),
        shortages: shortages.iter().map(shortage).collect(),
        ..Default::default()
    }
}

fn in_words(shortage: &Shortage) -> String {
    let Shortage { model, wanted, given, keys_total, keys_cooling, keys_at_cap, .. } = shortage;
    let soonest = match shortage.retry_after {
        Some(time) => format!(", the first is back in {} s", time.as_secs_f64().ceil()),
        None => String::new(),
    };
    let all = match given {
        0 => format!("all {keys_total} keys are"),
        _ => format!("{given} of {wanted} can be given, the other keys are"),
    };
    match shortage.reason {
        ShortageReason::UnknownModel => match shortage.did_you_mean.first() {
            Some(near) => format!("{model}: no key serves it; did you mean {near}?"),
            None => format!("{model}: no key serves it"),
        },
        ShortageReason::AllCooling => {
            format!("{model}: {all} cooling{soonest}")
        }
        ShortageReason::AllAtCap => {
            format!("{model}: {all} held by as many sessions as they may be")
        }
        ShortageReason::PoolTooSmall | ShortageReason::NoneUsable => format!(
            "{model}: none of {keys_total} keys is usable: {keys_cooling} cooling{soonest}, {keys_at_cap} at their cap, the others with weight 0"
        ),
    }
}

fn shortage(shortage: &Shortage) -> v1::Shortage {
    let reason = match shortage.reason {
        ShortageReason::UnknownModel => v1::ShortageReason::UnknownModel,
        ShortageReason::PoolTooSmall => v1::ShortageReason::PoolTooSmall,
        ShortageReason::AllCooling => v1::ShortageReason::AllCooling,
        ShortageReason::AllAtCap => v1::ShortageReason::AllAtCap,
        ShortageReason::NoneUsable => v1::ShortageReason::NoneUsable,
    };
    v1::Shortage {
        model: shortage.model.to_string(),
        reason: reason.into(),
        wanted: wire::small_count(shortage.wanted),
        given: wire::small_count(shortage.given),
        keys_total: wire::small_count(shortage.keys_total),
        keys_cooling: wire::small_count(shortage.keys_cooling),
        keys_at_cap: wire::small_count(shortage.keys_at_cap),
        retry_after: shortage.retry_after.and_then(|time| time.try_into().ok()),
        did_you_mean: shortage.did_you_mean.iter().map(ToString::to_string).collect(),
    }
}
