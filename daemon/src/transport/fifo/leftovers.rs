//! Leftovers: FIFOs of clients that died before they were let in, told from those of clients that are about to knock.
//!
//! What tells is the time of their last change, which is by the wall clock, and that may be set at any moment: forward,
//! and a FIFO of now looks old; back, and an old one looks as if it were from the future. So nothing is swept until the
//! wall clock has run as evenly as the steady one for as long as a client may take.

use std::fs::{self, DirEntry};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Flock, FlockType, fcntl_getlk};
use tokio::time::Instant;

/// An instance's FIFO that is older than this and still has a name belongs to no living attempt to connect: clients
/// wait for at most a minute.
pub(super) const LEFTOVER_AGE: Duration = Duration::from_secs(150);

/// Clocks that differ by less are not taken for one that was set.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// Knows since when the wall clock can be believed.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    believed: Option<Believed>,
}

#[derive(Clone, Copy, Debug)]
struct Believed {
    /// Both clocks at one moment.
    wall: SystemTime,
    steady: Instant,
    /// Since when they have run side by side, as far as is known.
    since: Instant,
}

impl Leftovers {
    /// Removes what is left over. Returns how many files that were.
    pub(super) fn sweep(&mut self, instances: &Path) -> usize {
        self.sweep_at(instances, SystemTime::now(), Instant::now())
    }

    fn sweep_at(&mut self, instances: &Path, wall: SystemTime, steady: Instant) -> usize {
        let begins = self.believed.is_none();
        let even_for = self.look_at_clocks(wall, steady);
        if !begins && even_for < LEFTOVER_AGE {
            return 0;
        }
        let Ok(entries) = fs::read_dir(instances) else { return 0 };
        let left_over = |entry: &DirEntry| {
            let Ok(modified) = entry.metadata().and_then(|facts| facts.modified()) else { return false };
            match wall.duration_since(modified) {
                Ok(age) => age > LEFTOVER_AGE && !(begins && is_somebodys(&entry.path())),
                // From before the clock was set back, if it was not now.
                Err(ahead) => ahead.duration() > CLOCK_SLACK && !begins,
            }
        };
        entries.flatten().filter(left_over).filter(|entry| fs::remove_file(entry.path()).is_ok()).count()
    }

    /// How long the wall clock has not been set, as far as is known.
    fn look_at_clocks(&mut self, wall: SystemTime, steady: Instant) -> Duration {
        let before = self.believed.unwrap_or(Believed { wall, steady, since: steady });
        let expected = before.wall + steady.saturating_duration_since(before.steady);
        let difference = wall.duration_since(expected).unwrap_or_else(|behind| behind.duration());
        let since = if difference > CLOCK_SLACK { steady } else { before.since };
        self.believed = Some(Believed { wall, steady, since });
        steady.saturating_duration_since(since)
    }
}

/// Whether a client lives that has made this pair, and says so by the lock on the one that it writes to. For when
/// nobody knows whether the clock was just set.
fn is_somebodys(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let up: Result<OwnedFd, _> = rustix::fs::open(path.with_extension("up"), flags, Mode::empty());
    up.is_ok_and(|up| matches!(fcntl_getlk(up, &Flock::from(FlockType::WriteLock)), Ok(Some(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::path::PathBuf;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A directory, and a file that is there for each moment.
    fn instances(moments: &[SystemTime]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let directory = tempfile::tempdir().unwrap();
        let add = |(number, moment): (usize, &SystemTime)| {
            let path = directory.path().join(format!("{number}.up"));
            File::create(&path).unwrap().set_modified(*moment).unwrap();
            path
        };
        let paths = moments.iter().enumerate().map(add).collect();
        (directory, paths)
    }

    fn there(paths: &[PathBuf]) -> Vec<bool> {
        paths.iter().map(|path| path.exists()).collect()
    }

    #[test]
    fn what_is_old_goes_and_what_is_young_stays() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let (directory, paths) = instances(&[wall - 10 * MINUTE, wall - MINUTE, wall + MINUTE]);
        let mut leftovers = Leftovers::default();
        assert_eq!(leftovers.sweep_at(directory.path(), wall, steady), 1);
        assert_eq!(there(&paths), [false, true, true], "at the start nobody knows whether the clock was just set back");
        leftovers.sweep_at(directory.path(), wall + 3 * MINUTE, steady + 3 * MINUTE);
        assert_eq!(there(&paths), [false, false, true]);
        leftovers.sweep_at(directory.path(), wall + 6 * MINUTE, steady + 6 * MINUTE);
        assert_eq!(there(&paths), [false, false, false]);
    }

    #[test]
    fn a_clock_that_is_set_forward_does_not_make_a_young_fifo_old() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let mut leftovers = Leftovers::default();
        let (directory, paths) = instances(&[wall + 3 * MINUTE]);
        leftovers.sweep_at(directory.path(), wall, steady);
        // The FIFO was made a second before the clock jumps.
        leftovers.sweep_at(directory.path(), wall + HOUR, steady + 3 * MINUTE);
        assert_eq!(there(&paths), [true]);
        leftovers.sweep_at(directory.path(), wall + HOUR + MINUTE, steady + 4 * MINUTE);
        assert_eq!(there(&paths), [true], "its client may still wait");
        leftovers.sweep_at(directory.path(), wall + HOUR + 3 * MINUTE, steady + 6 * MINUTE);
        assert_eq!(there(&paths), [false], "nobody waits for so long");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_keep_leftovers_for_ever() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let mut leftovers = Leftovers::default();
        let (directory, paths) = instances(&[wall + MINUTE]);
        leftovers.sweep_at(directory.path(), wall, steady);
        leftovers.sweep_at(directory.path(), wall - HOUR, steady + 3 * MINUTE);
        assert_eq!(there(&paths), [true], "its client may still wait");
        leftovers.sweep_at(directory.path(), wall - HOUR + 3 * MINUTE, steady + 6 * MINUTE);
        assert_eq!(there(&paths), [false]);
    }
}
