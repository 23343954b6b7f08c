//! Entrance: whom the permissions of a bus let in, in words.

use nix::unistd::{Gid, Group};
use pipebus_client::Identity;

use crate::system::account;
use crate::transport::fifo::processes::Facts;

const OWNER_WRITES: u32 = 0o200;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const GROUP_ENTERS: u32 = 0o010;
const OTHERS_ENTER: u32 = 0o001;

/// Who may reach the door through the directory and write to it, besides root.
pub(crate) fn admitted(directory: &Facts, door: &Facts) -> String {
    let (everyone, group) = enters(directory, door);
    match door.mode {
        mode if mode & OTHERS_WRITE != 0 && everyone => "everyone".to_owned(),
        mode if mode & GROUP_WRITES != 0 && group => {
            format!("group {} and {}", group_name(door.gid), user_name(door.uid))
        }
        mode if mode & OWNER_WRITES != 0 => user_name(door.uid),
        _ => "root alone".to_owned(),
    }
}

/// Whether the door lets somebody in whom the directory keeps out.
pub(crate) fn keeps_out(directory: &Facts, door: &Facts) -> bool {
    let (everyone, group) = enters(directory, door);
    (door.mode & OTHERS_WRITE != 0 && !everyone) || (door.mode & GROUP_WRITES != 0 && !group)
}

/// Whether everyone, and whether the door's group, gets as far as to the door.
fn enters(directory: &Facts, door: &Facts) -> (bool, bool) {
    let everyone = directory.mode & OTHERS_ENTER != 0;
    (everyone, everyone || (directory.mode & GROUP_ENTERS != 0 && directory.gid == door.gid))
}

/// The name of a user, or the number of one that has none.
pub(crate) fn user_name(uid: u32) -> String {
    account::user_name(&Identity::Unix { uid })
}

/// The name of a group, or the number of one that has none.
pub(crate) fn group_name(gid: u32) -> String {
    named_group(gid).unwrap_or_else(|| gid.to_string())
}

/// The name of a group, if it has one.
pub(crate) fn named_group(gid: u32) -> Option<String> {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::fifo::processes::Device;
    use rustix::fs::FileType;

    const NOBODY: u32 = u32::MAX - 7;

    fn facts(mode: u32) -> Facts {
        let device = Device { major: 0, minor: 1 };
        Facts { kind: FileType::Fifo, mode, uid: NOBODY, gid: NOBODY, device, inode: 1, modified: 0 }
    }

    fn check(directory: u32, door: u32, expected: &str, out: bool) {
        let (directory, door) = (facts(directory), facts(door));
        assert_eq!(admitted(&directory, &door), expected, "{:o} {:o}", directory.mode, door.mode);
        assert_eq!(keeps_out(&directory, &door), out, "{:o} {:o}", directory.mode, door.mode);
    }

    #[test]
    fn who_is_let_in_depends_on_the_door_and_on_the_way_to_it() {
        let (owner, group) = (NOBODY.to_string(), format!("group {NOBODY}"));
        let both = format!("{group} and {owner}");
        check(0o755, 0o622, "everyone", false);
        check(0o755, 0o620, &both, false);
        check(0o710, 0o620, &both, false);
        check(0o700, 0o620, &owner, true);
        check(0o700, 0o622, &owner, true);
        check(0o700, 0o600, &owner, false);
        check(0o755, 0o400, "root alone", false);
    }
}
