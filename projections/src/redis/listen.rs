use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::error::ProjectionError;
use crate::fleet::{Listen, News};
use crate::redis::Shared;
use crate::redis::connect;
use crate::redis::fault::Fault;
use crate::redis::names;
use crate::redis::rows;

/// News that may wait in this process: as many bytes as Redis itself would let
/// wait for a subscriber.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// After how long a silence the server is asked whether it is still there.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A subscription over a connection of its own.
pub(crate) struct Subscription {
    shared: Arc<Shared>,
    connection: MultiplexedConnection,
    waiting: UnboundedReceiver<Waiting>,
    bytes: Arc<AtomicUsize>,
    heard: Instant,
    /// Why there will be no more news.
    broken: Option<Fault>,
}

/// What the connection brought.
enum Waiting {
    /// A message of a channel.
    Message(String, String),
    /// Nothing more will come, and why.
    End(&'static str),
}

impl Subscription {
    /// Subscribes to the nodes that join.
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<Self, Fault> {
        let (sender, waiting) = unbounded_channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&bytes);
        let receive = move |push: PushInfo| match message(push, &counted) {
            Some(message) => sender.send(message).is_ok(),
            None => true,
        };
        let opening = connect::open_for_news(&shared.settings, Arc::new(receive));
        let connection = opening.await?;
        let heard = Instant::now();
        let mut listen = Self { shared, connection, waiting, bytes, heard, broken: None };
        listen.subscribe(names::JOINED).await?;
        Ok(listen)
    }

    async fn subscribe(&mut self, channel: &str) -> Result<(), Fault> {
        let timeout = self.shared.settings.timeout;
        connect::within(timeout, self.connection.subscribe(channel)).await
    }

    async fn try_next(&mut self) -> Result<News, Fault> {
        loop {
            match timeout_at(self.heard + SILENCE_MAX, self.waiting.recv()).await {
                Ok(Some(Waiting::Message(channel, text))) => {
                    self.heard = Instant::now();
                    self.bytes.fetch_sub(text.len(), Ordering::Relaxed);
                    if let Some(news) = self.news(&channel, &text) {
                        return Ok(news);
                    }
                }
                Ok(Some(Waiting::End(reason))) => return Err(broken(reason)),
                Ok(None) => return Err(broken("the connection was closed")),
                Err(_) => self.ask_whether_there().await?,
            }
        }
    }

    async fn ask_whether_there(&mut self) -> Result<(), Fault> {
        let mut connection = self.connection.clone();
        let timeout = self.shared.settings.timeout;
        connect::within(timeout, redis::cmd("PING").exec_async(&mut connection)).await?;
        self.heard = Instant::now();
        Ok(())
    }

    /// None: nothing that concerns this node. What cannot be read is left out:
    /// then the next piece does not join on, and the node is read whole.
    fn news(&self, channel: &str, text: &str) -> Option<News> {
        if channel == names::JOINED {
            return (text != self.shared.node()).then(|| News::Joined { node: text.into() });
        }
        let node = names::node_of_changes(channel)?;
        match rows::news(text, self.shared.offset()?) {
            Ok((from, to, rows)) => Some(News::Rows { node: node.into(), from, to, rows }),
            Err(error) => {
                tracing::warn!(node, error, "news of a node that cannot be read are left out");
                None
            }
        }
    }

    async fn try_follow(&mut self, node: &str) -> Result<(), Fault> {
        // Known before the first row comes: taking news must not wait.
        self.shared.known_offset().await?;
        self.subscribe(&names::changes(node)).await
    }
}

#[async_trait]
impl Listen for Subscription {
    async fn follow(&mut self, node: &str) -> Result<(), ProjectionError> {
        let followed = self.try_follow(node).await;
        followed.map_err(|fault| fault.at(&self.shared.store))
    }

    async fn next(&mut self) -> Result<News, ProjectionError> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone().at(&self.shared.store));
        }
        let next = self.try_next().await;
        next.map_err(|fault| {
            self.broken = Some(fault.clone());
            fault.at(&self.shared.store)
        })
    }
}

/// What a push message means, if it concerns us.
fn message(push: PushInfo, waiting: &AtomicUsize) -> Option<Waiting> {
    if push.kind == PushKind::Disconnection {
        return Some(Waiting::End("the connection was lost"));
    }
    if push.kind != PushKind::Message {
        return None;
    }
    let mut data = push.data.into_iter().map(redis::from_redis_value::<String>);
    let (Some(Ok(channel)), Some(Ok(text))) = (data.next(), data.next()) else { return None };
    let before = waiting.fetch_add(text.len(), Ordering::Relaxed);
    if before.saturating_add(text.len()) > WAITING_BYTES_MAX {
        return Some(Waiting::End("news came faster than they were taken"));
    }
    Some(Waiting::Message(channel, text))
}

fn broken(reason: &str) -> Fault {
    Fault::Unavailable(reason.to_owned(), "listen anew".into())
}
