//! Whose the door is, and who may come in: its security descriptor, which every instance has.
//!
//! It is written here and nowhere else. It is protected, so that nothing is inherited, and says all that is allowed: the
//! system's own default would let everybody read.

use std::io;

use pipebus_windows::account::{self, SYSTEM};
use pipebus_windows::descriptor::{Descriptor, USE_PIPE};

use crate::config::DoorSection;
use crate::core::policy::Group;
use crate::transport::{Access, BindError};

/// Those who have said who they are, on this machine or in its domain: not guests, and not the anonymous.
const AUTHENTICATED: &str = "S-1-5-11";

/// What the configuration says.
pub(super) fn of_door(settings: &DoorSection) -> Result<Descriptor, BindError> {
    if !settings.security.is_empty() {
        let wrong = |error: io::Error| BindError::Security { text: settings.security.clone(), why: error.to_string() };
        let mut descriptor = Descriptor::parse(&settings.security).map_err(wrong)?;
        if descriptor.owner().map_err(wrong)?.is_none() {
            // Not whoever the system takes for it: clients look whose the pipe is.
            descriptor = Descriptor::parse(&format!("O:{}{}", own_sid()?, settings.security)).map_err(wrong)?;
        }
        return match descriptor.entries() {
            Ok(Some(_)) => Ok(descriptor),
            Ok(None) => {
                Err(wrong(io::Error::other("it has no list of who may do what, so everybody may do everything")))
            }
            Err(error) => Err(wrong(error)),
        };
    }
    let text = text_of(settings)?;
    Descriptor::parse(&text).map_err(|error| BindError::Security { text, why: error.to_string() })
}

/// The owner and the system may do everything; whoever else may come in may read and write, and not make instances, with
/// which it could pretend to be the broker.
fn text_of(settings: &DoorSection) -> Result<String, BindError> {
    let owner = own_sid()?;
    let mut text = format!("O:{owner}D:P(A;;GA;;;{SYSTEM})(A;;GA;;;{owner})");
    match settings.access {
        Access::Owner => {}
        Access::Group => {
            let failed =
                |source| BindError::System { doing: "look up the group", path: settings.group.clone().into(), source };
            let Some(Group::Windows { sid, .. }) = super::group_named(&settings.group).map_err(failed)? else {
                return Err(BindError::NoGroup(settings.group.clone()));
            };
            text += &format!("(A;;{USE_PIPE:#x};;;{sid})");
        }
        Access::Everyone => text += &format!("(A;;{USE_PIPE:#x};;;{AUTHENTICATED})"),
    }
    Ok(text)
}

fn own_sid() -> Result<String, BindError> {
    let failed = |source| BindError::System { doing: "find out who runs", path: "this broker".into(), source };
    Ok(account::own().map_err(failed)?.sid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use pipebus_windows::descriptor::Entry;

    fn door(access: Access, group: &str) -> DoorSection {
        DoorSection { access, group: group.to_owned(), ..Config::default().door }
    }

    fn entries(settings: &DoorSection) -> Vec<Entry> {
        let descriptor = of_door(settings).unwrap();
        assert!(descriptor.is_protected().unwrap());
        assert_eq!(descriptor.owner().unwrap(), Some(account::own().unwrap().sid));
        descriptor.entries().unwrap().unwrap()
    }

    #[test]
    fn only_the_owner_and_the_system_may_do_everything() {
        let own = account::own().unwrap().sid;
        let usual = entries(&door(Access::Owner, ""));
        let shown: Vec<_> = usual.iter().map(|entry| (entry.allows, entry.sid.as_str())).collect();
        assert_eq!(shown, [(true, SYSTEM), (true, &own)]);
    }

    #[test]
    fn others_may_use_the_pipe_and_not_serve_it() {
        for (door, sid) in
            [(door(Access::Everyone, ""), AUTHENTICATED), (door(Access::Group, "S-1-5-32-545"), "S-1-5-32-545")]
        {
            let last = entries(&door).pop().unwrap();
            assert_eq!(last, Entry { allows: true, rights: USE_PIPE, sid: sid.to_owned() });
        }
        assert!(matches!(of_door(&door(Access::Group, "no-such-group")), Err(BindError::NoGroup(_))));
    }

    #[test]
    fn what_is_written_counts_if_it_is_a_descriptor_and_says_who_may_do_what() {
        let written = |text: &str| of_door(&DoorSection { security: text.to_owned(), ..door(Access::Everyone, "") });
        assert_eq!(written("D:P(A;;GA;;;SY)").unwrap().entries().unwrap().unwrap().len(), 1);
        let owner = |text| written(text).unwrap().owner().unwrap().unwrap();
        assert_eq!(
            [owner("D:P(A;;GA;;;SY)"), owner("O:SYD:P(A;;GA;;;SY)")],
            [account::own().unwrap().sid, SYSTEM.into()]
        );
        for wrong in ["D:P(A;;GA", "everybody", "O:SY"] {
            assert!(matches!(written(wrong), Err(BindError::Security { .. })), "{wrong}");
        }
    }
}
