//! What a Redis server says of itself.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use key_server_testkit::redis::{ADMIN_PASSWORD, RedisServer};

use crate::clock::now;
use crate::figures::median_time;

/// Commands since the server's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commands {
    /// Also those within scripts.
    pub(crate) all: f64,
    /// Scripts.
    pub(crate) scripts: f64,
}

/// A server that keeps what it has as one should: an append-only file, synced
/// every second.
pub(crate) fn start() -> anyhow::Result<RedisServer> {
    RedisServer::start(&["appendonly yes", "appendfsync everysec"])
        .context("the part needs redis-server in PATH, or in KEY_SERVER_TEST_REDIS")
}

/// How many commands it has run.
pub(crate) fn commands(redis: &RedisServer) -> anyhow::Result<Commands> {
    let all = figure(redis, "stats", "total_commands_processed:")?;
    let stats: String = redis.ask(&["INFO", "commandstats"])?;
    let calls =
        |name: &str| stats.lines().find_map(|line| line.strip_prefix(name)?.split(',').next());
    let scripts = calls("cmdstat_evalsha:calls=").unwrap_or("0").parse()?;
    Ok(Commands { all, scripts })
}

/// Bytes that it has allocated.
pub(crate) fn used_memory(redis: &RedisServer) -> anyhow::Result<f64> {
    figure(redis, "memory", "used_memory:")
}

fn figure(redis: &RedisServer, section: &str, name: &str) -> anyhow::Result<f64> {
    let info: String = redis.ask(&["INFO", section])?;
    let figure = info.lines().find_map(|line| line.strip_prefix(name));
    Ok(figure.with_context(|| format!("INFO {section} has no {name}"))?.trim().parse()?)
}

/// The median time of so many pings over one TCP connection: the least that
/// asking Redis something costs.
pub(crate) fn round_trip(redis: &RedisServer, pings: usize) -> anyhow::Result<Duration> {
    let stream = TcpStream::connect(("127.0.0.1", redis.port()))?;
    stream.set_nodelay(true)?;
    let mut server = BufReader::new(stream);
    let mut ask = |words: &str, answer: &str| -> anyhow::Result<Duration> {
        let (begin, mut line) = (now(), String::new());
        server.get_mut().write_all(words.as_bytes())?;
        server.read_line(&mut line)?;
        ensure!(line.trim_end() == answer, "Redis answered {line}");
        Ok(begin.elapsed())
    };
    ask(&format!("AUTH {ADMIN_PASSWORD}\r\n"), "+OK")?;
    let times: Vec<Duration> =
        (0..pings).map(|_| ask("PING\r\n", "+PONG")).collect::<Result<_, _>>()?;
    Ok(median_time(&times))
}
