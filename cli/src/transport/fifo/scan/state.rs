//! State: what has become of a bus, judged from what can be seen of it without connecting.

use std::fmt;

use rustix::fs::FileType;
use serde::Serialize;

use crate::transport::fifo::survey::{Entry, Listening, Survey};

/// What has become of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// A broker serves it.
    Alive,
    /// Somebody else, as systemd, holds the door for a broker that does not run.
    Held,
    /// A broker that was killed has left it behind.
    Stale,
    /// No broker has been there, or it has ended.
    Absent,
    /// This user may not see.
    NoPermission,
    /// Something is wrong.
    Broken,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Alive => "alive",
            State::Held => "held",
            State::Stale => "stale",
            State::Absent => "absent",
            State::NoPermission => "no permission",
            State::Broken => "broken",
        })
    }
}

/// The state, and why, where that is not plain. `broker` is one that seems to serve it.
pub(crate) fn judge(survey: &Survey, broker: Option<u32>) -> (State, Option<String>) {
    let say = |state, why: &str| (state, Some(why.to_owned()));
    for (entry, what) in [(survey.directory, "the directory"), (survey.door, "the door")] {
        if let Entry::Failed(errno) = entry {
            return say(State::Broken, &format!("the system can't tell about {what}: {errno}"));
        }
    }
    let served = survey.holder.or(broker);
    match (survey.directory.kind(), survey.door) {
        (None, _) if survey.directory == Entry::Hidden => say(State::NoPermission, "you may not look there"),
        (None, _) => say(State::Absent, "there is no such directory"),
        (Some(kind), _) if kind != FileType::Directory => say(State::Broken, "it is not a directory"),
        (_, Entry::Hidden) => say(State::NoPermission, "you may not look into it"),
        (_, Entry::Absent) if survey.holder.is_some() => {
            say(State::Broken, "its door was removed; the broker makes it anew within seconds, or ends")
        }
        (_, Entry::Absent) => say(State::Absent, "it has no door: no broker was started, or it has ended"),
        _ if survey.door.kind() != Some(FileType::Fifo) => say(State::Broken, "its door is not a FIFO; remove it"),
        _ if survey.instances.kind() != Some(FileType::Directory) => {
            say(State::Broken, "there is no directory instances, where clients make their FIFOs")
        }
        _ if served.is_some() => (State::Alive, None),
        _ => match survey.listening {
            Listening::Nobody => say(State::Stale, "a broker that was killed has left it behind; start one"),
            Listening::Somebody => {
                say(State::Held, "no broker runs; who holds the door, as systemd does, starts one when a client comes")
            }
            Listening::Unknown => say(State::NoPermission, "you may not connect"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::fifo::processes::{Device, Facts};
    use pipebus_proto::place::Place;
    use rustix::io::Errno;

    fn there(kind: FileType) -> Entry {
        let device = Device { major: 0, minor: 1 };
        Entry::There(Facts { kind, mode: 0o700, uid: 0, gid: 0, device, inode: 1, modified: 0 })
    }

    /// One that a broker serves.
    fn good() -> Survey {
        Survey {
            place: Place::new("/x"),
            directory: there(FileType::Directory),
            door: there(FileType::Fifo),
            instances: there(FileType::Directory),
            lock: there(FileType::RegularFile),
            holder: Some(7),
            listening: Listening::Somebody,
            may_connect: Some(true),
        }
    }

    fn check(change: impl FnOnce(&mut Survey), state: State, says: &str) {
        let mut survey = good();
        change(&mut survey);
        let (judged, why) = judge(&survey, None);
        assert_eq!(judged, state, "{survey:?}");
        assert!(why.unwrap_or_default().contains(says), "{survey:?}");
    }

    #[test]
    fn each_state_is_told_from_the_others() {
        check(|_| {}, State::Alive, "");
        check(|bus| bus.holder = None, State::Held, "systemd");
        check(|bus| (bus.holder, bus.listening) = (None, Listening::Nobody), State::Stale, "left it behind");
        check(|bus| (bus.holder, bus.listening) = (None, Listening::Unknown), State::NoPermission, "may not connect");
        check(|bus| (bus.directory, bus.door) = (Entry::Hidden, Entry::Hidden), State::NoPermission, "look there");
        check(|bus| (bus.holder, bus.door) = (None, Entry::Hidden), State::NoPermission, "look into");
        check(|bus| bus.directory = Entry::Absent, State::Absent, "no such directory");
        check(|bus| (bus.holder, bus.door) = (None, Entry::Absent), State::Absent, "no door");
        check(|bus| bus.door = Entry::Absent, State::Broken, "removed");
        check(|bus| bus.door = there(FileType::RegularFile), State::Broken, "not a FIFO");
        check(|bus| bus.instances = Entry::Absent, State::Broken, "instances");
        check(|bus| bus.directory = there(FileType::Symlink), State::Broken, "not a directory");
        check(|bus| bus.door = Entry::Failed(Errno::IO), State::Broken, "the door");
    }

    #[test]
    fn a_broker_whose_lock_can_not_be_seen_serves_it_all_the_same() {
        let survey = Survey { holder: None, ..good() };
        assert_eq!(judge(&survey, Some(7)), (State::Alive, None));
    }
}
