use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::redis::password::Password;

/// Where a Redis server, a sentinel or a node of a cluster is, and who asks:
/// `redis://[user[:password]@]host[:port][/database]`, the same with
/// `rediss://` for TLS, or `unix:///path[?db=n&user=..&pass=..]`.
///
/// Parts that are not plain are percent-encoded. Shown as text, the password
/// is masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// Where.
    pub address: RedisAddress,
    /// As which user; none: the server's `default`.
    pub username: Option<String>,
    /// With which password.
    pub password: Option<Password>,
    /// Which database of the server.
    pub database: i64,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisAddress {
    /// Over the network.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port; none: the usual one of what is there.
        port: Option<u16>,
        /// Whether the connection is encrypted.
        tls: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is not the address of a Redis server. The text itself is not
/// repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlError {
    /// Another scheme, or none.
    #[error("an address of Redis begins with redis://, rediss:// (TLS) or unix://")]
    Scheme,
    /// Nothing where the host should be.
    #[error("the address of Redis names no host: write redis://host:6379")]
    NoHost,
    /// Not a number from 1 to 65535.
    #[error("the port of an address of Redis is a number from 1 to 65535")]
    Port,
    /// Not a number.
    #[error("the database of an address of Redis is a number, as in redis://host:6379/0")]
    Database,
    /// No absolute path.
    #[error("a Unix socket of Redis is named by its absolute path, as in unix:///run/redis.sock")]
    Path,
    /// A `%` without two hexadecimal digits, or no text when decoded.
    #[error(
        "the user or password in the address of Redis is not percent-encoded: write %25 for %, %40 for @, %2C for a comma"
    )]
    Encoding,
    /// Something after `?` that is not known.
    #[error("after ? an address of Redis has db, user or pass")]
    Query,
    /// No address at all.
    #[error("no address of Redis is named")]
    Empty,
}

impl RedisUrl {
    /// Several addresses, separated by commas; at least one.
    ///
    /// # Errors
    /// As for one of them.
    pub fn list(text: &str) -> Result<Vec<Self>, RedisUrlError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let urls = parts.map(str::parse).collect::<Result<Vec<Self>, _>>()?;
        if urls.is_empty() { Err(RedisUrlError::Empty) } else { Ok(urls) }
    }

    fn network(rest: &str, tls: bool) -> Result<Self, RedisUrlError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (who, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (host, port) = host_and_port(place)?;
        let mut url = Self::at(RedisAddress::Tcp { host, port, tls });
        url.read_who(who)?;
        url.read_database(database)?;
        url.read_query(query)?;
        Ok(url)
    }

    fn socket(rest: &str) -> Result<Self, RedisUrlError> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (who, path) = match path.find('/').ok_or(RedisUrlError::Path)? {
            0 => ("", path),
            slash => (path[..slash].strip_suffix('@').ok_or(RedisUrlError::Path)?, &path[slash..]),
        };
        let mut url = Self::at(RedisAddress::Unix(PathBuf::from(decoded(path)?)));
        url.read_who(who)?;
        url.read_query(query)?;
        Ok(url)
    }

    const fn at(address: RedisAddress) -> Self {
        Self { address, username: None, password: None, database: 0 }
    }

    /// `user`, `user:password` or `:password`.
    fn read_who(&mut self, who: &str) -> Result<(), RedisUrlError> {
        let (user, password) = who.split_once(':').unwrap_or((who, ""));
        self.username = present(decoded(user)?);
        self.password = present(decoded(password)?).map(Password::new);
        Ok(())
    }

    fn read_database(&mut self, text: &str) -> Result<(), RedisUrlError> {
        if !text.is_empty() {
            let number: u32 = text.parse().map_err(|_| RedisUrlError::Database)?;
            self.database = i64::from(number);
        }
        Ok(())
    }

    fn read_query(&mut self, query: &str) -> Result<(), RedisUrlError> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').ok_or(RedisUrlError::Query)? {
                ("db", number) => self.read_database(number)?,
                ("user", user) => self.username = present(decoded(user)?),
                ("pass", password) => {
                    self.password = present(decoded(password)?).map(Password::new);
                }
                _ => return Err(RedisUrlError::Query),
            }
        }
        Ok(())
    }
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(RedisUrlError::Scheme)?;
        match scheme {
            "redis" => Self::network(rest, false),
            "rediss" => Self::network(rest, true),
            "unix" | "redis+unix" => Self::socket(rest),
            _ => Err(RedisUrlError::Scheme),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.username.as_deref().unwrap_or("");
        let who = match &self.password {
            Some(_) => format!("{user}:***@"),
            None if user.is_empty() => String::new(),
            None => format!("{user}@"),
        };
        match &self.address {
            RedisAddress::Unix(path) => {
                write!(f, "unix://{who}{}", path.display())?;
                if self.database == 0 { Ok(()) } else { write!(f, "?db={}", self.database) }
            }
            address @ RedisAddress::Tcp { tls, .. } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                write!(f, "{scheme}://{who}{address}/{}", self.database)
            }
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { host, port, .. } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                match port {
                    Some(port) => write!(f, "{host}:{port}"),
                    None => f.write_str(&host),
                }
            }
        }
    }
}

fn host_and_port(place: &str) -> Result<(String, Option<u16>), RedisUrlError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(RedisUrlError::NoHost)?;
            (host, port.strip_prefix(':'))
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(RedisUrlError::NoHost);
    }
    let port = port.map(|port| match port.parse() {
        Ok(0) | Err(_) => Err(RedisUrlError::Port),
        Ok(port) => Ok(port),
    });
    Ok((host.to_owned(), port.transpose()?))
}

fn present(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn decoded(text: &str) -> Result<String, RedisUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' { hex(rest.next())? << 4 | hex(rest.next())? } else { byte });
    }
    String::from_utf8(bytes).map_err(|_| RedisUrlError::Encoding)
}

fn hex(digit: Option<u8>) -> Result<u8, RedisUrlError> {
    let digit = digit.and_then(|digit| char::from(digit).to_digit(16));
    digit.and_then(|digit| u8::try_from(digit).ok()).ok_or(RedisUrlError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> RedisUrl {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_is_read() {
        for (text, shown) in [
            ("redis://host", "redis://host/0"),
            ("redis://host:7000/3", "redis://host:7000/3"),
            ("rediss://u@[::1]:7000", "rediss://u@[::1]:7000/0"),
            ("redis://:p%40ss@host", "redis://:***@host/0"),
            ("redis://u:pw@host/1?db=2", "redis://u:***@host/2"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("redis+unix:///run/r.sock?db=1&user=u&pass=p", "unix://u:***@/run/r.sock?db=1"),
            ("unix://u:pw@/run/r.sock", "unix://u:***@/run/r.sock"),
        ] {
            assert_eq!(url(text).to_string(), shown, "{text}");
        }
        assert_eq!(url("redis://:p%40s:s@host").password, Some(Password::new("p@s:s".into())));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (text, error) in [
            ("host:6379", RedisUrlError::Scheme),
            ("http://u:hunter2@host", RedisUrlError::Scheme),
            ("redis://u:hunter2@", RedisUrlError::NoHost),
            ("redis://u:hunter2@host:x", RedisUrlError::Port),
            ("redis://u:hunter2@host:0", RedisUrlError::Port),
            ("redis://u:hunter2@host/x", RedisUrlError::Database),
            ("redis://u:hunter2%@host", RedisUrlError::Encoding),
            ("redis://u:hunter2@host?ssl=1", RedisUrlError::Query),
            ("unix://hunter2", RedisUrlError::Path),
        ] {
            let refused = text.parse::<RedisUrl>().unwrap_err();
            assert_eq!(refused, error, "{text}");
            assert!(!refused.to_string().contains("hunter2"));
        }
        assert_eq!(RedisUrl::list(" , "), Err(RedisUrlError::Empty));
    }

    #[test]
    fn the_password_is_in_no_text() {
        let urls = RedisUrl::list("redis://u:hunter2@a,redis://u:hunter2@b:1/2").unwrap();
        assert_eq!(urls.len(), 2);
        let texts = format!("{urls:?} {} {}", urls[0], urls[1]);
        assert!(!texts.contains("hunter2"), "{texts}");
    }
}
