//! Accounts: who the system says that users and groups are. It may ask a directory service, which takes time.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User};
use pipebus_proto::control::Identity;

use crate::core::policy::Group;

/// The user of this name, if there is one.
///
/// # Errors
/// The system can't tell.
pub(crate) fn user_named(name: &str) -> io::Result<Option<Identity>> {
    let user = found(User::from_name(name))?;
    Ok(user.map(|user| Identity::Unix { uid: user.uid.as_raw() }))
}

/// The group of this name, if there is one.
///
/// # Errors
/// The system can't tell.
pub(crate) fn group_named(name: &str) -> io::Result<Option<Group>> {
    let group = found(nix::unistd::Group::from_name(name))?;
    Ok(group.map(|group| Group::Unix { gid: group.gid.as_raw() }))
}

/// Some systems call it an error that there is nobody of a name (getpwnam(3), "ERRORS").
fn found<T>(asked: nix::Result<Option<T>>) -> io::Result<Option<T>> {
    match asked {
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        asked => Ok(asked?),
    }
}

/// The groups that a user is a member of; none, if the system knows no such user.
///
/// # Errors
/// The system can't tell.
pub(crate) fn groups_of(identity: &Identity) -> io::Result<Vec<Group>> {
    let Identity::Unix { uid } = identity else { return Ok(Vec::new()) };
    let Some(user) = User::from_uid(Uid::from_raw(*uid))? else { return Ok(Vec::new()) };
    let name = CString::new(user.name).map_err(io::Error::other)?;
    let gids: Vec<Gid> = nix::unistd::getgrouplist(&name, user.gid)?;
    Ok(gids.into_iter().map(|gid| Group::Unix { gid: gid.as_raw() }).collect())
}
