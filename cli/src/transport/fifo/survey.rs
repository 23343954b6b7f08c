//! Survey: what a bus's directory looks like from outside, and whether somebody serves it. Nobody is knocked up for it.
//!
//! What the broker says of itself is asked elsewhere.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use pipebus_proto::place::Place;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::transport::fifo::processes::{Device, Facts, Process, is_denial};

/// The name of the broker's program.
pub(crate) const BROKER: &str = "pipebusd";

/// What is known of a bus without connecting.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    pub(crate) place: Place,
    pub(crate) directory: Entry,
    pub(crate) door: Entry,
    pub(crate) instances: Entry,
    pub(crate) lock: Entry,
    /// The process that holds the broker's lock, if that can be seen.
    pub(crate) holder: Option<u32>,
    pub(crate) listening: Listening,
    /// Whether the permissions let this user in; `None` where they can't be seen.
    pub(crate) may_connect: Option<bool>,
}

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    There(Facts),
    Absent,
    /// This user may not see.
    Hidden,
    /// The system can't tell.
    Failed(Errno),
}

/// Whether somebody reads what is written to the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listening {
    Somebody,
    Nobody,
    /// There is no door, this user may not knock, or the system can't tell.
    Unknown,
}

impl Survey {
    /// Looks at a bus.
    pub(crate) fn of(place: Place, locks: &Locks) -> Survey {
        let directory = Entry::of(place.path());
        let [door, instances, lock] = match directory {
            Entry::There(facts) if facts.kind == FileType::Directory => {
                [place.door(), place.instances(), place.lock()].map(|path| Entry::of(&path))
            }
            // Through a link, they would be another bus's.
            Entry::There(_) => [Entry::Absent; 3],
            elsewhere => [elsewhere; 3],
        };
        let holder = lock.facts().and_then(|lock| locks.holder(&lock));
        // What is no bus is not to be disturbed.
        let is_bus = (door.kind(), instances.kind()) == (Some(FileType::Fifo), Some(FileType::Directory));
        let listening = if is_bus { listening(&place.door()) } else { Listening::Unknown };
        let may_connect = may_connect(&place, door, instances);
        Survey { place, directory, door, instances, lock, holder, listening, may_connect }
    }
}

impl Entry {
    /// What has this path, itself: a link is a link.
    pub(crate) fn of(path: &Path) -> Entry {
        match Facts::of(path) {
            Ok(facts) => Entry::There(facts),
            Err(Errno::NOENT | Errno::NOTDIR) => Entry::Absent,
            Err(errno) if is_denial(errno) => Entry::Hidden,
            Err(errno) => Entry::Failed(errno),
        }
    }

    pub(crate) fn facts(&self) -> Option<Facts> {
        if let Entry::There(facts) = self { Some(*facts) } else { None }
    }

    pub(crate) fn kind(&self) -> Option<FileType> {
        self.facts().map(|facts| facts.kind)
    }
}

/// Opens the door as every client does, and closes it again. Its reader, a broker or systemd, holds it for writing, too, so
/// that it notices nothing.
fn listening(door: &Path) -> Listening {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(door, flags, Mode::empty()) {
        Ok(_) => Listening::Somebody,
        Err(Errno::NXIO) => Listening::Nobody,
        Err(_) => Listening::Unknown,
    }
}

/// Whoever may write to the door and make FIFOs may connect.
fn may_connect(place: &Place, door: Entry, instances: Entry) -> Option<bool> {
    let needed =
        [(door, place.door(), Access::WRITE_OK), (instances, place.instances(), Access::WRITE_OK | Access::EXEC_OK)];
    let mut may = Some(true);
    for (entry, path, access) in needed {
        match entry {
            Entry::There(_) if rustix::fs::accessat(CWD, &path, access, AtFlags::EACCESS).is_ok() => {}
            Entry::There(_) | Entry::Hidden => return Some(false),
            Entry::Absent | Entry::Failed(_) => may = None,
        }
    }
    may
}

/// Who holds which file locked, of the locks that brokers take (flock(2)).
#[derive(Debug, Default)]
pub(crate) struct Locks(Vec<Lock>);

#[derive(Debug, PartialEq, Eq)]
struct Lock {
    holder: u32,
    device: Device,
    inode: u64,
}

impl Locks {
    /// Those of now; none, where the system does not tell. To ask for the lock itself would tell better, and could keep a
    /// broker that starts at this very moment from its bus.
    pub(crate) fn read() -> Locks {
        let Ok(file) = File::open("/proc/locks") else { return Locks::default() };
        Locks(BufReader::new(file).lines().map_while(Result::ok).filter_map(|line| Lock::parse(&line)).collect())
    }

    fn holder(&self, file: &Facts) -> Option<u32> {
        // Some file systems (btrfs, overlayfs) give a file another device than their locks: there, the program's name tells.
        let is_broker = |pid| Process::of(pid).is_some_and(|process| process.command() == BROKER);
        let mut on_file = self.0.iter().filter(|lock| lock.inode == file.inode);
        on_file.find(|lock| lock.device == file.device || is_broker(lock.holder)).map(|lock| lock.holder)
    }
}

impl Lock {
    /// One line of /proc/locks (proc_locks(5)): `1: FLOCK ADVISORY WRITE 4242 00:1b:77 0 EOF`.
    fn parse(line: &str) -> Option<Lock> {
        let mut words = line.split_whitespace().skip(1);
        if words.next()? != "FLOCK" || words.nth(1)? != "WRITE" {
            return None;
        }
        let holder = words.next()?.parse().ok()?;
        let mut file = words.next()?.split(':');
        let mut number = || u32::from_str_radix(file.next()?, 16).ok();
        let device = Device { major: number()?, minor: number()? };
        Some(Lock { holder, device, inode: file.next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_locks_that_are_held_and_that_brokers_take_count() {
        let held = Lock { holder: 4242, device: Device { major: 0, minor: 0x1b }, inode: 77 };
        assert_eq!(Lock::parse("1: FLOCK  ADVISORY  WRITE 4242 00:1b:77 0 EOF"), Some(held));
        for other in [
            "1: -> FLOCK  ADVISORY  WRITE 4243 00:1b:77 0 EOF",
            "2: POSIX  ADVISORY  WRITE 4242 00:1b:77 0 EOF",
            "3: FLOCK  ADVISORY  READ 4242 00:1b:77 0 EOF",
            "4: FLOCK  ADVISORY  WRITE x 00:1b:77 0 EOF",
            "5: FLOCK  ADVISORY  WRITE 4242 <none>:0 0 EOF",
            "",
        ] {
            assert_eq!(Lock::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_lock_names_its_holder_only_while_it_is_held() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let facts = Facts::of(file.path()).unwrap();
        assert_eq!(Locks::read().holder(&facts), None);
        file.as_file().try_lock().unwrap();
        assert_eq!(Locks::read().holder(&facts), Some(std::process::id()));
        file.as_file().unlock().unwrap();
        assert_eq!(Locks::read().holder(&facts), None);
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Entry::of(&directory.path().join("x")), Entry::Absent);
        assert_eq!(Entry::of(directory.path()).kind(), Some(FileType::Directory));
        let survey = Survey::of(Place::new(directory.path()), &Locks::default());
        assert_eq!((survey.door, survey.listening, survey.may_connect), (Entry::Absent, Listening::Unknown, None));
    }
}
