//! Accounts: what people call those whom the bus knows.

use pipebus_client::Identity;
use pipebus_windows::account::name_of;

/// The name of a user, or what stands for one that has none.
pub(crate) fn user_name(identity: &Identity) -> String {
    match identity {
        Identity::Unix { uid } => uid.to_string(),
        Identity::Windows { sid } => name_of(sid),
    }
}
