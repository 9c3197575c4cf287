//! Clients that keep books of what they were answered, to be compared with
//! what servers say afterwards.

use std::collections::{BTreeMap, BTreeSet};

use key_server_proto::v1;
use tonic::Status;
use tonic_types::StatusExt;

use crate::client::Client;
use crate::random::Random;

/// Acknowledged reports that a client makes again.
const REPEATS_COUNT: usize = 5;

/// What one client knows, from answers alone.
pub struct Books {
    client: usize,
    models: Vec<String>,
    random: Random,
    reports_late: bool,
    made: usize,
    /// By id.
    pub sessions: BTreeMap<String, Session>,
    /// Acknowledged.
    pub reported: Vec<v1::TrackUsageRequest>,
    /// At most one call is under way.
    pub unanswered: Option<Call>,
}

/// A session, as its client knows it.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// (model, key) that were ever given.
    pub given: BTreeSet<(String, String)>,
    /// (model, key) that it holds.
    pub held: BTreeSet<(String, String)>,
    /// What it reported for each (model, key), since it got it.
    pub spent: BTreeMap<(String, String), v1::Usage>,
    /// Whether it was not released.
    pub is_live: bool,
    /// Whether it gave back a model and went on; what it spends with that
    /// afterwards may be counted anew.
    pub was_split: bool,
}

/// A call of a client.
#[derive(Clone, Debug)]
pub enum Call {
    /// Takes keys.
    Select(v1::SelectKeysRequest),
    /// Reports.
    Track(v1::TrackUsageRequest),
    /// Gives back.
    Release(v1::ReleaseKeyRequest),
}

impl Session {
    /// Each key that it holds, once.
    pub fn held_keys(&self) -> BTreeSet<&str> {
        self.held.iter().map(|(_, key)| key.as_str()).collect()
    }
}

impl Books {
    /// Empty ones of a client that asks for these models.
    pub fn new(client: usize, models: &[&str]) -> Self {
        Self {
            client,
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            random: Random::new(client as u64 + 100),
            reports_late: true,
            made: 0,
            sessions: BTreeMap::new(),
            reported: Vec::new(),
            unanswered: None,
        }
    }

    /// Of a client that reports nothing for sessions that it has released: only
    /// the node where a session ended takes that.
    #[must_use]
    pub fn without_late_reports(self) -> Self {
        Self { reports_late: false, ..self }
    }

    /// The user that its sessions work for.
    ///
    /// # Panics
    /// With more than two thousand million clients.
    pub fn user(&self) -> i32 {
        i32::try_from(self.client).expect("clients are few")
    }

    /// Sessions that were not released.
    pub fn live(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values().filter(|session| session.is_live)
    }

    /// Makes another call; false when there is no answer, and the call is still
    /// under way.
    ///
    /// # Panics
    /// When the answer is not what the books say, or a refusal.
    pub async fn call(&mut self, client: &mut Client) -> bool {
        self.unanswered = Some(self.next_call());
        self.answer(client, false).await
    }

    fn next_call(&mut self) -> Call {
        self.made += 1;
        let name = format!("{}-{}", self.client, self.made);
        let sessions = self.sessions.iter();
        let sessions = sessions.filter(|(_, session)| session.is_live || self.reports_late);
        let sessions: Vec<_> = sessions.map(|(id, _)| id.clone()).collect();
        if sessions.is_empty() || self.random.below(4) == 0 {
            return self.select(name);
        }
        let session = sessions[self.random.below(sessions.len())].clone();
        let holds = !self.sessions[&session].held.is_empty();
        match (self.random.below(10), self.sessions[&session].is_live) {
            (0, true) => self.select(session),
            // What was given back is known only where that was.
            _ if !holds && !self.reports_late => self.select(session),
            (1..3, true) => Call::Release(self.release(session)),
            _ => Call::Track(self.track(session, name)),
        }
    }

    fn select(&mut self, session: String) -> Call {
        let first = self.random.below(self.models.len());
        let models = self.models.iter().cycle().skip(first).take(1 + self.random.below(2));
        let models: Vec<_> = models.cloned().collect();
        Call::Select(v1::SelectKeysRequest {
            session_id: session,
            user_id: self.user(),
            models,
            count_per_model: i32::try_from(self.random.below(4)).expect("it is small"),
        })
    }

    fn track(&mut self, session: String, event_id: String) -> v1::TrackUsageRequest {
        let known = &self.sessions[&session];
        let given = if self.reports_late { &known.given } else { &known.held };
        let given: Vec<_> = given.iter().cloned().collect();
        let (model, key_id) = given[self.random.below(given.len())].clone();
        let failed = self.random.below(5) == 0;
        let outcome = if failed { v1::Outcome::ProviderError } else { v1::Outcome::Success };
        let mut tokens = || i64::try_from(self.random.below(500)).expect("it is small");
        v1::TrackUsageRequest {
            session_id: session,
            key_id,
            model,
            input_tokens: tokens(),
            output_tokens: tokens(),
            outcome: outcome.into(),
            event_id,
            ..v1::TrackUsageRequest::default()
        }
    }

    /// A whole session, or one model of it.
    fn release(&mut self, session: String) -> v1::ReleaseKeyRequest {
        let held = self.sessions[&session].held.iter().next();
        let model = held.filter(|_| self.made.is_multiple_of(2)).map(|(model, _)| model.clone());
        v1::ReleaseKeyRequest {
            session_id: session,
            model: model.unwrap_or_default(),
            ..v1::ReleaseKeyRequest::default()
        }
    }

    /// Makes the call that is under way; true once its answer is in the books.
    ///
    /// # Panics
    /// When the answer is not what the books say, or a refusal.
    pub async fn answer(&mut self, client: &mut Client, is_repeat: bool) -> bool {
        let call = self.unanswered.clone().expect("a call is under way");
        let answered = match call {
            Call::Select(request) => {
                let reply = client.select_keys_for_session(request.clone()).await;
                reply.map(|reply| self.selected(&request, reply.into_inner(), is_repeat))
            }
            Call::Track(request) => {
                let reply = client.track_usage(request.clone()).await;
                reply.map(|_| self.tracked(request))
            }
            Call::Release(request) => {
                let reply = client.release_key(request.clone()).await;
                reply.map(|_| self.released(&request))
            }
        };
        if let Err(status) = answered {
            assert_lost(&status);
            return false;
        }
        self.unanswered = None;
        true
    }

    /// Makes some acknowledged reports again: they count once.
    ///
    /// # Panics
    /// When they are not known.
    pub async fn repeat_reports(&mut self, client: &mut Client) {
        for _ in 0..REPEATS_COUNT.min(self.reported.len()) {
            let report = self.reported[self.random.below(self.reported.len())].clone();
            let reply = client.track_usage(report).await.expect("it is known");
            assert!(reply.into_inner().success);
        }
    }

    fn selected(
        &mut self,
        request: &v1::SelectKeysRequest,
        reply: v1::SelectKeysResponse,
        is_repeat: bool,
    ) {
        assert!(reply.success, "{}", reply.error);
        let session = self.sessions.entry(request.session_id.clone()).or_default();
        session.is_live = true;
        for key in reply.keys {
            assert!(key.api_key.contains("fake"), "a key is a key");
            let allocation = (format!("{}/{}", key.provider, key.model), key.key_id);
            // What the first try was given is unknown to a repeat.
            assert!(is_repeat || key.already_held == session.held.contains(&allocation));
            session.given.insert(allocation.clone());
            session.held.insert(allocation);
        }
    }

    fn tracked(&mut self, report: v1::TrackUsageRequest) {
        let session = self.sessions.get_mut(&report.session_id).expect("it is ours");
        let held = (report.model.clone(), report.key_id.clone());
        add(session.spent.entry(held).or_default(), &report);
        self.reported.push(report);
    }

    fn released(&mut self, request: &v1::ReleaseKeyRequest) {
        let session = self.sessions.get_mut(&request.session_id).expect("it is ours");
        if request.model.is_empty() {
            session.is_live = false;
            session.held.clear();
        } else {
            session.held.retain(|(model, _)| *model != request.model);
            session.was_split = true;
        }
    }
}

/// Only a dead daemon may leave a call without an answer.
fn assert_lost(status: &Status) {
    assert!(status.get_error_details().error_info().is_none(), "{status:?}");
}

/// Adds a report to what was spent.
pub fn add(usage: &mut v1::Usage, report: &v1::TrackUsageRequest) {
    usage.requests += 1;
    usage.input_tokens += report.input_tokens;
    usage.output_tokens += report.output_tokens;
    usage.failures += i64::from(report.outcome() != v1::Outcome::Success);
}
