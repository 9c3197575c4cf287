//! Users and groups by name, as the system's user database has them.
//!
//! It is asked by way of the C library (`getent passwd NAME` shows what it
//! says), so users of a directory service count like those of `/etc/passwd`.
//! That works from within the sandbox, too: modules of the database are read
//! and mapped, never run as programs, and talk over Unix sockets; which there
//! are is root's decision (`/etc/nsswitch.conf`). A directory service may take
//! its time: not for where others wait.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// The uid of a user.
///
/// # Errors
/// There is none, or the database cannot be asked: what to do, in words.
pub fn uid_of(name: &str) -> Result<u32, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("there is no user of this name; create it, or write its uid".to_owned()),
        Err(error) => Err(format!("the user database cannot be asked: {error}")),
    }
}

/// The gid of a group.
///
/// # Errors
/// As [`uid_of`].
pub fn gid_of(name: &str) -> Result<u32, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err("there is no group of this name; create it, or write its gid".to_owned()),
        Err(error) => Err(format!("the user database cannot be asked: {error}")),
    }
}

/// A uid as people write one: the number, or the user's name.
///
/// # Errors
/// As [`uid_of`].
pub fn uid(text: &str) -> Result<u32, String> {
    text.parse().or_else(|_| uid_of(text))
}

/// A gid as people write one: the number, or the group's name.
///
/// # Errors
/// As [`uid_of`].
pub fn gid(text: &str) -> Result<u32, String> {
    text.parse().or_else(|_| gid_of(text))
}

/// The first group and the other ones of a user; none when the database does
/// not know the user.
pub fn groups_of(uid: u32) -> Option<(u32, Vec<u32>)> {
    let user = User::from_uid(Uid::from_raw(uid)).ok()??;
    let name = CString::new(user.name).ok()?;
    let groups = getgrouplist(&name, user.gid).unwrap_or_default();
    Some((user.gid.as_raw(), groups.into_iter().map(Gid::as_raw).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_where_the_system_keeps_them() {
        assert_eq!((uid_of("root"), gid_of("root")), (Ok(0), Ok(0)));
        assert!(uid_of("no-such-user-here").unwrap_err().contains("write its uid"));
        assert!(gid_of("no-such-group-here").unwrap_err().contains("write its gid"));
        assert_eq!(groups_of(0).map(|(gid, _)| gid), Some(0));
    }

    #[test]
    fn a_number_is_itself_whether_or_not_anybody_has_it() {
        assert_eq!((uid("4711"), gid("4711")), (Ok(4_711), Ok(4_711)));
        assert_eq!((uid("root"), gid("root")), (Ok(0), Ok(0)));
        for name in ["", "-1", "no-such-name-here", "a:b", "root\0"] {
            assert!(uid(name).is_err() && gid(name).is_err(), "{name:?}");
        }
    }
}
