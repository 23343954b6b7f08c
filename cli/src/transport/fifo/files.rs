//! Files of a bus, and the directories that may be one.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};

/// A FIFO of a client that was killed while it knocked is swept before it is so old.
const SWEPT_AFTER: Duration = Duration::from_secs(330);

fn count(directory: &Path) -> Option<u64> {
    u64::try_from(fs::read_dir(directory).ok()?.count()).ok()
}

/// How many files the bus has, and how many are still to be swept.
pub(crate) fn files(bus: &Path) -> Option<(u64, u64)> {
    let now = SystemTime::now();
    let is_young = |entry: &DirEntry| {
        let modified = entry.metadata().and_then(|facts| facts.modified());
        // One that is gone by now was no leak either.
        modified.is_err() || modified.is_ok_and(|time| now.duration_since(time).unwrap_or_default() < SWEPT_AFTER)
    };
    let (young, old): (Vec<_>, Vec<_>) = fs::read_dir(bus.join("instances")).ok()?.flatten().partition(is_young);
    let all = count(bus)?.checked_add(u64::try_from(old.len()).ok()?)?;
    Some((all, u64::try_from(young.len()).ok()?))
}

/// What an address that somebody is typing could become.
pub(crate) fn places(current: &OsStr) -> Vec<CompletionCandidate> {
    PathCompleter::dir().complete(current)
}
