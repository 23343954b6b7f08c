//! Accounts: what people call those whom the bus knows.

use nix::unistd::{Uid, User};
use pipebus_client::Identity;

/// The name of a user, or what stands for one that has none.
pub(crate) fn user_name(identity: &Identity) -> String {
    match identity {
        Identity::Unix { uid } => match User::from_uid(Uid::from_raw(*uid)) {
            Ok(Some(user)) => user.name,
            _ => uid.to_string(),
        },
        Identity::Windows { sid } => sid.clone(),
    }
}
