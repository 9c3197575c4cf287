//! The identity that opens the store: where it comes from, and how it is made.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::secrecy::{ExposeSecret, SecretString};
use age::{scrypt, x25519};
use zeroize::Zeroizing;

use super::file::OFFLINE_COPY_FILE;
use super::seal::{self, UnsealError};
use crate::atomic_file;
use crate::private_file::{self, FileMark, Guard};
use crate::{SecretKey, SecretStoreError};

const PLAIN_FILE: &str = "identity.age.txt";
const WRAPPED_FILE: &str = "identity.age";
/// Empty lines: the `age` tool takes no others for fillers, and no long ones.
const FILLER: u8 = b'\n';
const IDENTITY_PREFIX: &str = "AGE-SECRET-KEY-1";

/// The exponent of scrypt's cost: 128 MiB of memory and under a second, once
/// per start.
const SCRYPT_LOG_N: u8 = 17;
/// The highest cost accepted from a file: what the `age` tool writes is 18.
const SCRYPT_LOG_N_MAX: u8 = 20;

/// Where the identity that opens the store comes from.
///
/// The first three are files as `age-keygen` writes them: lines that begin
/// with `#`, and one `AGE-SECRET-KEY-1…`; further ones are tried for reading
/// only, so that an identity can be replaced.
#[derive(Clone)]
pub enum IdentitySource {
    /// `identity.age.txt` in the state directory. Made on the first start,
    /// when there is no store either.
    StateDirectory,
    /// A file elsewhere, under the same rules: ours, mode 0600 or less.
    File(PathBuf),
    /// A file that someone else protects, such as a systemd credential or a
    /// mounted secret. Never made; only others must not be able to read it.
    Credential(PathBuf),
    /// `identity.age` in the state directory: an identity encrypted with this
    /// passphrase. Made on the first start, when there is no store either.
    Passphrase(Arc<SecretKey>),
}

/// One identity or more; the first is the one that new content is for.
pub(super) struct Identities {
    keys: Vec<x25519::Identity>,
    origin: PathBuf,
    /// What they were read from; none for those that were never in a file.
    mark: Option<FileMark>,
}

impl Identities {
    pub(super) fn recipient(&self) -> x25519::Recipient {
        self.keys[0].to_public()
    }

    pub(super) fn as_age(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.keys.iter().map(|key| key as &dyn age::Identity)
    }

    pub(super) fn origin(&self) -> &Path {
        &self.origin
    }

    /// False when their file was replaced since it was read. When it is gone
    /// there are no others to use.
    pub(super) fn are_current(&self) -> bool {
        let now = FileMark::of(&self.origin);
        now.is_none() || now == self.mark
    }

    fn new(keys: Vec<x25519::Identity>, origin: PathBuf, mark: Option<FileMark>) -> Self {
        // As far as the system allows it; the server says so when it does not.
        let _ = key_server_sys::keep_in_ram(&keys);
        Self { keys, origin, mark }
    }

    /// These alone, wherever they are kept.
    pub(super) fn of(key: x25519::Identity, origin: PathBuf) -> Self {
        Self::new(vec![key], origin, None)
    }

    /// A new one to write for, with these to read what was written before.
    pub(super) fn succeeded_by(&self, key: x25519::Identity) -> Self {
        let keys = std::iter::once(key).chain(self.keys.iter().cloned());
        Self::new(keys.collect(), self.origin.clone(), None)
    }
}

/// Reads the identity, or makes it when neither it nor any of `files` exists.
pub(super) fn obtain(
    source: &IdentitySource,
    state_directory: &Path,
    files: &[PathBuf],
) -> Result<Identities, SecretStoreError> {
    let origin = source.path(state_directory);
    if source.may_make() {
        // What a crash left holds an identity. Where we may not look, we did
        // not write either.
        let _ = atomic_file::remove_leftovers(&origin);
    }
    if let Some(identities) = read(source, state_directory)? {
        return Ok(identities);
    }
    match first_of(files)? {
        None if source.may_make() => {
            let key = source.make(&origin)?;
            let mark = FileMark::of(&origin);
            Ok(Identities::new(vec![key], origin, mark))
        }
        existing => Err(missing(source, &origin, existing.unwrap_or(&origin))),
    }
}

/// Reads the identity; none when there is no such file.
pub(super) fn read(
    source: &IdentitySource,
    state_directory: &Path,
) -> Result<Option<Identities>, SecretStoreError> {
    let origin = source.path(state_directory);
    let guard = match source {
        IdentitySource::Credential(_) => Guard::Directory,
        _ => Guard::OwnerAndMode,
    };
    // Before the content: a file that is replaced in between is read again.
    let mark = FileMark::of(&origin);
    let Some(content) = private_file::read(&origin, guard)? else { return Ok(None) };
    let keys = source.keys(&origin, &content)?;
    Ok(Some(Identities::new(keys, origin, mark)))
}

/// Puts these in the place of what the file of `source` holds.
pub(super) fn replace(
    source: &IdentitySource,
    identities: &Identities,
) -> Result<(), SecretStoreError> {
    let text = text_of(&identities.keys);
    let origin = &identities.origin;
    let replaced = source.bytes(&text).and_then(|bytes| {
        // What a link leads to, not the link.
        let place = origin.canonicalize()?;
        atomic_file::replace(&place, |mut file| file.write_all(&bytes))
    });
    replaced.map_err(|error| SecretStoreError::from_io("replace", origin, &error))
}

impl IdentitySource {
    fn path(&self, state_directory: &Path) -> PathBuf {
        match self {
            Self::StateDirectory => state_directory.join(PLAIN_FILE),
            Self::File(path) | Self::Credential(path) => path.clone(),
            Self::Passphrase(_) => state_directory.join(WRAPPED_FILE),
        }
    }

    pub(super) fn may_make(&self) -> bool {
        !matches!(self, Self::Credential(_))
    }

    fn keys(
        &self,
        origin: &Path,
        content: &[u8],
    ) -> Result<Vec<x25519::Identity>, SecretStoreError> {
        match self {
            Self::Passphrase(passphrase) => parse(origin, &unwrap(origin, content, passphrase)?),
            _ => parse(origin, content),
        }
    }

    fn make(&self, origin: &Path) -> Result<x25519::Identity, SecretStoreError> {
        let identity = x25519::Identity::generate();
        let text = text_of(std::slice::from_ref(&identity));
        let made = self.bytes(&text).and_then(|bytes| atomic_file::create(origin, &bytes));
        made.map_err(|error| SecretStoreError::from_io("make", origin, &error))?;
        Ok(identity)
    }

    /// How this text stands in the file.
    fn bytes(&self, text: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        Ok(Zeroizing::new(match self {
            Self::Passphrase(passphrase) => wrap(text, passphrase)?,
            _ => text.as_bytes().to_vec(),
        }))
    }
}

/// The first of the files that exists.
fn first_of(files: &[PathBuf]) -> Result<Option<&Path>, SecretStoreError> {
    for file in files {
        if exists(file)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn exists(store: &Path) -> Result<bool, SecretStoreError> {
    match store.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(SecretStoreError::from_io("look at", store, &error)),
    }
}

fn missing(source: &IdentitySource, origin: &Path, store: &Path) -> SecretStoreError {
    let is_copy = store.file_name().is_some_and(|name| name == OFFLINE_COPY_FILE);
    let (origin, store) = (origin.display(), store.display());
    SecretStoreError::Denied(match source {
        _ if is_copy => format!(
            "{store}, the copy of the keys in Vault, exists but its identity {origin} does not, and \
             nothing else opens it: put the identity back from a backup, or remove {store}: it is \
             made anew when Vault gives the keys"
        ),
        IdentitySource::Credential(_) => format!(
            "the identity {origin} does not exist: make it with age-keygen and pass it as the \
             credential, or correct the setting that names it"
        ),
        _ => format!(
            "{store} exists but its identity {origin} does not, and nothing else opens it: put \
             the identity back from a backup, or move {store} away and import the keys again"
        ),
    })
}

fn parse(origin: &Path, content: &[u8]) -> Result<Vec<x25519::Identity>, SecretStoreError> {
    let corrupt = |what| {
        SecretStoreError::Corrupt(format!(
            "{} {what}: it must hold a line AGE-SECRET-KEY-1… as age-keygen writes it; put it back from a backup",
            origin.display()
        ))
    };
    let text = std::str::from_utf8(content).map_err(|_| corrupt("is not text"))?;
    let keys = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.parse().ok().filter(|_| line.starts_with(IDENTITY_PREFIX)))
        .collect::<Option<Vec<x25519::Identity>>>()
        .ok_or_else(|| corrupt("is not an age identity"))?;
    if keys.is_empty() {
        return Err(corrupt("holds no identity"));
    }
    Ok(keys)
}

fn text_of(identities: &[x25519::Identity]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(512 * (1 + identities.len())));
    text.push_str(
        "# The identity of this Key Server. Whoever has it and secrets.age has every key.\n\
         # Keep a backup of it apart from secrets.age; without it secrets.age is lost.\n",
    );
    for (index, identity) in identities.iter().enumerate() {
        let until_now = if index == 0 { "" } else { " (until now, for reading only)" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "# public key{until_now}: {}\n{}",
            identity.to_public(),
            identity.to_string().expose_secret(),
        );
    }
    text
}

fn wrap(text: &str, passphrase: &SecretKey) -> io::Result<Vec<u8>> {
    let mut recipient = scrypt::Recipient::new(for_age(passphrase));
    recipient.set_work_factor(SCRYPT_LOG_N);
    let mut wrapped = Vec::new();
    seal::seal(&mut wrapped, &recipient, FILLER, |out| out.write_all(text.as_bytes()))?;
    Ok(wrapped)
}

fn unwrap(
    origin: &Path,
    content: &[u8],
    passphrase: &SecretKey,
) -> Result<Zeroizing<Vec<u8>>, SecretStoreError> {
    let mut identity = scrypt::Identity::new(for_age(passphrase));
    identity.set_max_work_factor(SCRYPT_LOG_N_MAX);
    let identities = iter::once(&identity as &dyn age::Identity);
    seal::unseal(content, content.len() as u64, identities).map_err(|error| {
        let origin = origin.display();
        match error {
            UnsealError::WrongIdentity => SecretStoreError::Denied(format!(
                "the passphrase does not open {origin}: give the one it was made with"
            )),
            _ => SecretStoreError::Corrupt(format!(
                "{origin} is not a whole age file with a passphrase: put it back from a backup"
            )),
        }
    })
}

fn for_age(passphrase: &SecretKey) -> SecretString {
    SecretString::from(String::from(passphrase.expose()))
}
