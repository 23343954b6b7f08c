//! Accounts: who the system says that users and groups are. It may ask a domain controller, which takes time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pipebus_proto::control::Identity;
use pipebus_windows::account::{self, Account};

use crate::core::policy::Group;

/// So many users' groups are remembered.
const USERS_MAX: usize = 16 * 1024;

/// The user of this name, or with this security identifier, if there is one.
///
/// # Errors
/// The system can't tell.
pub(crate) fn user_named(name: &str) -> io::Result<Option<Identity>> {
    let named = account::named(name)?.filter(|named| named.is_user);
    Ok(named.map(|named| Identity::Windows { sid: named.sid }))
}

/// The group of this name, or with this security identifier, if there is one.
///
/// # Errors
/// The system can't tell.
pub(crate) fn group_named(name: &str) -> io::Result<Option<Group>> {
    let named = account::named(name)?.filter(|named| named.is_group);
    Ok(named.map(|named| Group::Windows { sid: named.sid, only_denied: false }))
}

/// The groups that count for a user: those of the token with which it came last, since the system has decided then.
///
/// # Errors
/// It has not come yet.
pub(crate) fn groups_of(identity: &Identity) -> io::Result<Vec<Group>> {
    let Identity::Windows { sid } = identity else { return Ok(Vec::new()) };
    let users = users();
    let groups = users.get(sid);
    groups.cloned().ok_or_else(|| io::Error::other("its groups are known only once it has connected"))
}

/// Somebody has come with a token that says this.
pub(super) fn remember(account: Account) {
    let mut users = users();
    if users.len() >= USERS_MAX
        && !users.contains_key(&account.sid)
        && let Some(any) = users.keys().next().cloned()
    {
        users.remove(&any);
    }
    let group = |only_denied| move |sid| Group::Windows { sid, only_denied };
    let (counting, denying) = (account.groups.into_iter(), account.only_denied.into_iter());
    users.insert(account.sid, counting.map(group(false)).chain(denying.map(group(true))).collect());
}

fn users() -> MutexGuard<'static, BTreeMap<String, Vec<Group>>> {
    static USERS: Mutex<BTreeMap<String, Vec<Group>>> = Mutex::new(BTreeMap::new());
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_the_last_token() {
        let sid = "S-1-5-21-9-9-9-1".to_owned();
        let user = Identity::Windows { sid: sid.clone() };
        groups_of(&user).unwrap_err();
        let (users, administrators) = ("S-1-5-32-545".to_owned(), "S-1-5-32-544".to_owned());
        remember(Account {
            sid: sid.clone(),
            groups: vec![users.clone(), administrators.clone()],
            only_denied: Vec::new(),
        });
        let group = |sid: &String, only_denied| Group::Windows { sid: sid.clone(), only_denied };
        assert_eq!(groups_of(&user).unwrap(), [group(&users, false), group(&administrators, false)]);
        remember(Account { sid, groups: vec![users.clone()], only_denied: vec![administrators.clone()] });
        assert_eq!(groups_of(&user).unwrap(), [group(&users, false), group(&administrators, true)]);
    }

    #[test]
    fn an_identifier_is_a_name_too() {
        let user = |name| user_named(name).unwrap();
        let group = |name| group_named(name).unwrap();
        assert_eq!(user("S-1-5-18"), Some(Identity::Windows { sid: "S-1-5-18".to_owned() }));
        let administrators = Group::Windows { sid: "S-1-5-32-544".to_owned(), only_denied: false };
        assert_eq!(group("S-1-5-0x20-544"), Some(administrators));
        assert_eq!(user("S-1-5-32-544"), None, "a group is no user");
        assert_eq!((user("nobody-of-this-name"), group("nobody-of-this-name")), (None, None));
    }
}
