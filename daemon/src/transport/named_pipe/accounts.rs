//! Accounts: who the system says that users and groups are. It may ask a domain controller, which takes time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pipebus_proto::control::Identity;
use pipebus_windows::account::{self, Account};

use crate::core::policy::Group;

/// So many users' groups are remembered.
const USERS_MAX: usize = 16 * 1024;

/// The user of this name, or with this security identifier.
pub(crate) fn user_named(name: &str) -> Option<Identity> {
    if account::is_sid(name) {
        return Some(Identity::Windows { sid: name.to_owned() });
    }
    let named = account::named(name).ok().flatten().filter(|named| !named.is_group)?;
    Some(Identity::Windows { sid: named.sid })
}

/// The group of this name, or with this security identifier.
pub(crate) fn group_named(name: &str) -> Option<Group> {
    if account::is_sid(name) {
        return Some(Group::Windows { sid: name.to_owned() });
    }
    let named = account::named(name).ok().flatten().filter(|named| named.is_group)?;
    Some(Group::Windows { sid: named.sid })
}

/// The groups that count for a user: those of the token with which it came last, since the system has decided then.
///
/// # Errors
/// It has not come yet.
pub(crate) fn groups_of(identity: &Identity) -> io::Result<Vec<Group>> {
    let Identity::Windows { sid } = identity else { return Ok(Vec::new()) };
    let users = users();
    let groups = users.get(sid);
    let groups = groups.ok_or_else(|| io::Error::other("its groups are known only once it has connected"))?;
    Ok(groups.iter().map(|sid| Group::Windows { sid: sid.clone() }).collect())
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
    users.insert(account.sid, account.groups);
}

fn users() -> MutexGuard<'static, BTreeMap<String, Vec<String>>> {
    static USERS: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_the_last_token() {
        let user = Identity::Windows { sid: "S-1-5-21-9-9-9-1".to_owned() };
        groups_of(&user).unwrap_err();
        for groups in [&["S-1-5-11", "S-1-5-32-544"][..], &["S-1-5-11"]] {
            let groups: Vec<String> = groups.iter().map(|sid| (*sid).to_owned()).collect();
            remember(Account { sid: "S-1-5-21-9-9-9-1".to_owned(), groups: groups.clone() });
            let expected: Vec<_> = groups.into_iter().map(|sid| Group::Windows { sid }).collect();
            assert_eq!(groups_of(&user).unwrap(), expected);
        }
    }

    #[test]
    fn an_identifier_is_a_name_too() {
        assert_eq!(user_named("S-1-5-18"), Some(Identity::Windows { sid: "S-1-5-18".to_owned() }));
        assert_eq!(group_named("S-1-5-32-544"), Some(Group::Windows { sid: "S-1-5-32-544".to_owned() }));
        assert_eq!((user_named("nobody-of-this-name"), group_named("nobody-of-this-name")), (None, None));
    }
}
