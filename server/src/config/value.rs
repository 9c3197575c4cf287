use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use key_server_secrets::SecretKey;

/// A kind of value that a setting can have: written as text everywhere.
pub trait SettingValue: Sized {
    /// Whether the text must not be shown to anybody.
    const IS_SECRET: bool = false;

    /// Reads the text.
    ///
    /// # Errors
    /// What would be right, in words.
    fn read(text: &str) -> Result<Self, String>;

    /// The text that reads as this value.
    fn show(&self) -> String;
}

/// When a call is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Its record is on disk.
    Disk,
    /// Its record is with the kernel.
    Process,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Permission bits of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Always.
    Forever,
    /// This long.
    For(Duration),
}

/// How a caller of Vault signs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultAuth {
    /// By a token.
    Token,
    /// By a role id and a secret id.
    AppRole,
    /// By a service account's token.
    Kubernetes,
    /// By a TLS client certificate.
    Certificate,
    /// An agent beside this server does it.
    Agent,
}

/// What is done while the secret store is away at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offline {
    /// Wait until it is back.
    Wait,
    /// Serve the encrypted copy of what it last gave.
    Cache,
}

/// How Redis is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    Single,
    /// Sentinels that know the master.
    Sentinel,
    /// A cluster.
    Cluster,
}

/// What is done with capped keys while other nodes cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapsAlone {
    /// They are given by this node's own count.
    OwnCount,
    /// They are refused.
    Refuse,
}

/// A text that nobody is shown.
#[derive(Clone)]
pub struct Hidden(Arc<SecretKey>);

impl Hidden {
    /// The text, for whoever needs it; none when it is empty.
    pub fn secret(&self) -> Option<Arc<SecretKey>> {
        (!self.0.expose().is_empty()).then(|| Arc::clone(&self.0))
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}

impl SettingValue for Hidden {
    const IS_SECRET: bool = true;

    fn read(text: &str) -> Result<Self, String> {
        Ok(Self(Arc::new(SecretKey::copy_of(text))))
    }

    fn show(&self) -> String {
        self.secret().map(|_| "(hidden)".to_owned()).unwrap_or_default()
    }
}

/// Addresses that may hold a password.
#[derive(Clone)]
pub struct Addresses(Arc<SecretKey>);

impl Addresses {
    /// The text, for whoever connects; none when it is empty.
    pub fn expose(&self) -> Option<&str> {
        Some(self.0.expose()).filter(|text| !text.is_empty())
    }
}

impl std::fmt::Debug for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}

impl SettingValue for Addresses {
    const IS_SECRET: bool = true;

    fn read(text: &str) -> Result<Self, String> {
        Ok(Self(Arc::new(SecretKey::copy_of(text))))
    }

    /// Without what stands between `//` and `@`, or from `pass=` on.
    fn show(&self) -> String {
        self.0.expose().split(',').map(shown_address).collect::<Vec<_>>().join(",")
    }
}

fn shown_address(address: &str) -> String {
    if let Some(place) = address.find("pass=") {
        return format!("{}pass=(hidden)", &address[..place]);
    }
    let scheme = address.find("://").map_or(0, |place| place + 3);
    match address.rfind('@') {
        Some(at) if at >= scheme => format!("{}(hidden){}", &address[..scheme], &address[at..]),
        _ => address.to_owned(),
    }
}

impl SettingValue for bool {
    fn read(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Ok(true),
            "false" | "0" | "no" | "" => Ok(false),
            _ => Err("write true or false".to_owned()),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for PathBuf {
    fn read(text: &str) -> Result<Self, String> {
        Ok(Self::from(text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl SettingValue for String {
    fn read(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

macro_rules! whole_number {
    ($($kind:ty),+) => { $(
        impl SettingValue for $kind {
            fn read(text: &str) -> Result<Self, String> {
                let wanted = |_| format!("write a whole number from 0 to {}", Self::MAX);
                text.replace('_', "").parse().map_err(wanted)
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+ };
}

whole_number!(u32, u64, usize);

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl SettingValue for Duration {
    fn read(text: &str) -> Result<Self, String> {
        let wanted = || "write a time as in 500ms, 60s, 5m, 24h or 7d".to_owned();
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wanted)?;
        let (number, unit) = text.split_at(digits);
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wanted)?;
        let number: u64 = number.parse().map_err(|_| wanted())?;
        number.checked_mul(*unit_ms).map(Self::from_millis).ok_or_else(wanted)
    }

    fn show(&self) -> String {
        let ms = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        let largest = UNITS.iter().rev().find(|(_, unit_ms)| ms >= *unit_ms && ms % unit_ms == 0);
        let (unit, unit_ms) = largest.unwrap_or(&UNITS[0]);
        format!("{}{unit}", ms / unit_ms)
    }
}

impl SettingValue for Retention {
    fn read(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let wanted = |_| "write `forever`, or a time as in 24h or 90d".to_owned();
        Duration::read(text).map(Self::For).map_err(wanted)
    }

    fn show(&self) -> String {
        match self {
            Self::Forever => "forever".to_owned(),
            Self::For(time) => time.show(),
        }
    }
}

impl SettingValue for FileMode {
    fn read(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8);
        let mode = mode.ok().filter(|mode| *mode <= 0o777);
        mode.map(Self).ok_or_else(|| "write permission bits in octal, as in 0600".to_owned())
    }

    fn show(&self) -> String {
        format!("{:04o}", self.0)
    }
}

impl SettingValue for Option<FileMode> {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { FileMode::read(text).map(Some) }
    }

    fn show(&self) -> String {
        self.map(|mode| mode.show()).unwrap_or_default()
    }
}

macro_rules! one_of {
    ($kind:ident: $($text:literal => $value:ident),+) => {
        impl SettingValue for $kind {
            fn read(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$value),)+
                    _ => Err(concat!("write one of:", $(" ", $text),+).to_owned()),
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$value => $text.to_owned()),+ }
            }
        }
    };
}

one_of!(Durability: "disk" => Disk, "process" => Process);
one_of!(LogFormat: "text" => Text, "json" => Json);
one_of!(Offline: "wait" => Wait, "cache" => Cache);
one_of!(RedisMode: "single" => Single, "sentinel" => Sentinel, "cluster" => Cluster);
one_of!(CapsAlone: "own-count" => OwnCount, "refuse" => Refuse);
one_of!(
    VaultAuth: "token" => Token, "approle" => AppRole, "kubernetes" => Kubernetes,
    "cert" => Certificate, "agent" => Agent
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown_alike() {
        for text in ["500ms", "60s", "5m", "25h", "7d", "0ms"] {
            let time = Duration::read(text).unwrap();
            assert_eq!(Duration::read(&time.show()), Ok(time), "{text}");
        }
        for text in ["", "5", "h", "1.5h", "5 m", "18446744073709551615d", "-1s"] {
            assert!(Duration::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_secret_is_never_shown() {
        let token = Hidden::read("hvs.fake-fake-fake").unwrap();
        assert_eq!((token.show(), format!("{token:?}")), ("(hidden)".into(), "(hidden)".into()));
        assert_eq!(Hidden::read("").unwrap().show(), "");
        for (address, shown) in [
            ("redis://localhost:6379/1", "redis://localhost:6379/1"),
            ("redis://:fake-fake@host/1", "redis://(hidden)@host/1"),
            ("rediss://me:fa@ke@one,redis://two", "rediss://(hidden)@one,redis://two"),
            ("unix:///r.sock?db=1&pass=fa@ke", "unix:///r.sock?db=1&pass=(hidden)"),
        ] {
            let address = Addresses::read(address).unwrap();
            assert_eq!(address.show(), shown);
            assert_eq!(format!("{address:?}"), shown);
        }
    }

    #[test]
    fn permission_bits_are_octal() {
        assert_eq!(FileMode::read("0660"), Ok(FileMode(0o660)));
        assert_eq!(FileMode::read("660").map(|mode| mode.show()), Ok("0660".to_owned()));
        assert!(FileMode::read("0980").is_err());
        assert!(FileMode::read("1777").is_err());
    }
}
