//! Watch: whether clients still find the bus where they look for it.
//!
//! What a broker holds open works whatever becomes of its name, so nothing tells by itself that nobody new can come any
//! more. So the names are looked at now and then. Looking works for all that can happen, be it to a directory far above
//! or a file system that is mounted over it, which notifications (inotify) do not tell of.

use std::path::Path;
use std::time::Duration;

use rustix::fd::OwnedFd;
use tracing::{info, warn};

use super::directory::{BusDirectory, failed, is_named};
use crate::config::DoorSection;
use crate::transport::{BindError, Lost};

/// How often the bus's directory is looked at.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Looks whether the bus is still where it was, and puts right what this broker can.
#[derive(Debug)]
pub(super) struct Watch {
    door: DoorSection,
    next: tokio::time::Instant,
    /// Whether it was said that something can't be looked at or made anew.
    complained: bool,
}

impl Watch {
    pub(super) fn new(door: DoorSection) -> Watch {
        Watch { door, next: tokio::time::Instant::now() + LOOK_INTERVAL, complained: false }
    }

    /// When to look next.
    pub(super) fn next(&self) -> tokio::time::Instant {
        self.next
    }

    /// Looks, if it is time to. Returns a door that takes the place of one that was removed.
    pub(super) fn look(&mut self, directory: &mut BusDirectory) -> Result<Option<OwnedFd>, Lost> {
        if tokio::time::Instant::now() < self.next {
            return Ok(None);
        }
        let looked = self.put_right(directory);
        self.next = tokio::time::Instant::now() + LOOK_INTERVAL;
        match looked {
            Ok(door) => {
                self.complained = false;
                Ok(door)
            }
            // It may be the system's trouble, as when a disk is full, and pass: whoever is connected stays.
            Err(Lost::Removed(error @ BindError::System { .. })) => {
                if !std::mem::replace(&mut self.complained, true) {
                    warn!(%error, "the bus's directory is not as it should be, so clients may not get in");
                }
                Ok(None)
            }
            Err(lost) => Err(lost),
        }
    }

    fn put_right(&self, directory: &mut BusDirectory) -> Result<Option<OwnedFd>, Lost> {
        let place = directory.place().clone();
        if !is_there(&directory.ours.directory, place.path())? {
            return Err(Lost::Directory { path: place.path().to_owned() });
        }
        // Before all else: without it, another broker may have come, and the rest is that one's.
        if !is_there(&directory.ours.lock, &place.lock())? {
            directory.lock_again()?;
            info!(path = %place.lock().display(), "was removed, and is locked again");
        }
        if !is_there(&directory.ours.instances, &place.instances())? {
            only_if_own(directory, &place.instances())?;
            directory.make_instances_again()?;
            warn!(path = %place.instances().display(), "was removed, and is made anew");
        }
        match &directory.ours.door {
            Some(door) if !is_there(door, &place.door())? => {
                only_if_own(directory, &place.door())?;
                let door = directory.make_door(&self.door.access, &self.door.group)?;
                warn!(path = %place.door().display(), "was removed, and is made anew");
                Ok(Some(door))
            }
            _ => Ok(None),
        }
    }
}

fn is_there(held: impl rustix::fd::AsFd, path: &Path) -> Result<bool, BindError> {
    is_named(held, path).map_err(failed("examine", path))
}

/// What somebody else made for this broker, that one is to make again.
fn only_if_own(directory: &BusDirectory, path: &Path) -> Result<(), Lost> {
    if directory.leaves_door() { Err(Lost::Supervised { path: path.to_owned() }) } else { Ok(()) }
}

impl From<BindError> for Lost {
    fn from(error: BindError) -> Lost {
        Lost::Removed(error)
    }
}
