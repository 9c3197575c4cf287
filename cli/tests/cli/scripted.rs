//! A server on a real Unix socket that answers by the script.

use std::path::{Path, PathBuf};
use std::time::Duration;

use key_server_proto::v1;
use key_server_proto::v1::key_server_server::{KeyServer, KeyServerServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::answers::{backend, keys, pools, selected, sessions, short, span, usage};

/// Which part is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Play {
    /// All is well, and the caller is an operator.
    Well,
    /// Something is to be looked at.
    Degraded,
    /// The ledger cannot be written, and what is told is made to do harm.
    Unavailable,
    /// The caller is no operator, and nothing is known.
    Stranger,
}

/// A running server; ends with the test.
pub(crate) struct Scripted {
    dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Scripted {
    pub(crate) fn start(play: Play) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        serve(&runtime, play, &dir.path().join("keyserver.sock"));
        Self { dir, _runtime: runtime }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("keyserver.sock")
    }
}

/// Serves on `socket` as long as the runtime lives.
pub(crate) fn serve(runtime: &tokio::runtime::Runtime, play: Play, socket: &Path) {
    let _entered = runtime.enter();
    let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    let server =
        tonic::transport::Server::builder().add_service(KeyServerServer::new(Script(play)));
    runtime.spawn(server.serve_with_incoming(listener));
}

struct Script(Play);

type Answer<T> = Result<Response<T>, Status>;

fn refusal(code: Code, reason: &str, message: &str, retry: Option<Duration>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "keyserver.v1", []);
    details.set_retry_info(retry);
    Status::with_error_details(code, message, details)
}

impl Script {
    fn health(&self) -> v1::HealthResponse {
        let ok = |name| backend(name, "ok", -11_600, "");
        let well = v1::HealthResponse {
            nodes: Vec::new(),
            status: v1::HealthStatus::Ok.into(),
            version: "0.1.0".to_owned(),
            uptime: span(11_600),
            node_id: "n_4kq2zv7m3c5xw6tb".to_owned(),
            keys: 1_249,
            models: 5,
            sessions: 23,
            ledger_position: 48_211,
            durability: "disk".to_owned(),
            backends: vec![ok("ledger"), ok("secrets (age file)"), ok("projection (sqlite)")],
            notes: Vec::new(),
            pid: 4_711,
        };
        match self.0 {
            Play::Well => well,
            // What the server tells those who may not see its statistics.
            Play::Stranger => v1::HealthResponse {
                status: well.status,
                version: well.version,
                durability: well.durability,
                ..Default::default()
            },
            Play::Degraded => {
                let error = "/var/lib/key-server/state.sqlite cannot be used now (database or disk is full): free disk space; the same call is tried again";
                v1::HealthResponse {
                    status: v1::HealthStatus::Degraded.into(),
                    backends: vec![
                        ok("ledger"),
                        ok("secrets (age file)"),
                        backend("projection (sqlite)", "degraded", -130, error),
                    ],
                    notes: vec!["api_keys.csv has a bad row; the keys of the last good one are served: line 4, column api_key: it has white space within".to_owned()],
                    ..well
                }
            }
            Play::Unavailable => v1::HealthResponse {
                status: v1::HealthStatus::Unavailable.into(),
                backends: vec![backend(
                    "ledger",
                    "unavailable",
                    -3,
                    "No space left on device\u{1b}[2J",
                )],
                notes: vec!["a\u{202e}b\r\n\u{9b}31mc".to_owned()],
                ..well
            },
        }
    }

    fn stats(&self, request: &v1::GetStatsRequest) -> Result<v1::GetStatsResponse, Status> {
        if self.0 == Play::Stranger {
            let message = "GetStats of other sessions is for operators: root and uid 990";
            return Err(refusal(Code::PermissionDenied, "NOT_PERMITTED", message, None));
        }
        let mut response = v1::GetStatsResponse {
            totals: Some(v1::Totals {
                keys: 1_249,
                models: 5,
                sessions_live: 23,
                window_tokens: 96_132,
                lifetime: usage(22_730, 93_610_281, 9_927_121),
            }),
            ..Default::default()
        };
        match request.view() {
            v1::StatsView::Pools => {
                let wanted = |pool: &v1::PoolStats| {
                    request.provider.is_empty() || pool.provider == request.provider
                };
                response.pools = pools().into_iter().filter(wanted).collect();
            }
            v1::StatsView::Sessions => response.sessions = session_page(request)?,
            _ => key_page(request, &mut response)?,
        }
        Ok(response)
    }
}

fn session_page(request: &v1::GetStatsRequest) -> Result<Vec<v1::SessionStats>, Status> {
    let wanted = |session: &v1::SessionStats| {
        (request.session_id.is_empty() || session.session_id == request.session_id)
            && request.user_id.is_none_or(|user| user == session.user_id)
    };
    let found: Vec<_> = sessions().into_iter().filter(wanted).collect();
    match found.is_empty() && !request.session_id.is_empty() {
        true => Err(session_not_found()),
        false => Ok(found),
    }
}

fn session_not_found() -> Status {
    let message = "there is no such session; select keys for it first";
    refusal(Code::NotFound, "SESSION_NOT_FOUND", message, None)
}

/// Two rows a page, to be put together by the caller.
fn key_page(
    request: &v1::GetStatsRequest,
    response: &mut v1::GetStatsResponse,
) -> Result<(), Status> {
    let wanted = |key: &v1::KeyStats| {
        (request.provider.is_empty() || key.provider == request.provider)
            && (request.key_id.is_empty() || key.key_id == request.key_id)
            && (request.model.is_empty() || key.models.contains(&request.model))
    };
    let mut rows: Vec<_> = keys().into_iter().filter(wanted).collect();
    if rows.is_empty() && !request.key_id.is_empty() {
        return Err(refusal(Code::NotFound, "KEY_NOT_FOUND", "there is no such key", None));
    }
    let from: usize = request.page_token.parse().unwrap_or(0);
    if rows.len() > from + 2 {
        response.next_page_token = (from + 2).to_string();
    }
    response.keys = rows.drain(..).skip(from).take(2).collect();
    Ok(())
}

fn problem(
    severity: v1::row_problem::Severity,
    line: i64,
    column: &str,
    message: &str,
) -> v1::RowProblem {
    let (column, message) = (column.to_owned(), message.to_owned());
    v1::RowProblem { severity: severity.into(), line, column, message }
}

#[tonic::async_trait]
impl KeyServer for Script {
    async fn health(&self, _: Request<v1::HealthRequest>) -> Answer<v1::HealthResponse> {
        Ok(Response::new(self.health()))
    }

    async fn get_stats(
        &self,
        request: Request<v1::GetStatsRequest>,
    ) -> Answer<v1::GetStatsResponse> {
        self.stats(request.get_ref()).map(Response::new)
    }

    async fn select_keys_for_session(
        &self,
        request: Request<v1::SelectKeysRequest>,
    ) -> Answer<v1::SelectKeysResponse> {
        let request = request.into_inner();
        match request.session_id.as_str() {
            "slow" => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Err(Status::internal("the caller should have gone"))
            }
            "full" => Err(refusal(
                Code::ResourceExhausted,
                "TOO_MANY_SESSIONS",
                "as many sessions are live as may be (sessions_max); release some or wait",
                Some(Duration::from_millis(900)),
            )),
            "evil" => Err(refusal(
                Code::PermissionDenied,
                "NOT_\u{7}PERMITTED",
                "no\u{1b}]0;owned\u{7}\nerror: faked",
                None,
            )),
            "invalid" => Err(refusal(
                Code::InvalidArgument,
                "INVALID_REQUEST",
                "a model is written provider/model, as in openai/gpt-4o",
                None,
            )),
            "refused" => Ok(Response::new(short(&request))),
            _ => Ok(Response::new(selected(&request))),
        }
    }

    async fn track_usage(
        &self,
        _: Request<v1::TrackUsageRequest>,
    ) -> Answer<v1::TrackUsageResponse> {
        Err(Status::unimplemented("the command line reports no usage"))
    }

    async fn release_key(
        &self,
        request: Request<v1::ReleaseKeyRequest>,
    ) -> Answer<v1::ReleaseKeyResponse> {
        let request = request.into_inner();
        match request.session_id.as_str() {
            "session_123" if request.owner_uid.is_some() => {
                let message = "owner_uid is for operators: root and uid 990";
                Err(refusal(Code::PermissionDenied, "NOT_PERMITTED", message, None))
            }
            "session_123" => {
                let released = if request.model.is_empty() { 3 } else { 1 };
                Ok(Response::new(v1::ReleaseKeyResponse { success: true, released }))
            }
            "again" => Ok(Response::new(v1::ReleaseKeyResponse { success: true, released: 0 })),
            _ => Err(session_not_found()),
        }
    }

    async fn reload_keys(
        &self,
        request: Request<v1::ReloadKeysRequest>,
    ) -> Answer<v1::ReloadKeysResponse> {
        use v1::row_problem::Severity;
        let request = request.into_inner();
        let warning =
            problem(Severity::Warning, 1, "note", "this column is not known and is left out");
        if !request.path.is_empty() {
            assert!(request.path.starts_with('/'), "the whole path: {}", request.path);
            return Ok(Response::new(v1::ReloadKeysResponse {
                problems: vec![
                    warning,
                    problem(
                        Severity::Error,
                        3,
                        "api_key",
                        "it has a control character within (sk-***): paste the key again",
                    ),
                    problem(Severity::Error, 1_204, "", "it has 2 cells instead of 4"),
                ],
                error: format!(
                    "{} has 2 bad rows: nothing was changed",
                    request.path.rsplit('/').next().unwrap_or("")
                ),
                ..Default::default()
            }));
        }
        Ok(Response::new(v1::ReloadKeysResponse {
            success: true,
            added: 3,
            changed: 1,
            withdrawn: 2,
            unchanged: 1_245,
            problems: vec![warning],
            error: String::new(),
        }))
    }
}
