//! Places: where buses may be on this machine.

use std::io;

use pipebus_client::surroundings;
use pipebus_proto::place::{Address, PIPES, Place};
use pipebus_windows::account::is_sid;
use pipebus_windows::pipe::{self, Listed};

use super::report::Unseen;

/// No more are looked at: each is asked at the same time.
const BUSES_MAX: usize = 64;

/// What the names of session buses begin with, before the user's identifier.
const SESSION: &str = "pipebus-";

/// A place where a bus may be.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// What people call it.
    pub(crate) address: String,
    pub(crate) place: Place,
    /// Whether somebody asks for it by its name, be it there or not.
    pub(crate) is_named: bool,
}

/// All of them, those that are asked for and those that everybody knows first; and all pipes.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) candidates: Vec<Candidate>,
    /// All pipes that the system lists.
    pub(crate) pipes: Vec<Listed>,
    pub(crate) unseen: Unseen,
}

impl Places {
    /// Collects them: `named` are asked for, `usual` is the bus that this user means without saying.
    pub(crate) fn find(named: &[Address], usual: &Address) -> Places {
        let mut places = Places::default();
        let around = surroundings();
        let mut known = |address: &Address, is_named| {
            places.add(Candidate { address: address.to_string(), place: address.place(&around), is_named });
        };
        [Address::System, Address::Session].iter().for_each(|address| known(address, false));
        named.iter().for_each(|address| known(address, true));
        known(usual, false);
        places.add_listed(pipe::list());
        places
    }

    /// The system does not care how the name of a pipe is spelt.
    fn add(&mut self, candidate: Candidate) {
        let is_same = |known: &Candidate| {
            let [one, other] = [known, &candidate].map(|candidate| candidate.place.path().display().to_string());
            one.to_lowercase() == other.to_lowercase()
        };
        match self.candidates.iter().position(is_same) {
            Some(at) => self.candidates[at].is_named |= candidate.is_named,
            None if self.candidates.len() < BUSES_MAX || candidate.is_named => self.candidates.push(candidate),
            None => self.unseen.buses_left_out += 1,
        }
    }

    fn add_listed(&mut self, listed: io::Result<Vec<Listed>>) {
        match listed {
            Ok(pipes) => self.pipes = pipes,
            Err(error) => {
                self.unseen.pipes_unlisted = Some(match error.kind() {
                    io::ErrorKind::Unsupported => "it can't".to_owned(),
                    _ => error.to_string(),
                });
            }
        }
        self.pipes.sort_by(|one, other| one.name.cmp(&other.name));
        let is_session = |pipe: &&Listed| pipe.name.strip_prefix(SESSION).is_some_and(is_sid);
        let sessions: Vec<String> =
            self.pipes.iter().filter(is_session).map(|pipe| format!("{PIPES}{}", pipe.name)).collect();
        for path in sessions {
            self.add(Candidate { address: path.clone(), place: Place::new(path), is_named: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(path: &str, is_named: bool) -> Candidate {
        Candidate { address: path.to_owned(), place: Place::new(path), is_named }
    }

    fn listed(names: &[&str]) -> io::Result<Vec<Listed>> {
        Ok(names.iter().map(|name| Listed { name: (*name).to_owned(), instances: 1 }).collect())
    }

    #[test]
    fn however_it_is_spelt_it_is_one_bus() {
        let mut places = Places::default();
        places.add(candidate(r"\\.\pipe\pipebus", false));
        places.add(candidate(r"\\.\PIPE\PipeBus", true));
        places.add(candidate(r"\\.\pipe\other", false));
        let all: Vec<_> = places.candidates.iter().map(|one| (&*one.address, one.is_named)).collect();
        assert_eq!(all, [(r"\\.\pipe\pipebus", true), (r"\\.\pipe\other", false)]);
    }

    #[test]
    fn there_is_room_for_so_many_and_for_all_that_are_named() {
        let mut places = Places::default();
        (0..BUSES_MAX + 3).for_each(|number| places.add(candidate(&format!(r"\\.\pipe\{number}"), false)));
        assert_eq!((places.candidates.len(), places.unseen.buses_left_out), (BUSES_MAX, 3));
        places.add(candidate(r"\\.\pipe\named", true));
        assert_eq!(places.candidates.len(), BUSES_MAX + 1);
    }

    #[test]
    fn of_the_pipes_of_the_system_only_sessions_are_looked_at() {
        let mut places = Places::default();
        places.add_listed(listed(&["spoolss", "pipebus-S-1-5-21-1-2-3-1001", "pipebus-demo-7", "pipebus"]));
        let all: Vec<_> = places.candidates.iter().map(|one| &*one.address).collect();
        assert_eq!(all, [r"\\.\pipe\pipebus-S-1-5-21-1-2-3-1001"]);
        assert_eq!((places.pipes.len(), places.unseen.pipes_unlisted), (4, None));
    }

    #[test]
    fn a_system_that_lists_no_pipes_says_so() {
        let mut places = Places::default();
        places.add_listed(Err(io::ErrorKind::Unsupported.into()));
        assert_eq!(places.unseen.pipes_unlisted.as_deref(), Some("it can't"));
    }
}
