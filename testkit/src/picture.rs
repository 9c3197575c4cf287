//! Everything that `GetStats` shows, to be compared.

use crate::client::Client;
use key_server_proto::v1;

/// All keys, pools, sessions and totals. Without instants: between two runs of
/// a daemon their display may differ by the milliseconds between two clocks.
#[derive(Debug, PartialEq)]
pub struct Picture {
    /// By id.
    pub keys: Vec<v1::KeyStats>,
    /// By name.
    pub pools: Vec<v1::PoolStats>,
    /// By owner and id.
    pub sessions: Vec<v1::SessionStats>,
    /// As shown to an operator.
    pub totals: v1::Totals,
}

/// What the daemon shows to an operator.
///
/// # Panics
/// When it refuses.
pub async fn picture(client: &mut Client) -> Picture {
    let mut picture = Picture {
        keys: Vec::new(),
        pools: Vec::new(),
        sessions: Vec::new(),
        totals: v1::Totals::default(),
    };
    for view in [v1::StatsView::Keys, v1::StatsView::Pools, v1::StatsView::Sessions] {
        picture.add(client, view).await;
    }
    picture.keys.sort_by(|a, b| a.key_id.cmp(&b.key_id));
    let name = |session: &v1::SessionStats| (session.owner_uid, session.session_id.clone());
    picture.sessions.sort_by_key(name);
    picture.keys.iter_mut().for_each(|key| key.last_used_at = None);
    picture.sessions.iter_mut().for_each(forget_instants);
    picture
}

impl Picture {
    async fn add(&mut self, client: &mut Client, view: v1::StatsView) {
        let mut request = v1::GetStatsRequest {
            view: view.into(),
            page_size: 1_000,
            ..v1::GetStatsRequest::default()
        };
        loop {
            let page = client.get_stats(request.clone()).await.expect("an operator may");
            let page = page.into_inner();
            self.keys.extend(page.keys);
            self.pools.extend(page.pools);
            self.sessions.extend(page.sessions);
            self.totals = page.totals.expect("an operator sees totals");
            if page.next_page_token.is_empty() {
                return;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// A session by its name.
    pub fn session(&self, owner: u32, id: &str) -> Option<&v1::SessionStats> {
        let mut sessions = self.sessions.iter();
        sessions.find(|session| session.owner_uid == owner && session.session_id == id)
    }
}

/// Whether a session has ended stays visible.
fn forget_instants(session: &mut v1::SessionStats) {
    let some = |instant: &Option<_>| instant.is_some().then(prost_types::Timestamp::default);
    session.opened_at = None;
    session.expires_at = some(&session.expires_at);
    session.ended_at = some(&session.ended_at);
}
