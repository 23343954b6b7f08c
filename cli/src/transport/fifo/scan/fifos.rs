//! FIFOs that processes hold open, found by looking through all processes.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FileType, OFlags};
use serde::Serialize;
use tokio::time::Instant;

use super::content::{Content, Unknown, look_into};
use crate::transport::fifo::processes::{Descriptors, Device, Facts, Process, is_denial};
use crate::transport::fifo::survey::BROKER;

/// Twice as many as a broker with all its instances has.
const FIFOS_MAX: usize = 65_536;

/// Of one FIFO.
const HOLDERS_MAX: usize = 64;

/// How long the processes are looked through.
const TIME_MAX: Duration = Duration::from_secs(10);

/// How often the time is looked at among the descriptors of one process.
const DESCRIPTORS_AT_ONCE: usize = 1024;

/// So many holders of a FIFO are asked what is in it.
const ASKED_MAX: usize = 4;

/// How the system ends the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// What has been found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) fifos: Vec<Fifo>,
    /// Who holds them, by process id.
    pub(crate) programs: BTreeMap<u32, Program>,
    /// Brokers of which nothing more could be seen.
    pub(crate) hidden_brokers: Vec<Process>,
    pub(crate) processes: u64,
    /// Processes whose descriptors this user may not see.
    pub(crate) unreadable: u64,
    /// More than there is room for.
    pub(crate) left_out: u64,
    /// Whether all processes were looked through in time.
    pub(crate) is_complete: bool,
    index: HashMap<(Device, u64), usize>,
    wanted: Wanted,
    bounds: Bounds,
}

/// Which FIFOs are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Those that may be the door of a bus.
    Doors,
    /// All that have or had a name.
    Fifos,
    /// All, and pipes that never had a name.
    Pipes,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    fifos_max: usize,
    holders_max: usize,
    until: Instant,
}

/// One FIFO.
#[derive(Debug)]
pub(crate) struct Fifo {
    pub(crate) path: PathBuf,
    pub(crate) name: Name,
    pub(crate) facts: Facts,
    pub(crate) holders: Vec<Holder>,
    pub(crate) holders_left_out: u64,
    pub(crate) content: Result<Content, Unknown>,
}

/// What has become of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Name {
    /// It leads there.
    Leads,
    /// It does not, as seen from here: the holder sees other file systems, or it can't be followed.
    Elsewhere,
    Deleted,
    /// It is no path.
    Pipe,
}

/// Who has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) descriptor: i32,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    /// Whether it waits in read(2) and write(2).
    pub(crate) blocks: bool,
}

/// What a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) command: String,
    pub(crate) uid: Option<u32>,
}

/// Looks through all processes but this one.
pub(crate) fn find(wanted: Wanted) -> io::Result<Found> {
    let until = Instant::now() + TIME_MAX;
    let mut found = Found::new(wanted, Bounds { fifos_max: FIFOS_MAX, holders_max: HOLDERS_MAX, until });
    for process in Process::all()?.filter(|process| process.pid != std::process::id()) {
        found.look_through(process);
        if !found.is_complete {
            break;
        }
    }
    found.fifos.sort_by(|one, other| (one.name, &one.path).cmp(&(other.name, &other.path)));
    Ok(found)
}

impl Found {
    fn new(wanted: Wanted, bounds: Bounds) -> Found {
        Found {
            fifos: Vec::new(),
            programs: BTreeMap::new(),
            hidden_brokers: Vec::new(),
            processes: 0,
            unreadable: 0,
            left_out: 0,
            is_complete: true,
            index: HashMap::new(),
            wanted,
            bounds,
        }
    }

    fn look_through(&mut self, process: Process) {
        self.processes += 1;
        let Err(errno) = self.look_at_descriptors(&process) else { return };
        // All else means that the process has ended.
        if is_denial(errno) {
            self.unreadable += 1;
            if process.command() == BROKER {
                self.hidden_brokers.push(process);
            }
        }
    }

    fn look_at_descriptors(&mut self, process: &Process) -> rustix::io::Result<()> {
        let descriptors = process.descriptors()?;
        for (count, descriptor) in descriptors.numbers()?.enumerate() {
            if count % DESCRIPTORS_AT_ONCE == 0 && Instant::now() >= self.bounds.until {
                self.is_complete = false;
                break;
            }
            match descriptors.facts(descriptor) {
                Ok(facts) if facts.kind == FileType::Fifo => self.add(process, &descriptors, descriptor, facts),
                Err(errno) if is_denial(errno) => return Err(errno),
                // Something else, or closed since.
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, process: &Process, descriptors: &Descriptors, descriptor: i32, facts: Facts) {
        let Some(name) = descriptors.name(descriptor) else { return };
        let (name, path) = name_of(name, &facts);
        let wanted = match self.wanted {
            Wanted::Doors => name == Name::Leads && path.ends_with("bus"),
            Wanted::Fifos => name != Name::Pipe,
            Wanted::Pipes => true,
        };
        let Some(holder) = holder(process, descriptor).filter(|_| wanted) else { return };
        let next = self.fifos.len();
        let at = *self.index.entry((facts.device, facts.inode)).or_insert(next);
        if at == next {
            if next >= self.bounds.fifos_max {
                self.index.remove(&(facts.device, facts.inode));
                self.left_out += 1;
                return;
            }
            let content = Err(Unknown::Forbidden);
            self.fifos.push(Fifo { path, name, facts, holders: Vec::new(), holders_left_out: 0, content });
        } else if name < self.fifos[at].name {
            (self.fifos[at].path, self.fifos[at].name) = (path, name);
        }
        self.fifos[at].add(holder, self.bounds.holders_max);
        let program = || Program { command: process.command(), uid: process.uid() };
        self.programs.entry(process.pid).or_insert_with(program);
    }

    /// Counts what is in each.
    pub(crate) fn look_into(&mut self) {
        for fifo in &mut self.fifos {
            let inode = fifo.facts.inode;
            let asked =
                fifo.holders.iter().take(ASKED_MAX).map(|holder| look_into(holder.pid, holder.descriptor, inode));
            let mut why = Unknown::Gone;
            fifo.content = asked.into_iter().find_map(|seen| seen.map_err(|unknown| why = unknown).ok()).ok_or(why);
        }
    }
}

impl Fifo {
    fn add(&mut self, holder: Holder, holders_max: usize) {
        if self.holders.len() < holders_max {
            self.holders.push(holder);
        } else {
            self.holders_left_out += 1;
        }
    }
}

/// How it is open there; `None` if only to be looked at (O_PATH), or closed since.
fn holder(process: &Process, descriptor: i32) -> Option<Holder> {
    let flags = process.flags_of(descriptor)?;
    if flags.contains(OFlags::PATH) {
        return None;
    }
    let access = flags & OFlags::ACCMODE;
    Some(Holder {
        pid: process.pid,
        descriptor,
        reads: access == OFlags::RDONLY || access == OFlags::RDWR,
        writes: access == OFlags::WRONLY || access == OFlags::RDWR,
        blocks: !flags.contains(OFlags::NONBLOCK),
    })
}

/// The name without what the system adds to it. A file can be called anything, so the name alone does not tell.
fn name_of(name: Vec<u8>, facts: &Facts) -> (Name, PathBuf) {
    let path = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
    if !name.starts_with(b"/") {
        return (Name::Pipe, path(name));
    }
    match Facts::of(&name[..]) {
        Ok(named) if named.is_same(facts) => (Name::Leads, path(name)),
        _ => match name.strip_suffix(DELETED) {
            Some(stem) => (Name::Deleted, path(stem.to_owned())),
            None => (Name::Elsewhere, path(name)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::path::Path;

    use rustix::fs::{CWD, Mode};

    fn fifo(path: &Path) -> OwnedFd {
        rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o600)).unwrap();
        rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap()
    }

    fn looked(wanted: Wanted, fifos_max: usize, holders_max: usize, time: Duration) -> Found {
        let until = Instant::now() + time;
        let mut found = Found::new(wanted, Bounds { fifos_max, holders_max, until });
        found.look_through(Process::of(std::process::id()).unwrap());
        found
    }

    fn all(wanted: Wanted) -> Found {
        looked(wanted, 1000, 1000, Duration::from_secs(60))
    }

    #[test]
    fn a_fifo_is_found_with_its_name_whatever_that_is() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["plain", "line\nbreak", "lie (deleted)", "pipe:[7]"] {
            let path = directory.path().join(name);
            let held = fifo(&path);
            let found = all(Wanted::Fifos);
            let one = found.fifos.iter().find(|fifo| fifo.path == path).unwrap();
            let me = Holder {
                pid: std::process::id(),
                descriptor: held.as_raw_fd(),
                reads: true,
                writes: true,
                blocks: false,
            };
            assert_eq!((one.name, &one.holders[..]), (Name::Leads, &[me][..]));
            std::fs::remove_file(&path).unwrap();
            let found = all(Wanted::Fifos);
            let one = found.fifos.iter().find(|fifo| fifo.path == path).unwrap();
            assert_eq!(one.name, Name::Deleted);
        }
    }

    #[test]
    fn pipes_and_what_is_no_door_are_found_only_if_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let (_door, _other) = (fifo(&directory.path().join("bus")), fifo(&directory.path().join("other")));
        let (_reader, _writer) = rustix::pipe::pipe().unwrap();
        let names = |wanted| {
            let found = all(wanted);
            let has = |what: &str| found.fifos.iter().any(|fifo| fifo.path == directory.path().join(what));
            (has("bus"), has("other"), found.fifos.iter().any(|fifo| fifo.name == Name::Pipe))
        };
        assert_eq!(names(Wanted::Doors), (true, false, false));
        assert_eq!(names(Wanted::Fifos), (true, true, false));
        assert_eq!(names(Wanted::Pipes), (true, true, true));
    }

    #[test]
    fn what_is_kept_has_bounds_and_what_is_left_out_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let held: Vec<OwnedFd> = (0..5).map(|number| fifo(&directory.path().join(number.to_string()))).collect();
        let again: Vec<OwnedFd> = (0..9).map(|_| held[0].try_clone().unwrap()).collect();
        let found = looked(Wanted::Fifos, 2, 3, Duration::from_secs(60));
        assert_eq!(found.fifos.len(), 2);
        assert!(found.left_out >= 3 && found.is_complete);
        assert!(found.fifos.iter().all(|fifo| fifo.holders.len() <= 3));
        let found = looked(Wanted::Fifos, 100, 3, Duration::from_secs(60));
        let first = found.fifos.iter().find(|fifo| fifo.path == directory.path().join("0")).unwrap();
        assert_eq!((first.holders.len(), first.holders_left_out), (3, again.len() as u64 + 1 - 3));
        assert!(!looked(Wanted::Fifos, 100, 3, Duration::ZERO).is_complete);
    }

    #[test]
    fn a_fifo_that_is_open_to_be_looked_at_has_no_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        drop(fifo(&path));
        let _path_only = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        assert!(!all(Wanted::Fifos).fifos.iter().any(|fifo| fifo.path == path));
    }
}
