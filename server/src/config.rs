//! Settings: flag, then environment, then file, then default.
//!
//! Everything is resolved once into one immutable [`Settings`]; every value
//! knows where it came from, and every problem is reported at once. The table
//! below is the only place where a setting is named; `docs/settings.md` is made
//! from it.

mod sources;
mod value;

use std::path::PathBuf;
use std::time::Duration;

use key_server_core::{Rules, TierTable};

pub use sources::{Problem, Sources};
pub use value::{
    Addresses, CapsAlone, Durability, FileMode, Hidden, LogFormat, Offline, RedisMode, Retention,
    SettingValue, VaultAuth,
};

/// What is known of one setting, for `config show` and the reference page.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The name in the file.
    pub name: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// What it is, in one sentence with its unit.
    pub about: &'static str,
    /// The value in force, as it would be written.
    pub value: String,
    /// The value when nobody says anything.
    pub default: &'static str,
    /// Where the value came from.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// This file.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

macro_rules! settings {
    ($( $(#[doc = $about:literal])+ $name:ident: $kind:ty = $default:literal, $variable:literal; )+) => {
        /// Every setting, resolved.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $( $(#[doc = $about])+ pub $name: $kind, )+
        }

        /// Environment variables that set something.
        pub const VARIABLES: &[&str] = &[$($variable),+];

        /// Names that a settings file may have.
        pub const NAMES: &[&str] = &[$(stringify!($name)),+];

        /// Environment variables whose values are nobody's to see.
        pub fn secret_variables() -> impl Iterator<Item = &'static str> {
            let all = [$(($variable, <$kind as SettingValue>::IS_SECRET)),+];
            all.into_iter().filter(|(_, is_secret)| *is_secret).map(|(variable, _)| variable)
        }

        /// Resolves every setting from its sources.
        ///
        /// # Errors
        /// All problems at once.
        pub fn resolve(sources: &Sources) -> Result<(Settings, Vec<Shown>), Vec<Problem>> {
            let mut problems = sources.problems(NAMES);
            let mut shown = Vec::new();
            $(
                let ($name, origin) =
                    sources.value::<$kind>(stringify!($name), $variable, $default, &mut problems);
                shown.push(Shown {
                    name: stringify!($name),
                    variable: $variable,
                    about: concat!($($about),+).trim_ascii(),
                    value: $name.as_ref().map(SettingValue::show).unwrap_or_default(),
                    default: $default,
                    origin,
                });
            )+
            match ($($name,)+) {
                ($(Some($name),)+) if problems.is_empty() => {
                    let settings = Settings { $($name),+ };
                    problems.extend(settings.contradictions());
                    if problems.is_empty() { Ok((settings, shown)) } else { Err(problems) }
                }
                _ => Err(problems),
            }
        }
    };
}

settings! {
    /// The Unix socket that applications connect to.
    socket: PathBuf = "/tmp/keyserver.sock", "KEY_SERVER_SOCKET";
    /// Permission bits of the socket, octal; it is born with them. Empty: `0600`, or `0660` with a `socket_group`.
    socket_mode: Option<FileMode> = "", "KEY_SERVER_SOCKET_MODE";
    /// The user that the socket belongs to, by name or number; only root can give it away. Empty: the server's.
    socket_owner: String = "", "KEY_SERVER_SOCKET_OWNER";
    /// The group whose members may connect, by name or number. Empty: none in particular.
    socket_group: String = "", "KEY_SERVER_SOCKET_GROUP";
    /// For the command line as a client: who may run the server, users by name or number, several separated by commas; nothing is sent to anybody else. Empty: the caller's own user and root.
    trusted_users: String = "", "KEY_SERVER_TRUSTED_USERS";
    /// The CSV with the keys; none is fine when the store has keys.
    key_config_file: PathBuf = "api_keys.csv", "KEY_CONFIG_FILE";
    /// The policy, who may do what (docs/policy.md); empty: keys are for the server's uid, root, and the socket's owner and group.
    policy_file: PathBuf = "", "KEY_SERVER_POLICY_FILE";
    /// Where ledger, projection and secret store are; empty: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/key-server`, else `~/.local/state/key-server`.
    state_dir: PathBuf = "", "KEY_SERVER_STATE_DIR";
    /// The age identity that opens the secret store; empty: `identity.age.txt` in `$CREDENTIALS_DIRECTORY` if it is there, else in the state directory.
    identity_file: PathBuf = "", "KEY_SERVER_IDENTITY_FILE";
    /// A file with a passphrase for the secret store, in place of an identity; empty: none.
    passphrase_file: PathBuf = "", "KEY_SERVER_PASSPHRASE_FILE";
    /// The Vault server that keeps the keys: `https://host:8200`, or `unix:///path` of a Vault agent; empty: the age-encrypted file does.
    vault_addr: String = "", "VAULT_ADDR";
    /// How to sign in to Vault: `token`, `approle`, `kubernetes`, `cert` or `agent`.
    vault_auth: VaultAuth = "token", "KEY_SERVER_VAULT_AUTH";
    /// The token for Vault.
    vault_token: Hidden = "", "VAULT_TOKEN";
    /// A file with the token for Vault, read again when it changes.
    vault_token_file: PathBuf = "", "VAULT_TOKEN_FILE";
    /// Whether the token is a wrapping token, to be unwrapped once.
    vault_token_wrapped: bool = "false", "KEY_SERVER_VAULT_TOKEN_WRAPPED";
    /// Where the auth method is mounted in Vault; empty: at its own name.
    vault_auth_mount: String = "", "KEY_SERVER_VAULT_AUTH_MOUNT";
    /// The role to sign in with (`kubernetes`, `cert`).
    vault_role: String = "", "KEY_SERVER_VAULT_ROLE";
    /// The role id to sign in with (`approle`).
    vault_role_id: String = "", "KEY_SERVER_VAULT_ROLE_ID";
    /// A file with the secret id to sign in with (`approle`).
    vault_secret_id_file: PathBuf = "", "KEY_SERVER_VAULT_SECRET_ID_FILE";
    /// The service account's token to sign in with (`kubernetes`).
    vault_jwt_file: PathBuf = "/var/run/secrets/kubernetes.io/serviceaccount/token", "KEY_SERVER_VAULT_JWT_FILE";
    /// The namespace in Vault; empty: the root.
    vault_namespace: String = "", "VAULT_NAMESPACE";
    /// A file with the certificates to check Vault's against; empty: the system's.
    vault_cacert: PathBuf = "", "VAULT_CACERT";
    /// A file with the client certificate for Vault; empty: none.
    vault_client_cert: PathBuf = "", "VAULT_CLIENT_CERT";
    /// A file with the client certificate's key.
    vault_client_key: PathBuf = "", "VAULT_CLIENT_KEY";
    /// Talk to a Vault whose certificate nobody checks; for tests only.
    vault_skip_verify: bool = "false", "VAULT_SKIP_VERIFY";
    /// The mount of the key-value engine in Vault.
    vault_mount: String = "secret", "KEY_SERVER_VAULT_MOUNT";
    /// The path of the keys within the mount.
    vault_path: String = "key-server/keys", "KEY_SERVER_VAULT_PATH";
    /// The version of the key-value engine, `1` or `2`; empty: Vault is asked.
    vault_kv_version: String = "", "KEY_SERVER_VAULT_KV_VERSION";
    /// How long to wait for one answer of Vault.
    vault_timeout: Duration = "5s", "KEY_SERVER_VAULT_TIMEOUT";
    /// How often to look whether somebody changed keys in Vault.
    vault_poll: Duration = "60s", "KEY_SERVER_VAULT_POLL";
    /// When Vault is away at start: `wait` for it, or serve the encrypted copy of what it last gave (`cache`).
    offline: Offline = "wait", "KEY_SERVER_OFFLINE";
    /// How old the copy may be; calls for keys are refused beyond that.
    offline_stale_max: Duration = "24h", "KEY_SERVER_OFFLINE_STALE_MAX";
    /// The Redis server that nodes share their state through: `redis://`, `rediss://` or `unix://`, several separated by commas; empty: this node works alone.
    redis_url: Addresses = "", "KEY_SERVER_REDIS_URL";
    /// How Redis is set up: `single`, `sentinel` or `cluster`.
    redis_mode: RedisMode = "single", "KEY_SERVER_REDIS_MODE";
    /// The name of the master that the sentinels watch.
    redis_sentinel_master: String = "", "KEY_SERVER_REDIS_SENTINEL_MASTER";
    /// A file with the password for Redis; empty: as in the address.
    redis_password_file: PathBuf = "", "KEY_SERVER_REDIS_PASSWORD_FILE";
    /// A file with the password for the sentinels; empty: none.
    redis_sentinel_password_file: PathBuf = "", "KEY_SERVER_REDIS_SENTINEL_PASSWORD_FILE";
    /// A file with the certificates to check Redis's against; empty: the system's.
    redis_ca_cert: PathBuf = "", "KEY_SERVER_REDIS_CA_CERT";
    /// A file with the client certificate for Redis; empty: none.
    redis_client_cert: PathBuf = "", "KEY_SERVER_REDIS_CLIENT_CERT";
    /// A file with the client certificate's key.
    redis_client_key: PathBuf = "", "KEY_SERVER_REDIS_CLIENT_KEY";
    /// How long to wait for one answer of Redis.
    redis_timeout: Duration = "1s", "KEY_SERVER_REDIS_TIMEOUT";
    /// While Redis is away, keys with a cap are given by this node's `own-count`, or not at all (`refuse`).
    caps_alone: CapsAlone = "own-count", "KEY_SERVER_CAPS_ALONE";
    /// Where the log goes besides standard error: a file, terminal or pipe, not behind a link where others can write; empty: nowhere.
    log_file: PathBuf = "logs/keyserver.log", "KEY_SERVER_LOG_FILE";
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter as in `info,key_server_server=debug`. The HTTP library speaks of errors only, unless it is named (`h2=debug`).
    log_level: String = "info", "KEY_SERVER_LOG_LEVEL";
    /// How a line of the log looks: `text` or `json`.
    log_format: LogFormat = "text", "KEY_SERVER_LOG_FORMAT";
    /// When a call is answered: `disk` (its record is on disk) or `process` (its record is with the kernel, on disk within 100 ms: survives a kill, not a power cut).
    durability: Durability = "disk", "KEY_SERVER_DURABILITY";
    /// A segment of the ledger is closed when it is this long, in bytes.
    ledger_segment_bytes_max: u64 = "67108864", "KEY_SERVER_LEDGER_SEGMENT_BYTES_MAX";
    /// Closed segments of the ledger older than this are removed; `forever`: never.
    ledger_retention: Retention = "forever", "KEY_SERVER_LEDGER_RETENTION";
    /// Closed segments of the ledger are removed, the oldest first, while it is longer than this, in bytes; 0: never.
    ledger_bytes_max: u64 = "0", "KEY_SERVER_LEDGER_BYTES_MAX";
    /// Hourly usage in the local database older than this is removed; `forever`: never.
    usage_retention: Retention = "400d", "KEY_SERVER_USAGE_RETENTION";
    /// How long a session lives after the last call that named it.
    session_ttl: Duration = "1h", "KEY_SERVER_SESSION_TTL";
    /// How long an ended session is remembered, so that late usage counts.
    ended_session_ttl: Duration = "24h", "KEY_SERVER_ENDED_SESSION_TTL";
    /// How many ended sessions are remembered, with at most eight keys for each on average; the oldest go first.
    ended_sessions_max: usize = "200000", "KEY_SERVER_ENDED_SESSIONS_MAX";
    /// How many sessions may be live at once, with at most eight keys for each on average.
    sessions_max: usize = "2000000", "KEY_SERVER_SESSIONS_MAX";
    /// How many keys, counted per model, one session may hold or remember.
    session_allocations_max: usize = "1024", "KEY_SERVER_SESSION_ALLOCATIONS_MAX";
    /// How many live sessions may hold a key whose CSV row names no cap; 0: no cap.
    max_holders: u32 = "0", "KEY_SERVER_MAX_HOLDERS";
    /// How long a rate-limited key cools when the report names no time.
    cooldown: Duration = "60s", "KEY_SERVER_COOLDOWN";
    /// The longest cooldown that a report may cause.
    cooldown_max: Duration = "1h", "KEY_SERVER_COOLDOWN_MAX";
    /// From this many tokens in the last hour on, a key is moderate.
    tier_moderate_tokens: u64 = "1000", "KEY_SERVER_TIER_MODERATE_TOKENS";
    /// From this many tokens in the last hour on, a key is heavy.
    tier_heavy_tokens: u64 = "5000", "KEY_SERVER_TIER_HEAVY_TOKENS";
    /// What an unused key weighs in a draw (0 to 1000).
    tier_unused_weight: u32 = "100", "KEY_SERVER_TIER_UNUSED_WEIGHT";
    /// What a light key weighs in a draw (0 to 1000).
    tier_light_weight: u32 = "50", "KEY_SERVER_TIER_LIGHT_WEIGHT";
    /// What a moderate key weighs in a draw (0 to 1000).
    tier_moderate_weight: u32 = "20", "KEY_SERVER_TIER_MODERATE_WEIGHT";
    /// What a heavy key weighs in a draw (0 to 1000).
    tier_heavy_weight: u32 = "5", "KEY_SERVER_TIER_HEAVY_WEIGHT";
    /// Models that one request may name.
    models_max: usize = "64", "KEY_SERVER_MODELS_MAX";
    /// Keys that one request may ask for each model.
    count_max: u32 = "64", "KEY_SERVER_COUNT_MAX";
    /// Length of a session id or event id, in bytes.
    id_bytes_max: usize = "256", "KEY_SERVER_ID_BYTES_MAX";
    /// Length of a `provider/model` name, in bytes.
    name_bytes_max: usize = "256", "KEY_SERVER_NAME_BYTES_MAX";
    /// Tokens that one report may name, for each kind.
    tokens_max: u64 = "1000000000000", "KEY_SERVER_TOKENS_MAX";
    /// Rows of one page of statistics.
    page_size_max: usize = "1000", "KEY_SERVER_PAGE_SIZE_MAX";
    /// Length of one request, in bytes.
    message_bytes_max: usize = "262144", "KEY_SERVER_MESSAGE_BYTES_MAX";
    /// Length of the CSV, in bytes.
    csv_bytes_max: u64 = "268435456", "KEY_SERVER_CSV_BYTES_MAX";
    /// Connections at once; beyond that who has the most gives way to who has fewer. 16 more are for root and the server's own user.
    connections_max: usize = "1024", "KEY_SERVER_CONNECTIONS_MAX";
    /// Connections of one user (uid) at once; more are closed at once.
    connections_per_uid: usize = "512", "KEY_SERVER_CONNECTIONS_PER_UID";
    /// How long a new connection may take until it speaks HTTP/2: preface, settings and the acknowledgement of the server's.
    first_byte_timeout: Duration = "3s", "KEY_SERVER_FIRST_BYTE_TIMEOUT";
    /// How long a request may take to arrive whole.
    request_timeout: Duration = "10s", "KEY_SERVER_REQUEST_TIMEOUT";
    /// How long a client may take to read an answer (or up to twice as long); who does not is cut.
    answer_timeout: Duration = "10s", "KEY_SERVER_ANSWER_TIMEOUT";
    /// A connection without a call for this long (or up to twice as long) is told to go; clients connect again by themselves.
    connection_idle: Duration = "15m", "KEY_SERVER_CONNECTION_IDLE";
    /// A connection this old is told to go; clients connect again by themselves.
    connection_age: Duration = "24h", "KEY_SERVER_CONNECTION_AGE";
    /// How long calls in progress may take on a connection that was told to go.
    connection_grace: Duration = "30s", "KEY_SERVER_CONNECTION_GRACE";
    /// Calls in progress at once on one connection.
    streams_max: u32 = "256", "KEY_SERVER_STREAMS_MAX";
    /// Calls that each uid may make in a second; more are refused unread. A call for many keys or rows counts once more for each 32. 0: any number.
    calls_per_second: u32 = "50000", "KEY_SERVER_CALLS_PER_SECOND";
    /// Calls in progress at once, shared fairly among uids: one alone may have half of them. A call for many keys or rows counts once more for each 32; an answer counts until it is sent whole.
    calls_max: usize = "4096", "KEY_SERVER_CALLS_MAX";
    /// Whether the server gives up what it does not need once it listens: writing outside of its directories, running programs, debugging, listening; Health says what is in force.
    sandbox: bool = "true", "KEY_SERVER_SANDBOX";
    /// How long calls in progress may take to finish when the server stops.
    shutdown_grace: Duration = "8s", "KEY_SERVER_SHUTDOWN_GRACE";
}

impl Settings {
    /// The numbers that the rules are about.
    pub fn rules(&self) -> Rules {
        Rules {
            tiers: TierTable {
                moderate_tokens: self.tier_moderate_tokens,
                heavy_tokens: self.tier_heavy_tokens,
                weights: [
                    self.tier_unused_weight,
                    self.tier_light_weight,
                    self.tier_moderate_weight,
                    self.tier_heavy_weight,
                ],
            },
            session_ttl: self.session_ttl,
            ended_session_ttl: self.ended_session_ttl,
            ended_sessions_max: self.ended_sessions_max,
            sessions_max: self.sessions_max,
            session_allocations_max: self.session_allocations_max,
            max_holders: self.max_holders,
            cooldown: self.cooldown,
            cooldown_max: self.cooldown_max,
        }
    }

    /// Values that are right one by one and wrong together, or out of range.
    fn contradictions(&self) -> Vec<Problem> {
        let weights = self.rules().tiers.weights;
        let rules = [
            (
                self.tier_moderate_tokens > self.tier_heavy_tokens,
                "tier_moderate_tokens is above tier_heavy_tokens: lower it",
            ),
            (
                weights.iter().any(|weight| *weight > 1_000),
                "a tier weight is above 1000: scale all four down",
            ),
            (
                weights.iter().all(|weight| *weight == 0),
                "every tier weight is 0: nothing could be drawn",
            ),
            (self.cooldown > self.cooldown_max, "cooldown is longer than cooldown_max: lower it"),
            (
                self.session_ttl < Duration::from_secs(1),
                "session_ttl is below 1s: sessions would end at once",
            ),
            (
                self.sessions_max == 0 || self.sessions_max > 100_000_000,
                "sessions_max must be 1 to 100000000",
            ),
            (self.session_allocations_max == 0, "session_allocations_max must be at least 1"),
            (
                self.models_max == 0 || self.count_max == 0,
                "models_max and count_max must be at least 1",
            ),
            (self.page_size_max == 0, "page_size_max must be at least 1"),
            (
                self.connections_max == 0
                    || self.connections_per_uid == 0
                    || self.streams_max == 0
                    || self.calls_max == 0,
                "connections_max, connections_per_uid, streams_max and calls_max must be at least 1",
            ),
            (
                self.first_byte_timeout.is_zero() || self.request_timeout.is_zero(),
                "first_byte_timeout and request_timeout must be more than 0s",
            ),
            (
                self.connection_idle < Duration::from_secs(1)
                    || self.connection_age < Duration::from_secs(1),
                "connection_idle and connection_age must be at least 1s",
            ),
            (
                !matches!(self.vault_kv_version.as_str(), "" | "1" | "2"),
                "vault_kv_version must be 1 or 2, or empty so that Vault is asked",
            ),
            (self.vault_poll < Duration::from_secs(1), "vault_poll must be at least 1s"),
            (
                self.vault_timeout.is_zero() || self.redis_timeout.is_zero(),
                "vault_timeout and redis_timeout must be more than 0s",
            ),
            (
                self.redis_mode == RedisMode::Sentinel && self.redis_sentinel_master.is_empty(),
                "redis_mode is sentinel: name the master that they watch (redis_sentinel_master)",
            ),
            (self.message_bytes_max < 1_024, "message_bytes_max must be at least 1024"),
            (
                self.ledger_segment_bytes_max < 65_536,
                "ledger_segment_bytes_max must be at least 65536",
            ),
        ];
        let wrong = rules.into_iter().filter(|(is_wrong, _)| *is_wrong);
        wrong.map(|(_, message)| Problem::new(message.to_owned())).collect()
    }
}
