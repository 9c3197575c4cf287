use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{
    Arg, AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo,
    IntoConnectionInfo, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisResult,
    TlsCertificates, Value,
};

use crate::redis::fault::Fault;
use crate::redis::password::Password;
use crate::redis::settings::{RedisMode, RedisSettings, RedisTls};
use crate::redis::url::{RedisAddress, RedisUrl};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Takes what the server sends without being asked; false: nobody wants it any
/// more.
pub(crate) type News = Arc<dyn Fn(PushInfo) -> bool + Send + Sync>;

/// A connection that commands go over; clones are the same connection.
#[derive(Clone)]
pub(crate) enum Connection {
    /// To one server.
    Server(MultiplexedConnection),
    /// To the servers of a cluster.
    Cluster(ClusterConnection),
}

impl Connection {
    /// Sends the commands, each once, and waits for the answers.
    pub(crate) async fn ask(&mut self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        match self {
            Self::Server(connection) => match commands {
                [command] => Ok(vec![command.query_async(connection).await?]),
                commands => {
                    let mut pipeline = redis::Pipeline::with_capacity(commands.len());
                    for command in commands {
                        pipeline.add_command(command.clone());
                    }
                    pipeline.query_async(connection).await
                }
            },
            Self::Cluster(connection) => {
                let mut answers = Vec::with_capacity(commands.len());
                for command in commands {
                    answers.push(ask_cluster(connection, command).await?);
                }
                Ok(answers)
            }
        }
    }
}

/// Any server will do for what is no key's; the crate would ask all.
async fn ask_cluster(connection: &mut ClusterConnection, command: &Cmd) -> RedisResult<Value> {
    let is_of_a_server = matches!(command.args_iter().next(), Some(Arg::Simple(b"INFO")));
    if is_of_a_server {
        let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
        return connection.route_command(command.clone(), any).await;
    }
    command.query_async(connection).await
}

/// Opens a connection for commands.
pub(crate) async fn open(settings: &RedisSettings) -> Result<Connection, Fault> {
    prepare_tls();
    match settings.mode {
        RedisMode::Cluster => Ok(Connection::Cluster(open_cluster(settings).await?)),
        _ => Ok(Connection::Server(open_server(settings, None).await?)),
    }
}

/// Opens a connection that also receives what is published; to any server of
/// a cluster.
pub(crate) async fn open_for_news(
    settings: &RedisSettings,
    news: News,
) -> Result<MultiplexedConnection, Fault> {
    prepare_tls();
    open_server(settings, Some(news)).await
}

async fn open_server(
    settings: &RedisSettings,
    news: Option<News>,
) -> Result<MultiplexedConnection, Fault> {
    let address = match &settings.mode {
        RedisMode::Single => first(settings)?.address.clone(),
        RedisMode::Sentinel { master, password_file } => {
            let password = password_file.as_deref().map(Password::read).transpose()?;
            master_of(settings, master, password).await?
        }
        RedisMode::Cluster => return open_any(settings, news).await,
    };
    let mut connection = connect(settings, &address, PORT, login(settings)?, news).await?;
    if matches!(settings.mode, RedisMode::Sentinel { .. }) {
        check_master(&mut connection).await?;
    }
    Ok(connection)
}

/// The first node of the cluster that takes a connection.
async fn open_any(
    settings: &RedisSettings,
    news: Option<News>,
) -> Result<MultiplexedConnection, Fault> {
    let mut fault = no_address();
    for url in &settings.urls {
        let login = login(settings)?.set_db(0);
        match connect(settings, &url.address, PORT, login, news.clone()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => fault = error,
        }
    }
    Err(fault)
}

async fn open_cluster(settings: &RedisSettings) -> Result<ClusterConnection, Fault> {
    let mut nodes = Vec::with_capacity(settings.urls.len());
    for url in &settings.urls {
        let address = address(&url.address, PORT);
        let info = address.into_connection_info()?;
        nodes.push(info.set_redis_settings(login(settings)?.set_db(0)));
    }
    let mut client = ClusterClient::builder(nodes)
        .retries(0)
        .connection_timeout(settings.timeout)
        .response_timeout(settings.timeout);
    if is_tls(&first(settings)?.address) {
        client = client.certs(certificates(&settings.tls)?);
    }
    Ok(client.build()?.get_async_connection().await?)
}

/// Asks the sentinels, one after the other, where the master is.
async fn master_of(
    settings: &RedisSettings,
    master: &str,
    password: Option<Password>,
) -> Result<RedisAddress, Fault> {
    let mut fault = no_address();
    for sentinel in &settings.urls {
        match ask_sentinel(settings, sentinel, master, password.as_ref()).await {
            Ok(Some((host, port))) => {
                let tls = is_tls(&sentinel.address);
                return Ok(RedisAddress::Tcp { host, port: Some(port), tls });
            }
            Ok(None) => {
                let reason = format!("its sentinels know no master named {master}");
                fault = Fault::Unavailable(
                    reason,
                    "check KEY_SERVER_REDIS_SENTINEL_MASTER against SENTINEL MASTERS".into(),
                );
            }
            Err(error) => fault = error,
        }
    }
    Err(fault)
}

async fn ask_sentinel(
    settings: &RedisSettings,
    sentinel: &RedisUrl,
    master: &str,
    password: Option<&Password>,
) -> Result<Option<(String, u16)>, Fault> {
    let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(password) = password {
        login = login.set_password(password.expose());
    }
    let mut connection = connect(settings, &sentinel.address, SENTINEL_PORT, login, None).await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    Ok(command.query_async(&mut connection).await?)
}

/// A sentinel may be a moment behind: then it names a server that is no master
/// any more.
async fn check_master(connection: &mut MultiplexedConnection) -> Result<(), Fault> {
    let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
    let role = role.into_iter().next().map(redis::from_redis_value::<String>).transpose()?;
    if role.as_deref() == Some("master") {
        return Ok(());
    }
    let reason = "its sentinels name a server that is no master now".to_owned();
    Err(Fault::Unavailable(reason, "wait for the fail-over".into()))
}

async fn connect(
    settings: &RedisSettings,
    place: &RedisAddress,
    port: u16,
    login: RedisConnectionInfo,
    news: Option<News>,
) -> Result<MultiplexedConnection, Fault> {
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.timeout))
        .set_response_timeout(Some(settings.timeout));
    let mut login = login;
    if let Some(news) = news {
        login = login.set_protocol(ProtocolVersion::RESP3);
        config =
            config.set_push_sender(
                move |push| {
                    if news(push) { Ok(()) } else { Err(redis::aio::SendError) }
                },
            );
    }
    let info = address(place, port).into_connection_info()?.set_redis_settings(login);
    let client = client(info, place, &settings.tls)?;
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    within(settings.timeout, connecting).await
}

fn client(info: ConnectionInfo, address: &RedisAddress, tls: &RedisTls) -> Result<Client, Fault> {
    if is_tls(address) {
        Ok(Client::build_with_tls(info, certificates(tls)?)?)
    } else {
        Ok(Client::open(info)?)
    }
}

/// As whom the node asks.
fn login(settings: &RedisSettings) -> Result<RedisConnectionInfo, Fault> {
    let url = first(settings)?;
    let file = settings.password_file.as_deref().map(Password::read).transpose()?;
    let mut login = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(url.database);
    if let Some(username) = settings.username.as_ref().or(url.username.as_ref()) {
        login = login.set_username(username);
    }
    if let Some(password) = file.as_ref().or(url.password.as_ref()) {
        login = login.set_password(password.expose());
    }
    Ok(login)
}

fn first(settings: &RedisSettings) -> Result<&RedisUrl, Fault> {
    settings.urls.first().ok_or_else(no_address)
}

fn no_address() -> Fault {
    Fault::Unavailable("no address is named".to_owned(), "set KEY_SERVER_REDIS_URL".into())
}

fn is_tls(address: &RedisAddress) -> bool {
    matches!(address, RedisAddress::Tcp { tls: true, .. })
}

fn address(address: &RedisAddress, usual_port: u16) -> ConnectionAddr {
    match address {
        RedisAddress::Unix(path) => ConnectionAddr::Unix(path.clone()),
        RedisAddress::Tcp { host, port, tls } => {
            let (host, port) = (host.clone(), port.unwrap_or(usual_port));
            if *tls {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host, port)
            }
        }
    }
}

fn certificates(tls: &RedisTls) -> Result<TlsCertificates, Fault> {
    let read = |path: &Option<std::path::PathBuf>| match path {
        Some(path) => std::fs::read(path).map(Some).map_err(|error| Fault::file(path, error)),
        None => Ok(None),
    };
    let client_tls = match (read(&tls.client_cert)?, read(&tls.client_key)?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        _ => {
            let reason = "a certificate of its own and the key to it go together".to_owned();
            let advice = "set both KEY_SERVER_REDIS_CLIENT_CERT and KEY_SERVER_REDIS_CLIENT_KEY";
            return Err(Fault::Unavailable(reason, advice.into()));
        }
    };
    Ok(TlsCertificates { client_tls, root_cert: read(&tls.ca_cert)? })
}

/// TLS needs one provider of cryptography in the process.
fn prepare_tls() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody else may have been faster: then theirs is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// The answer, or that it is late.
pub(crate) async fn within<T>(
    timeout: Duration,
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Fault::Late),
    }
}
