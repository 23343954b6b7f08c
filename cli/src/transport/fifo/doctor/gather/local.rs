//! What the file system and the kernel tell.

use std::ffi::CString;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::{Gid, Uid, User};
use pipebus_proto::admin::Status;
use pipebus_proto::place::Place;
use pipebus_proto::trust::{self, Distrust};
use rustix::fs::FileType;
use rustix::process::Resource;

use crate::doctor::facts::Answer;
use crate::transport::fifo::doctor::facts::{BrokerProcess, Leftovers, Me, Names, Pipes};
use crate::transport::fifo::entrance::{named_group, user_name};
use crate::transport::fifo::processes::{Facts as FileFacts, Process};
use crate::transport::fifo::survey::{BROKER, Locks, Survey};

/// No client waits longer to be let in, so a FIFO that is older and still has a name is nobody's. The broker waits as long.
const LEFTOVER_AGE: Duration = Duration::from_secs(150);

/// No more is counted.
const ENTRIES_MAX: usize = 100_000;

/// What is asked of the file system in which the bus is.
pub(super) struct Local {
    pub(super) survey: Survey,
    pub(super) trust: Option<Result<(), Distrust>>,
    pub(super) leftovers: Option<Leftovers>,
}

pub(super) fn look(place: Place) -> Local {
    let trust = trust(&place);
    let leftovers = leftovers(&place);
    Local { survey: Survey::of(place, &Locks::read()), trust, leftovers }
}

pub(super) fn survey_again(place: &Place) -> Survey {
    Survey::of(place.clone(), &Locks::read())
}

/// As clients judge it.
fn trust(place: &Place) -> Option<Result<(), Distrust>> {
    let directories = trust::ancestry(place.path(), |path| {
        let facts = FileFacts::of(path)?;
        Ok((facts.kind == FileType::Directory, facts.uid, facts.mode))
    });
    Some(trust::check(&directories.ok()?, rustix::process::geteuid().as_raw()))
}

fn leftovers(place: &Place) -> Option<Leftovers> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let oldest = i64::try_from(now.saturating_sub(LEFTOVER_AGE).as_secs()).ok()?;
    let mut leftovers = Leftovers::default();
    for entry in fs::read_dir(place.instances()).ok()?.take(ENTRIES_MAX).flatten() {
        let Ok(facts) = FileFacts::of(entry.path()) else { continue };
        if facts.kind == FileType::Fifo {
            leftovers.fifos += 1;
            leftovers.old += u64::from(facts.modified < oldest);
        }
    }
    Some(leftovers)
}

pub(super) fn names(survey: &Survey) -> Names {
    let owner = |entry: &crate::transport::fifo::survey::Entry| {
        entry.facts().map(|facts| user_name(facts.uid)).unwrap_or_default()
    };
    Names {
        directory_owner: owner(&survey.directory),
        door_owner: owner(&survey.door),
        instances_owner: owner(&survey.instances),
        lock_owner: owner(&survey.lock),
        door_group: survey.door.facts().and_then(|door| named_group(door.gid)),
    }
}

pub(super) fn me() -> Me {
    let uid = rustix::process::geteuid().as_raw();
    let mut groups: Vec<u32> =
        rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()).collect();
    groups.push(rustix::process::getegid().as_raw());
    let descriptors_max = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Me { uid, name: user_name(uid), groups, groups_on_file: groups_on_file(uid), descriptors_max }
}

fn groups_on_file(uid: u32) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return Vec::new() };
    let Ok(name) = CString::new(user.name) else { return Vec::new() };
    let groups = nix::unistd::getgrouplist(&name, user.gid).unwrap_or_default();
    groups.into_iter().map(Gid::as_raw).collect()
}

/// The process that holds the lock, or that says it is the broker and is called so.
pub(super) fn process(survey: &Survey, status: &Answer<Status>) -> Option<BrokerProcess> {
    let said = if let Answer::Given(status) = status { Some(status.pid) } else { None };
    let process = Process::of(survey.holder.or(said)?)?;
    // In another container, another process has this number here.
    if survey.holder.is_none() && process.command() != BROKER {
        return None;
    }
    let count = |open: crate::transport::fifo::processes::Descriptors| {
        open.numbers().ok().map(|numbers| numbers.count() as u64)
    };
    Some(BrokerProcess {
        pid: process.pid,
        user: process.uid().map(user_name)?,
        state: process.state()?,
        descriptors_max: process.descriptors_max()?,
        descriptors: process.descriptors().ok().and_then(count),
    })
}

pub(super) fn pipes() -> Pipes {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/fs/{name}")).ok()?.trim().parse().ok();
    Pipes {
        size_max: read("pipe-max-size"),
        user_pages_soft: read("pipe-user-pages-soft"),
        user_pages_hard: read("pipe-user-pages-hard"),
        protected_fifos: read("protected_fifos"),
    }
}
