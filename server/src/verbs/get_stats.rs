use key_server_core::{
    KeyId, KeyState, KeyStats, ModelName, NodeKeyStats, NodeTotals, PoolStats, SessionRef,
    SessionStats, State, Totals, Usage,
};
use key_server_proto::v1;

use super::wire;
use crate::error::{ErrorKind, ServiceError};
use crate::gate::Pass;
use crate::guard::Peer;
use crate::policy::Verb;
use crate::service::Service;

/// Rows that one call looks at for each row it may answer with: a page may be
/// short, and the next goes on behind it.
const LOOKED_AT_PER_ROW: usize = 10;
/// What page tokens of other nodes' sessions begin with.
const GUESTS: &str = "g";
/// Sessions of one user that a call looks at.
const SESSIONS_OF_USER_MAX: usize = 10_000;

/// What a caller wants to see.
struct Wanted {
    provider: String,
    model: Option<ModelName>,
    key: Option<KeyId>,
    user: Option<i32>,
    session: Option<SessionRef>,
    rows_max: usize,
    token: String,
}

/// Rows and where the next page begins.
struct Page<Row> {
    rows: Vec<Row>,
    next: Option<String>,
}

impl Service {
    pub(crate) fn get_stats(
        &self,
        caller: &Peer,
        pass: Option<&Pass>,
        request: &v1::GetStatsRequest,
    ) -> Result<v1::GetStatsResponse, ServiceError> {
        let view = v1::StatsView::try_from(request.view)
            .map_err(|_| ServiceError::invalid("view", "this view is not known"))?;
        self.guard.allow(caller, Verb::Stats)?;
        let sees_all = self.guard.may(caller, Verb::StatsAll);
        let wanted = self.wanted(caller, request, view)?;
        pass.map_or(Ok(()), |pass| pass.widen(wanted.rows_max as u64))?;
        let mut response = v1::GetStatsResponse::default();
        let next = match view {
            v1::StatsView::Unspecified | v1::StatsView::Keys => {
                let page = self.engine.read(|state| wanted.keys(state))?;
                response.keys = match wanted.session.as_ref().filter(|_| !sees_all) {
                    Some(session) => self.own_key_stats(session, page.rows),
                    None => page.rows.into_iter().map(|key| self.key_stats(key)).collect(),
                };
                page.next
            }
            v1::StatsView::Pools => {
                let page = self.engine.read(|state| wanted.pools(state));
                response.pools = page.rows.into_iter().map(pool_stats).collect();
                page.next
            }
            v1::StatsView::Sessions => {
                let page = self.engine.read(|state| wanted.sessions(state))?;
                let sessions = page.rows.into_iter();
                response.sessions = sessions.map(|session| self.session_stats(session)).collect();
                page.next
            }
        };
        response.next_page_token = next.unwrap_or_default();
        if sees_all {
            response.totals = Some(totals(&self.engine.read(State::totals_everywhere)));
            if request.by_node {
                self.tell_by_node(&mut response);
            }
        }
        Ok(response)
    }

    /// Adds each node's part of the totals and of each key.
    fn tell_by_node(&self, response: &mut v1::GetStatsResponse) {
        let here = |state: &State| state.totals_here().into_iter().chain(state.node_totals());
        let nodes: Vec<NodeTotals> = self.engine.read(|state| here(state).collect());
        response.nodes = nodes.into_iter().map(node_totals).collect();
        for stats in &mut response.keys {
            let Ok(key) = stats.key_id.parse() else { continue };
            let here =
                |state: &State| state.key_here(key).into_iter().chain(state.key_by_node(key));
            let nodes: Vec<NodeKeyStats> = self.engine.read(|state| here(state).collect());
            stats.nodes = nodes.into_iter().map(|node| self.node_key_stats(node)).collect();
        }
    }

    fn node_key_stats(&self, node: NodeKeyStats) -> v1::NodeKeyStats {
        v1::NodeKeyStats {
            node_id: node.node.to_string(),
            window_tokens: wire::count(node.window_tokens),
            lifetime: Some(wire::usage(node.lifetime)),
            last_used_at: node.last_used.map(|time| self.timestamp(time)),
        }
    }

    fn wanted(
        &self,
        caller: &Peer,
        request: &v1::GetStatsRequest,
        view: v1::StatsView,
    ) -> Result<Wanted, ServiceError> {
        let guard = &self.guard;
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let session = given(&request.session_id);
        let session =
            session.map(|id| guard.session(caller, &id, request.owner_uid, Verb::StatsAll));
        let session = session.transpose()?;
        let is_known =
            |session: &SessionRef| self.engine.read(|state| state.session_stats(session).is_some());
        if session.as_ref().is_some_and(|session| !is_known(session)) {
            return Err(ServiceError::session_not_found());
        }
        // Only a session is the caller's own; pools are everybody's.
        if session.is_none() || view == v1::StatsView::Pools {
            guard.allow(caller, Verb::StatsAll)?;
        }
        let key = given(&request.key_id).map(|id| guard.key_id(&id)).transpose()?;
        if key.is_some_and(|key| !self.is_known(key, session.as_ref())) {
            return Err(key_not_found(&request.key_id));
        }
        let model = given(&request.model).map(|name| guard.model("model", &name));
        Ok(Wanted {
            provider: request.provider.to_ascii_lowercase(),
            model: model.transpose()?,
            key,
            user: request.user_id,
            session,
            rows_max: guard.page_size(request.page_size)?,
            token: request.page_token.clone(),
        })
    }

    /// Whether there is the key, or whether the session holds or held it.
    fn is_known(&self, key: KeyId, session: Option<&SessionRef>) -> bool {
        self.engine.read(|state| match session {
            None => state.key_stats(key).is_some(),
            Some(session) => state.session_stats(session).is_some_and(|session| {
                session.allocations.iter().any(|allocation| allocation.key == key)
            }),
        })
    }

    fn key_stats(&self, key: KeyStats) -> v1::KeyStats {
        let facts = &key.facts;
        let state = match key.state {
            KeyState::Usable => v1::KeyState::Usable,
            KeyState::Cooling => v1::KeyState::Cooling,
            KeyState::AtCap => v1::KeyState::AtCap,
            KeyState::Retired => v1::KeyState::Retired,
        };
        v1::KeyStats {
            key_id: facts.key.to_string(),
            provider: facts.provider().to_owned(),
            models: facts.models.iter().map(ToString::to_string).collect(),
            label: facts.label.as_deref().unwrap_or_default().to_owned(),
            state: state.into(),
            tier: wire::tier(key.tier).into(),
            weight: key.weight,
            own_weight: f64::from(facts.own_weight.thousandths()) / 1_000.0,
            holders: key.holders.into(),
            max_holders: key.holders_max.unwrap_or(0).into(),
            window_tokens: wire::count(key.window_tokens),
            lifetime: Some(wire::usage(key.lifetime)),
            last_used_at: key.last_used.map(|time| self.timestamp(time)),
            cooling_until: key.cooling_until.map(|time| self.timestamp(time)),
            sources: facts.sources.iter().map(ToString::to_string).collect(),
            nodes: Vec::new(),
        }
    }

    /// Keys as their session may see them: what it spent itself, and nothing of
    /// what others do with the same keys.
    fn own_key_stats(&self, session: &SessionRef, keys: Vec<KeyStats>) -> Vec<v1::KeyStats> {
        let session = self.engine.read(|state| state.session_stats(session));
        let allocations = session.map(|session| session.allocations).unwrap_or_default();
        let own = |key: KeyStats| {
            let id = key.facts.key;
            let own = || allocations.iter().filter(|allocation| allocation.key == id);
            let lifetime = own().fold(Usage::default(), |sum, one| sum.plus(&one.usage));
            let models = own().map(|allocation| allocation.model.to_string()).collect();
            let whole = self.key_stats(key);
            v1::KeyStats {
                key_id: whole.key_id,
                provider: whole.provider,
                models,
                state: whole.state,
                tier: whole.tier,
                cooling_until: whole.cooling_until,
                lifetime: Some(wire::usage(lifetime)),
                ..Default::default()
            }
        };
        keys.into_iter().map(own).collect()
    }

    fn session_stats(&self, session: SessionStats) -> v1::SessionStats {
        let end = self.timestamp(session.end);
        let allocations = session.allocations.into_iter().map(|allocation| v1::Allocation {
            key_id: allocation.key.to_string(),
            model: allocation.model.to_string(),
            held: allocation.held,
            usage: Some(wire::usage(allocation.usage)),
        });
        v1::SessionStats {
            session_id: session.session.id.to_string(),
            owner_uid: session.session.owner,
            user_id: session.user,
            opened_at: Some(self.timestamp(session.opened)),
            ended_at: session.ended.then_some(end),
            expires_at: (!session.ended).then_some(end),
            allocations: allocations.collect(),
            node_id: session.node.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

impl Wanted {
    fn keys(&self, state: &State) -> Result<Page<KeyStats>, ServiceError> {
        let from = self.place()?;
        let numbered = |rows: Vec<KeyStats>| rows.into_iter().enumerate().skip(from);
        Ok(if let Some(session) = &self.session {
            let of_user =
                |session: &SessionStats| self.user.is_none_or(|user| user == session.user);
            let rows = match state.session_stats(session).is_some_and(|session| of_user(&session)) {
                true => state.keys_of_session(session),
                false => Vec::new(),
            };
            self.page(numbered(rows), Self::key)
        } else if let Some(user) = self.user {
            self.page(numbered(state.keys_of_user(user, SESSIONS_OF_USER_MAX)), Self::key)
        } else if let Some(key) = self.key {
            self.page(numbered(state.key_stats(key).into_iter().collect()), Self::key)
        } else if let Some(model) = &self.model {
            self.page(state.keys_of_model(model, from), Self::key)
        } else {
            self.page(state.keys_from(from), Self::key)
        })
    }

    fn sessions(&self, state: &State) -> Result<Page<SessionStats>, ServiceError> {
        if let Some(session) = &self.session {
            let found = state.session_stats(session).map(|row| (0, row));
            return Ok(self.page(found.into_iter(), Self::session));
        }
        if let Some(place) = self.token.strip_prefix(GUESTS) {
            let from = place.parse().map_err(|_| wrong_token())?;
            return Ok(self.guests(state, from));
        }
        let from = self.place()?;
        let mut page = match self.user {
            Some(user) => {
                let rows = state.sessions_of_user(user, SESSIONS_OF_USER_MAX);
                self.page(rows.into_iter().enumerate().skip(from), Self::session)
            }
            None => self.page(state.sessions_from(from), Self::session),
        };
        if page.next.is_none() && state.guests_from(0).next().is_some() {
            page.next = Some(format!("{GUESTS}0"));
        }
        Ok(page)
    }

    /// Sessions that live at other nodes; they come after this node's own.
    fn guests(&self, state: &State, from: usize) -> Page<SessionStats> {
        let mut page = self.page(state.guests_from(from), Self::session);
        page.next = page.next.map(|place| format!("{GUESTS}{place}"));
        page
    }

    fn pools(&self, state: &State) -> Page<PoolStats> {
        let after = (!self.token.is_empty()).then_some(self.token.as_str());
        let mut pools = state.pools_after(after).filter(|pool| self.pool(pool));
        let rows: Vec<_> = pools.by_ref().take(self.rows_max).collect();
        let more = pools.next().is_some();
        let last = rows.last().map(|pool| pool.model.to_string());
        Page { rows, next: last.filter(|_| more) }
    }

    /// The place that the page begins at.
    fn place(&self) -> Result<usize, ServiceError> {
        if self.token.is_empty() {
            return Ok(0);
        }
        self.token.parse().map_err(|_| wrong_token())
    }

    fn page<Row>(
        &self,
        mut rows: impl Iterator<Item = (usize, Row)>,
        is_wanted: impl Fn(&Self, &Row) -> bool,
    ) -> Page<Row> {
        let mut page = Page { rows: Vec::new(), next: None };
        for _ in 0..self.rows_max.saturating_mul(LOOKED_AT_PER_ROW) {
            let Some((place, row)) = rows.next() else { return page };
            if page.rows.len() == self.rows_max {
                page.next = Some(place.to_string());
                return page;
            }
            if is_wanted(self, &row) {
                page.rows.push(row);
            }
        }
        page.next = rows.next().map(|(place, _)| place.to_string());
        page
    }

    fn key(&self, key: &KeyStats) -> bool {
        let models = &key.facts.models;
        self.key.is_none_or(|wanted| wanted == key.facts.key)
            && (self.provider.is_empty() || key.facts.provider() == self.provider)
            && self.model.as_ref().is_none_or(|model| models.contains(model))
    }

    fn pool(&self, pool: &PoolStats) -> bool {
        (self.provider.is_empty() || pool.model.provider() == self.provider)
            && self.model.as_ref().is_none_or(|model| *model == pool.model)
    }

    fn session(&self, session: &SessionStats) -> bool {
        let mut allocations = session.allocations.iter();
        let is_named = self.provider.is_empty() && self.model.is_none() && self.key.is_none();
        let is_held = allocations.any(|allocation| {
            (self.provider.is_empty() || allocation.model.provider() == self.provider)
                && self.model.as_ref().is_none_or(|model| *model == allocation.model)
                && self.key.is_none_or(|key| key == allocation.key)
        });
        self.user.is_none_or(|user| user == session.user) && (is_named || is_held)
    }
}

fn wrong_token() -> ServiceError {
    ServiceError::invalid("page_token", "page_token is not from this server")
}

fn key_not_found(id: &str) -> ServiceError {
    let message = "there is no such key; `key-server keys list` shows all";
    ServiceError::new(ErrorKind::NotFound, "KEY_NOT_FOUND", message).with("key_id", id)
}

fn pool_stats(pool: PoolStats) -> v1::PoolStats {
    v1::PoolStats {
        provider: pool.model.provider().to_owned(),
        model: pool.model.model().to_owned(),
        keys: wire::count(pool.usable + pool.cooling + pool.at_cap),
        usable: wire::count(pool.usable),
        cooling: wire::count(pool.cooling),
        at_cap: wire::count(pool.at_cap),
    }
}

fn node_totals(node: NodeTotals) -> v1::NodeTotals {
    v1::NodeTotals {
        node_id: node.node.to_string(),
        sessions_live: wire::count(node.sessions_live),
        window_tokens: wire::count(node.window_tokens),
        lifetime: Some(wire::usage(node.lifetime)),
    }
}

fn totals(totals: &Totals) -> v1::Totals {
    v1::Totals {
        keys: wire::count(totals.keys),
        models: wire::count(totals.models),
        sessions_live: wire::count(totals.sessions_live),
        window_tokens: wire::count(totals.window_tokens),
        lifetime: Some(wire::usage(totals.lifetime)),
    }
}
