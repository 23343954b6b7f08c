//! Places: where buses may be on this machine.

use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pipebus_client::surroundings;
use pipebus_proto::place::{Address, Place, Surroundings};
use rustix::fs::FileType;

use super::fifos::Found;
use crate::transport::fifo::processes::{Facts, Process, is_denial};
use crate::transport::fifo::survey::BROKER;

/// No more are looked at: each is asked at the same time.
const BUSES_MAX: usize = 64;

/// No more of a directory in which everybody can make something is read.
const ENTRIES_MAX: usize = 100_000;

/// Where those who are logged in have their own directories, by their numbers.
const RUNTIME_DIRECTORIES: &str = "/run/user";

/// A place where a bus may be.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// What people call it.
    pub(crate) address: String,
    pub(crate) place: Place,
    /// Whether somebody asks for it by its name, be it there or not.
    pub(crate) is_named: bool,
    /// A broker that seems to serve it.
    pub(crate) broker: Option<u32>,
    /// By which it is known again under another name.
    directory: Option<Facts>,
}

impl Candidate {
    fn new(address: String, place: Place) -> Candidate {
        Candidate { address, place, is_named: false, broker: None, directory: None }
    }
}

/// All of them, those that are asked for and those that everybody knows first.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) candidates: Vec<Candidate>,
    /// Directories of other users that could not be looked into.
    pub(crate) hidden: u64,
    /// More than there is room for.
    pub(crate) left_out: u64,
    /// Brokers of which it can't be told which bus they serve.
    pub(crate) unplaced: Vec<u32>,
}

impl Places {
    /// Collects them: `named` are asked for, `usual` is the bus that this user means without saying.
    pub(crate) fn find(named: &[Address], usual: &Address, found: &Found) -> Places {
        let mut places = Places::default();
        let around = surroundings();
        let mut known = |address: &Address, is_named| {
            let candidate = Candidate::new(address.to_string(), address.place(&around));
            places.add(Candidate { is_named, ..candidate });
        };
        [Address::System, Address::Session].iter().for_each(|address| known(address, false));
        named.iter().for_each(|address| known(address, true));
        known(usual, false);
        places.add_doors(found);
        found.hidden_brokers.iter().for_each(|broker| places.add_hidden(broker));
        places.add_runtime_directories(Path::new(RUNTIME_DIRECTORIES));
        let mut temporary = vec![env::temp_dir(), PathBuf::from("/tmp")];
        temporary.dedup();
        temporary.iter().for_each(|directory| places.add_temporary(directory));
        places
    }

    /// The same directory under another name is the same bus.
    fn add(&mut self, mut candidate: Candidate) {
        if let Ok(absolute) = std::path::absolute(candidate.place.path()) {
            candidate.place = Place::new(absolute);
        }
        candidate.directory = Facts::of(candidate.place.path()).ok();
        let is_same = |known: &Candidate| {
            let facts = known.directory.zip(candidate.directory);
            known.place == candidate.place || facts.is_some_and(|(one, other)| one.is_same(&other))
        };
        match self.candidates.iter().position(is_same) {
            Some(at) => {
                let known = &mut self.candidates[at];
                known.is_named |= candidate.is_named;
                known.broker = known.broker.or(candidate.broker);
            }
            None if self.candidates.len() < BUSES_MAX || candidate.is_named => self.candidates.push(candidate),
            None => self.left_out += 1,
        }
    }

    fn add_directory(&mut self, directory: &Path, broker: Option<u32>) {
        let candidate = Candidate::new(directory.display().to_string(), Place::new(directory));
        self.add(Candidate { broker, ..candidate });
    }

    /// Doors that a process holds open, and beside which clients make their FIFOs.
    fn add_doors(&mut self, found: &Found) {
        for fifo in &found.fifos {
            let Some(directory) = fifo.path.parent().filter(|_| fifo.path.ends_with("bus")) else { continue };
            if !is_directory(&Place::new(directory).instances()) {
                continue;
            }
            let mut readers = fifo.holders.iter().filter(|holder| holder.reads).map(|holder| holder.pid);
            let is_broker = |pid: &u32| found.programs.get(pid).is_some_and(|program| program.command == BROKER);
            self.add_directory(directory, readers.find(is_broker));
        }
    }

    /// A broker of which only its arguments can be seen.
    fn add_hidden(&mut self, broker: &Process) {
        let bus = bus_argument(&broker.arguments());
        let uid = broker.uid();
        let around = Surroundings::Unix {
            runtime_directory: uid.map(|uid| Path::new(RUNTIME_DIRECTORIES).join(uid.to_string())),
            temporary_directory: env::temp_dir(),
            uid: uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
        };
        let place = bus.and_then(|bus| bus.parse::<Address>().ok()).map(|address| address.place(&around));
        let is_there = |place: &Place| Facts::of(place.path()) != Err(rustix::io::Errno::NOENT);
        match place.filter(|place| place.path().is_absolute() && is_there(place)) {
            Some(place) => self.add_directory(place.path(), Some(broker.pid)),
            None => self.unplaced.push(broker.pid),
        }
    }

    fn add_runtime_directories(&mut self, all: &Path) {
        for entry in fs::read_dir(all).into_iter().flatten().flatten() {
            let directory = entry.path().join("pipebus");
            match Facts::of(&directory) {
                Ok(_) => self.add_directory(&directory, None),
                Err(errno) if is_denial(errno) => self.hidden += 1,
                Err(_) => {}
            }
        }
    }

    /// Where session buses are of those without a runtime directory. Only what belongs to the user in its name is one.
    fn add_temporary(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten().take(ENTRIES_MAX) {
            let name = entry.file_name();
            let uid = name.to_str().and_then(|name| name.strip_prefix("pipebus-")?.parse::<u32>().ok());
            let facts = uid.and_then(|uid| Facts::of(entry.path()).ok().filter(|facts| facts.uid == uid));
            if facts.is_some_and(|facts| facts.kind == FileType::Directory) {
                self.add_directory(&entry.path(), None);
            }
        }
    }
}

fn is_directory(path: &Path) -> bool {
    Facts::of(path).is_ok_and(|facts| facts.kind == FileType::Directory)
}

/// Which bus the arguments of a broker name; by default it is the session's.
fn bus_argument(arguments: &[std::ffi::OsString]) -> Option<String> {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--bus" {
            return arguments.next()?.to_str().map(str::to_owned);
        }
        if let Some(bus) = argument.as_bytes().strip_prefix(b"--bus=") {
            return String::from_utf8(bus.to_owned()).ok();
        }
    }
    Some(Address::Session.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn candidate(directory: PathBuf, is_named: bool, broker: Option<u32>) -> Candidate {
        Candidate { is_named, broker, ..Candidate::new("x".into(), Place::new(directory)) }
    }

    #[test]
    fn a_directory_under_two_names_is_one_bus() {
        let root = tempfile::tempdir().unwrap();
        let (bus, link) = (root.path().join("bus"), root.path().join("link"));
        fs::create_dir(&bus).unwrap();
        symlink(root.path(), &link).unwrap();
        let mut places = Places::default();
        places.add(candidate(bus.clone(), false, None));
        places.add(candidate(link.join("bus"), true, Some(7)));
        places.add(candidate(root.path().join("other"), false, None));
        let all: Vec<_> = places.candidates.iter().map(|one| (one.place.path(), one.is_named, one.broker)).collect();
        assert_eq!(all, [(&*bus, true, Some(7)), (&*root.path().join("other"), false, None)]);
    }

    #[test]
    fn there_is_room_for_so_many_and_for_all_that_are_named() {
        let mut places = Places::default();
        (0..BUSES_MAX + 3).for_each(|number| places.add(candidate(format!("/nowhere/{number}").into(), false, None)));
        assert_eq!((places.candidates.len(), places.left_out), (BUSES_MAX, 3));
        places.add(candidate("/nowhere/named".into(), true, None));
        assert_eq!(places.candidates.len(), BUSES_MAX + 1);
    }

    #[test]
    fn in_the_temporary_directory_only_what_is_its_users_is_a_session() {
        let root = tempfile::tempdir().unwrap();
        let me = rustix::process::geteuid().as_raw();
        for name in [format!("pipebus-{me}"), format!("pipebus-{}", me + 1), "pipebus-demo.x".into()] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let mut places = Places::default();
        places.add_temporary(root.path());
        let all: Vec<_> = places.candidates.iter().map(|one| one.place.path()).collect();
        assert_eq!(all, [root.path().join(format!("pipebus-{me}"))]);
    }

    #[test]
    fn the_bus_of_a_broker_is_in_its_arguments() {
        let check = |words: &[&str], expected| {
            let words: Vec<_> = words.iter().map(std::ffi::OsString::from).collect();
            assert_eq!(bus_argument(&words).as_deref(), expected, "{words:?}");
        };
        check(&["pipebusd"], Some("session"));
        check(&["pipebusd", "--log", "info", "--bus", "system"], Some("system"));
        check(&["pipebusd", "--bus=/x/y"], Some("/x/y"));
        check(&["pipebusd", "--bus"], None);
    }
}
