//! Whether whoever listens on a socket may be told anything.
//!
//! The kernel is asked for the other end of the very connection that calls go
//! over, before a byte is written to it; and the socket's file is looked at, as
//! the Python client does. Who puts a socket of his own where the server's
//! should be learns nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use key_server_server::users;
use rustix::process::geteuid;
use tokio::net::UnixStream;

use crate::args::GlobalArgs;
use crate::failure::{Exit, Failure};
use crate::settings::{self, TRUSTED_VARIABLE};

const ROOT: u32 = 0;

/// The users who may run the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trusted(BTreeSet<u32>);

impl Trusted {
    /// Those whom environment or settings name; the own user and root when they
    /// name nobody.
    ///
    /// # Errors
    /// A name that no user has; exit code 2.
    pub(crate) fn of(global: &GlobalArgs) -> Result<Self, Failure> {
        Self::named(&settings::trusted_users(global))
    }

    fn named(list: &str) -> Result<Self, Failure> {
        let names = list.split([',', ' ', '\t', '\n']).filter(|name| !name.is_empty());
        let named = names.map(|name| {
            users::uid(name).map_err(|problem| {
                Failure::usage(format!("{TRUSTED_VARIABLE} names {name:?}: {problem}"))
            })
        });
        let named: BTreeSet<_> = named.collect::<Result<_, _>>()?;
        Ok(Self(match named.is_empty() {
            true => BTreeSet::from([geteuid().as_raw(), ROOT]),
            false => named,
        }))
    }

    /// Makes sure that the other end of `stream`, which is connected to
    /// `socket`, is one of them, and that the socket is theirs. Answers who it is.
    ///
    /// # Errors
    /// Exit code 3, with who it is. Nothing was sent.
    pub(crate) fn check(&self, stream: &UnixStream, socket: &Path) -> Result<u32, Failure> {
        let peer = stream.peer_cred().map_err(|error| {
            let socket = socket.display();
            let message = format!("the kernel does not say who listens on {socket}: {error}");
            Failure::new(Exit::Unreachable, message)
        })?;
        self.expect(peer.uid(), "listens there", socket)?;
        // The link, where it is one, and what it leads to.
        for found in [socket.symlink_metadata(), socket.metadata()].into_iter().flatten() {
            self.expect(found.uid(), "owns that file", socket)?;
        }
        Ok(peer.uid())
    }

    fn expect(&self, uid: u32, does_what: &str, socket: &Path) -> Result<(), Failure> {
        if self.0.contains(&uid) {
            return Ok(());
        }
        let users = self.0.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let message = format!(
            "the server on {} is not trusted: uid {uid} {does_what}, trusted are {users}",
            socket.display()
        );
        Err(Failure::new(Exit::Unreachable, message)
            .hint("nothing was sent; if that is the user who is to run the server, name him")
            .hint(format!(
                "with {TRUSTED_VARIABLE}={uid}, or in the settings file: trusted_users = \"{uid}\""
            )))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    fn uids(list: &str) -> Vec<u32> {
        Trusted::named(list).unwrap().0.into_iter().collect()
    }

    #[test]
    fn exactly_those_who_are_named_are_trusted() {
        let own = BTreeSet::from([geteuid().as_raw(), ROOT]);
        assert_eq!(Trusted::named("").unwrap(), Trusted(own));
        assert_eq!(Trusted::named(" , ").unwrap(), Trusted::named("").unwrap());
        assert_eq!(uids("4711"), [4_711]);
        assert_eq!(uids("4711, root 12"), [0, 12, 4_711]);
        let failure = Trusted::named("4711,no-such-user-here").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("no-such-user-here"), "{failure:?}");
    }

    #[tokio::test]
    async fn an_end_of_somebody_else_is_refused_with_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let stream = UnixStream::connect(&socket).await.unwrap();
        let own = geteuid().as_raw();
        Trusted::named("").unwrap().check(&stream, &socket).unwrap();
        let failure = Trusted::named("4711").unwrap().check(&stream, &socket).unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        let says = format!("is not trusted: uid {own} listens there, trusted are 4711");
        assert!(failure.message.ends_with(&says), "{failure:?}");
    }
}
