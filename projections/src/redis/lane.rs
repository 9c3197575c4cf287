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
}

impl Script {
    pub(crate) fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }

    fn command(&self, name: &str, code: &str, keys: &[String], arguments: &[String]) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(code).arg(keys.len()).arg(keys).arg(arguments);
        command
    }
}

/// One connection, and how it is made anew: after an error at the next call.
/// No command is sent a second time, but where the server says that it did not
/// take it.
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

impl Lane {
    pub(crate) fn new(settings: Arc<RedisSettings>) -> Self {
        Self { settings, current: Mutex::default() }
    }

    /// The answers to the commands. A cluster is asked one by one, for each
    /// may be for another of its servers.
    pub(crate) async fn ask(&self, commands: &[Cmd]) -> Result<Vec<Value>, Fault> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        if self.settings.mode != RedisMode::Cluster {
            return self.ask_once(commands).await;
        }
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands.chunks(1) {
            answers.extend(match self.ask_once(command).await {
                Err(fault) if fault.is_redirection() => self.ask_once(command).await?,
                answer => answer?,
            });
        }
        Ok(answers)
    }

    /// The answer to one command.
    pub(crate) async fn ask_one(&self, command: Cmd) -> Result<Value, Fault> {
        let answers = self.ask(&[command]).await?;
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
        match self.ask_one(known).await {
            Err(fault) if fault.is_unknown_script() => {
                self.ask_one(script.command("EVAL", script.text, keys, arguments)).await
            }
            answer => answer,
        }
    }

    /// Which connection it is: another number, another connection.
    pub(crate) async fn number(&self) -> Result<u64, Fault> {
        Ok(self.connected().await?.0)
    }

    async fn ask_once(&self, commands: &[Cmd]) -> Result<Vec<Value>, Fault> {
        let (number, mut connection) = self.connected().await?;
        let answers = connect::within(self.timeout(), connection.ask(commands)).await;
        if let Err(fault) = &answers
            && !fault.is_unknown_script()
            && !fault.is_not_offered()
        {
            self.disconnect(number).await;
        }
        answers
    }

    async fn connected(&self) -> Result<(u64, Connection), Fault> {
        timeout(self.connect_timeout(), self.connect()).await.unwrap_or(Err(Fault::Late))
    }

    async fn connect(&self) -> Result<(u64, Connection), Fault> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok((current.number, connection.clone()));
        }
        let connection = connect::open(&self.settings).await?;
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok((current.number, connection))
    }

    async fn disconnect(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.number == number {
            current.connection = None;
        }
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
