use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::redis::connect::{self, Connection};
use crate::redis::fault::Fault;
use crate::redis::settings::{RedisMode, RedisSettings};

/// A script that the server runs as a whole.
pub(crate) struct Script {
    text: &'static str,
    hash: String,
    repeats: Repeats,
}

/// Whether to send once more what perhaps was done already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeats {
    /// Done twice, it would be something else.
    Never,
    /// Done twice is as done once.
    Once,
}

impl Script {
    pub(crate) fn new(text: &'static str) -> Self {
        let hash = redis::Script::new(text).get_hash().to_owned();
        Self { text, hash, repeats: Repeats::Never }
    }

    /// A script that comes to the same when it runs twice.
    pub(crate) fn repeatable(text: &'static str) -> Self {
        Self { repeats: Repeats::Once, ..Self::new(text) }
    }

    fn command(&self, name: &str, code: &str, keys: &[String], arguments: &[String]) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(code).arg(keys.len()).arg(keys).arg(arguments);
        command
    }
}

/// One connection, and how it is made anew: after an error at the next call.
/// No command is sent a second time, but where the server says that it did not
/// take it, and repeatable scripts: a connection that lay idle may have been
/// closed long ago, and only the next command finds out.
pub(crate) struct Lane {
    settings: Arc<RedisSettings>,
    current: Mutex<Current>,
}

/// Connections are counted, so that an error ends the one it came from.
#[derive(Default)]
struct Current {
    number: u64,
    connection: Option<Connection>,
}

/// What a command goes over.
struct Connected {
    number: u64,
    connection: Connection,
    /// Whether it was opened for this command.
    is_new: bool,
}

/// A command whose caller may lose patience: then nobody knows whether the
/// connection still leads anywhere, and the next command has a new one.
struct Unanswered<'lane> {
    lane: &'lane Lane,
    /// The connection; none once it answered.
    number: Option<u64>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        // Who holds the lock makes a new one just now, or looks at a number.
        if let Some(number) = self.number
            && let Ok(mut current) = self.lane.current.try_lock()
        {
            current.end(number);
        }
    }
}

impl Current {
    fn end(&mut self, number: u64) {
        if self.number == number {
            self.connection = None;
        }
    }
}

impl Lane {
    pub(crate) fn new(settings: Arc<RedisSettings>) -> Self {
        Self { settings, current: Mutex::default() }
    }

    /// The answers to the commands. A cluster is asked one by one, for each
    /// may be for another of its servers.
    pub(crate) async fn ask(&self, commands: &[Cmd]) -> Result<Vec<Value>, Fault> {
        self.ask_as(commands, Repeats::Never).await
    }

    async fn ask_as(&self, commands: &[Cmd], repeats: Repeats) -> Result<Vec<Value>, Fault> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        if self.settings.mode != RedisMode::Cluster {
            return self.ask_once(commands, repeats).await;
        }
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands.chunks(1) {
            answers.extend(match self.ask_once(command, repeats).await {
                Err(fault) if fault.is_redirection() => self.ask_once(command, repeats).await?,
                answer => answer?,
            });
        }
        Ok(answers)
    }

    /// The answer to one command.
    pub(crate) async fn ask_one(&self, command: Cmd) -> Result<Value, Fault> {
        self.ask_one_as(command, Repeats::Never).await
    }

    async fn ask_one_as(&self, command: Cmd, repeats: Repeats) -> Result<Value, Fault> {
        let answers = self.ask_as(&[command], repeats).await?;
        Ok(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    /// The answer of a script; sends its text when the server does not know it.
    pub(crate) async fn run(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[String],
    ) -> Result<Value, Fault> {
        let known = script.command("EVALSHA", &script.hash, keys, arguments);
        match self.ask_one_as(known, script.repeats).await {
            Err(fault) if fault.is_unknown_script() => {
                let whole = script.command("EVAL", script.text, keys, arguments);
                self.ask_one_as(whole, script.repeats).await
            }
            answer => answer,
        }
    }

    /// Which connection it is: another number, another connection.
    pub(crate) async fn number(&self) -> Result<u64, Fault> {
        Ok(self.connected().await?.number)
    }

    async fn ask_once(&self, commands: &[Cmd], repeats: Repeats) -> Result<Vec<Value>, Fault> {
        let connected = self.connected().await?;
        let may_be_stale = !connected.is_new;
        match self.ask_over(connected, commands).await {
            Err(fault) if repeats == Repeats::Once && may_be_stale && fault.is_broken() => {
                self.ask_over(self.connected().await?, commands).await
            }
            answers => answers,
        }
    }

    async fn ask_over(
        &self,
        mut connected: Connected,
        commands: &[Cmd],
    ) -> Result<Vec<Value>, Fault> {
        let mut unanswered = Unanswered { lane: self, number: Some(connected.number) };
        let asking = connected.connection.ask(commands);
        let answers = connect::within(self.timeout(), asking).await;
        unanswered.number = None;
        if let Err(fault) = &answers
            && !fault.is_unknown_script()
            && !fault.is_not_offered()
        {
            self.disconnect(connected.number).await;
        }
        answers
    }

    async fn connected(&self) -> Result<Connected, Fault> {
        timeout(self.connect_timeout(), self.connect()).await.unwrap_or(Err(Fault::Late))
    }

    async fn connect(&self) -> Result<Connected, Fault> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            let connection = connection.clone();
            return Ok(Connected { number: current.number, connection, is_new: false });
        }
        let connection = connect::open(&self.settings).await?;
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok(Connected { number: current.number, connection, is_new: true })
    }

    async fn disconnect(&self, number: u64) {
        self.current.lock().await.end(number);
    }

    fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Whoever has to be asked first has the same time as the server itself.
    fn connect_timeout(&self) -> Duration {
        match self.settings.mode {
            RedisMode::Single => self.timeout(),
            _ => self
                .timeout()
                .saturating_mul(u32::try_from(self.settings.urls.len()).unwrap_or(1) + 2),
        }
    }
}
