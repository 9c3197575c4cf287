use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use key_server_core::{PoolStats, Time};
use redis::{Cmd, from_redis_value};
use tokio::time::Instant;

use crate::fleet::{Announced, NodeStatus};
use crate::redis::Shared;
use crate::redis::clock::Offset;
use crate::redis::fault::Fault;
use crate::redis::names;

/// How often what several nodes share is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);

/// After so many announcements the server is looked at again.
const CHECK_EVERY: u32 = 60;

const TWICE: &str = "another server announces itself as this node: is it a copy of this node's \
                     state directory? Stop one of the two; a new node begins with an empty one";

/// What is remembered from announcement to announcement.
#[derive(Default)]
pub(crate) struct Presence {
    /// The connection over which the server was looked at, and how many
    /// announcements ago.
    checked: Option<(u64, u32)>,
    /// Whether the others were told.
    joined: bool,
    /// Whether this process announced the node before.
    announced: bool,
    /// When what several nodes share was renewed.
    renewed: Option<Instant>,
    /// Pools that the node may have written itself into; none when it does not
    /// know.
    pools: Option<BTreeSet<String>>,
    /// What is wrong with the server, as far as that was looked at.
    warnings: Vec<String>,
}

/// What the server answered to an announcement.
struct Heard {
    was_there: bool,
    mark_seq: Option<u64>,
    /// The process that announced the node before; empty: none did.
    process: String,
    /// With which the rows were converted.
    offset: Offset,
    /// As it is now.
    measured: Offset,
    /// By how much that may be wrong.
    doubt: Duration,
}

impl Shared {
    /// Says that the node is there, and how it is.
    pub(crate) async fn announce(&self, status: &NodeStatus) -> Result<Announced, Fault> {
        let begun = Instant::now();
        let mut presence = self.presence.lock().await;
        self.check_anew(&mut presence).await?;
        let heard = self.say(status, begun).await?;
        let clock_moved = heard.measured.is_apart(heard.offset, heard.doubt);
        if clock_moved {
            self.move_clock(heard.measured, status.started).await?;
        }
        self.set_offset(if clock_moved { heard.measured } else { heard.offset });
        self.join(&mut presence, heard.was_there).await?;
        if let Some(pools) = &status.pools {
            self.write_pools(&mut presence, pools).await?;
        }
        self.renew(&mut presence).await?;
        let mark_seq = heard.mark_seq.filter(|_| !clock_moved);
        let mut warnings = presence.warnings.clone();
        if presence.announced && !heard.process.is_empty() && heard.process != *self.process {
            warnings.push(TWICE.to_owned());
        }
        presence.announced = true;
        Ok(Announced { mark_seq, clock_moved, warnings })
    }

    /// Looks at the server with each new connection to it, and now and then:
    /// its settings may change.
    async fn check_anew(&self, presence: &mut Presence) -> Result<(), Fault> {
        let number = self.publisher.number().await?;
        let checked = presence.checked.filter(|(checked, _)| *checked == number);
        let ago = checked.map(|(_, ago)| ago + 1);
        if let Some(ago) = ago.filter(|ago| *ago < CHECK_EVERY) {
            presence.checked = Some((number, ago));
            return Ok(());
        }
        presence.warnings = self.check(checked.is_none()).await?;
        presence.checked = Some((number, 0));
        Ok(())
    }

    /// `status.now` was true when it had `begun`.
    async fn say(&self, status: &NodeStatus, begun: Instant) -> Result<Heard, Fault> {
        let offset = self.offset_at(status.now.after(begun.elapsed())).await?;
        let (keys, arguments) = (self.own_names(), self.announcement(status, offset));
        let asked = begun.elapsed();
        let answer = self.publisher.run(&self.scripts.announce, &keys, &arguments).await?;
        let (fleet_ms, heartbeat, seq, stored, process): (u64, String, String, i64, String) =
            from_redis_value(answer)?;
        // The server looked at its clock somewhere between; half-way, it seems.
        let doubt = (begun.elapsed() - asked) / 2;
        let now = status.now.after(asked + doubt);
        Ok(Heard {
            was_there: !heartbeat.is_empty(),
            mark_seq: seq.parse().ok(),
            process,
            offset: Offset::from_ms(stored),
            measured: Offset::between(now, fleet_ms),
            doubt,
        })
    }

    fn announcement(&self, status: &NodeStatus, offset: Offset) -> [String; 8] {
        [
            status.version.to_owned(),
            offset.to_fleet(status.started).to_string(),
            status.keys.to_string(),
            status.sessions_live.to_string(),
            rustix::system::uname().nodename().to_string_lossy().into_owned(),
            offset.as_ms().to_string(),
            names::KEPT_MS.to_string(),
            self.process.to_string(),
        ]
    }

    async fn move_clock(&self, offset: Offset, started: Time) -> Result<(), Fault> {
        let keys = [names::node(self.node())];
        let arguments = [offset.as_ms().to_string(), offset.to_fleet(started).to_string()];
        self.publisher.run(&self.scripts.move_clock, &keys, &arguments).await?;
        Ok(())
    }

    /// Sees to it that the node is in the list of nodes: others may have lost
    /// it, or taken it out. They are told when it was not, once, and after a
    /// loss of the rest.
    async fn join(&self, presence: &mut Presence, was_there: bool) -> Result<(), Fault> {
        if !was_there {
            presence.pools = None;
        }
        // Told again after an answer that was lost.
        let was_told = std::mem::take(&mut presence.joined);
        let node = self.node();
        let added = self.publisher.ask_one(command("SADD", &[names::NODES, node])).await?;
        let is_new = from_redis_value::<bool>(added)? || !was_there;
        if is_new {
            presence.renewed = None;
        }
        if is_new || !was_told {
            self.publisher.ask_one(command("PUBLISH", &[names::JOINED, node])).await?;
        }
        presence.joined = true;
        Ok(())
    }

    async fn write_pools(&self, presence: &mut Presence, pools: &[PoolStats]) -> Result<(), Fault> {
        let node = self.node();
        let names: BTreeSet<String> =
            pools.iter().map(|pool| pool.model.as_str().to_owned()).collect();
        let before = self.pools_before(presence).await?;
        let gone = before.difference(&names);
        let mut commands: Vec<Cmd> =
            gone.map(|pool| command("HDEL", &[&names::pool(pool), node])).collect();
        for pool in pools {
            let model = pool.model.as_str();
            commands.push(command("SADD", &[names::POOLS, model]));
            commands.push(command("HSET", &[&names::pool(model), node, &counts(pool)]));
        }
        self.publisher.ask(&commands).await?;
        if !names.is_subset(&before) {
            presence.renewed = None;
        }
        presence.pools = Some(names);
        Ok(())
    }

    /// Pools that the node may be written into: all that there are when it has
    /// just begun.
    async fn pools_before(&self, presence: &Presence) -> Result<BTreeSet<String>, Fault> {
        if let Some(pools) = &presence.pools {
            return Ok(pools.clone());
        }
        let pools = self.publisher.ask_one(command("SMEMBERS", &[names::POOLS])).await?;
        Ok(from_redis_value(pools)?)
    }

    /// Renews what several nodes share, now and then.
    async fn renew(&self, presence: &mut Presence) -> Result<(), Fault> {
        if presence.renewed.is_some_and(|renewed| renewed.elapsed() < RENEW_EVERY) {
            return Ok(());
        }
        let kept = names::KEPT_MS.to_string();
        let shared = [names::NODES.to_owned(), names::POOLS.to_owned()];
        let pools = presence.pools.iter().flatten().map(|pool| names::pool(pool));
        let names = shared.into_iter().chain(pools);
        let commands: Vec<Cmd> = names.map(|name| command("PEXPIRE", &[&name, &kept])).collect();
        self.publisher.ask(&commands).await?;
        presence.renewed = Some(Instant::now());
        Ok(())
    }

    /// The offset in use. Before the first announcement it is the one that is
    /// stored with the rows, or else measured at `now`.
    pub(crate) async fn offset_at(&self, now: Time) -> Result<Offset, Fault> {
        if let Some(offset) = self.offset() {
            return Ok(offset);
        }
        let stored = command("HGET", &[&names::node(self.node()), "offset"]);
        let answers = self.publisher.ask(&[stored, redis::cmd("TIME")]).await?;
        let [stored, time] = <[_; 2]>::try_from(answers)
            .map_err(|_| Fault::Corrupt("an answer is missing".into()))?;
        let offset = match from_redis_value::<Option<i64>>(stored)? {
            Some(ms) => Offset::from_ms(ms),
            None => Offset::between(now, fleet_ms(from_redis_value(time)?)),
        };
        self.set_offset(offset);
        Ok(offset)
    }

    pub(crate) fn offset(&self) -> Option<Offset> {
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_offset(&self, offset: Offset) {
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner) = Some(offset);
    }

    /// The offset, for what makes no sense without one: that in use, or else
    /// the one that is stored with the node's rows.
    pub(crate) async fn known_offset(&self) -> Result<Offset, Fault> {
        if let Some(offset) = self.offset() {
            return Ok(offset);
        }
        let stored = command("HGET", &[&names::node(self.node()), "offset"]);
        let stored: Option<i64> = from_redis_value(self.reader.ask_one(stored).await?)?;
        let offset = stored.map(Offset::from_ms).ok_or_else(|| {
            let reason = "the node has not announced itself yet".to_owned();
            Fault::Unavailable(reason, "wait for its first announcement".into())
        })?;
        self.set_offset(offset);
        Ok(offset)
    }
}

/// Milliseconds of what `TIME` answers: seconds, and microseconds of the next.
pub(crate) fn fleet_ms((seconds, micros): (u64, u64)) -> u64 {
    seconds.saturating_mul(1_000).saturating_add(micros / 1_000)
}

pub(crate) fn command(name: &str, arguments: &[&str]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(arguments);
    command
}

/// For people: `keys=3 usable=2 cooling=1 at_cap=0`.
fn counts(pool: &PoolStats) -> String {
    let PoolStats { usable, cooling, at_cap, .. } = pool;
    let keys = usable + cooling + at_cap;
    format!("keys={keys} usable={usable} cooling={cooling} at_cap={at_cap}")
}
