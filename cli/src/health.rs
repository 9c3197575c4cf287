use key_server_proto::v1::{HealthResponse, HealthStatus};

use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::text::{counted, escape};
use crate::output::{Output, time};
use crate::{json, word};

pub(crate) const EXAMPLES: &str = "\
Exit code 0: ok or degraded; 1: unavailable; 3: nobody answers.

Examples:
  key-server health
  key-server health --timeout 1s --json";

/// `key-server health`
pub(crate) fn run(server: &mut Server, output: &mut Output) -> Result<Exit, Failure> {
    let health = server.health()?;
    if output.is_json() {
        output.json(&json::health(&health))?;
    } else {
        output.line(line(&health, output))?;
    }
    Ok(exit(&health))
}

/// Serving with something to look at is still serving.
pub(crate) fn exit(health: &HealthResponse) -> Exit {
    match health.status() {
        HealthStatus::Ok | HealthStatus::Degraded => Exit::Ok,
        HealthStatus::Unavailable | HealthStatus::Unspecified => Exit::No,
    }
}

/// Whether the server says more than whether it serves: not to everybody.
pub(crate) fn tells_all(health: &HealthResponse) -> bool {
    !health.node_id.is_empty()
}

fn line(health: &HealthResponse, output: &Output) -> String {
    let status = word::health(health.status());
    let mut parts = match tells_all(health) {
        true => vec![
            format!("up {}", time::span(health.uptime.as_ref()).map_or("?".to_owned(), time::long)),
            counted(health.keys, "key", "keys"),
            counted(health.models, "model", "models"),
            counted(health.sessions, "session", "sessions"),
        ],
        false => vec![format!("key-server {}", health.version)],
    };
    parts.extend(concerns(health));
    let status = output.paint().text(word::state_tone(status), status);
    format!("{status}: {}", escape(&parts.join(", ")))
}

/// Why the server is not ok, as far as one line can say it.
fn concerns(health: &HealthResponse) -> impl Iterator<Item = String> {
    let backends = health.backends.iter().filter(|backend| backend.state != "ok");
    let backends = backends.map(|backend| format!("{} {}", backend.name, backend.state));
    let notes = health.notes.len();
    let notes = (notes > 0).then(|| counted(notes, "note (see status)", "notes (see status)"));
    backends.chain(notes)
}
