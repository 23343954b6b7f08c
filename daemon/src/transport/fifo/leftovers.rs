//! Leftovers: FIFOs of clients that died before they were let in, told from those of clients that are about to knock.
//!
//! What tells is the time of their last change, which is by the wall clock, and that may be set at any moment: forward,
//! and a FIFO of now looks old; back, and an old one looks as if it were from the future. So nothing is swept until the
//! wall clock has run as evenly as the steady one for as long as a client may take.

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

/// A moment at which FIFOs are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    wall: SystemTime,
    /// It is the first.
    begins: bool,
    /// The wall clock can be believed.
    is_believed: bool,
}

impl Leftovers {
    /// This moment, and what is known of the clocks.
    pub(super) fn now(&mut self) -> Moment {
        self.at(SystemTime::now(), Instant::now())
    }

    fn at(&mut self, wall: SystemTime, steady: Instant) -> Moment {
        let begins = self.believed.is_none();
        let is_believed = self.look_at_clocks(wall, steady) >= LEFTOVER_AGE;
        Moment { wall, begins, is_believed }
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

impl Moment {
    /// Whether a FIFO that was last changed then is a client's that has died.
    pub(super) fn is_left_over(&self, path: &Path, modified: SystemTime) -> bool {
        match self.wall.duration_since(modified) {
            Ok(age) if age <= LEFTOVER_AGE => false,
            Ok(_) => self.is_believed || (self.begins && !is_somebodys(path)),
            // From before the clock was set back, if it was not now.
            Err(ahead) => self.is_believed && ahead.duration() > CLOCK_SLACK,
        }
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

    /// Removes what is left over. Returns how many files that were.
    fn sweep_at(leftovers: &mut Leftovers, paths: &[PathBuf], wall: SystemTime, steady: Instant) -> usize {
        let moment = leftovers.at(wall, steady);
        let is_left_over = |path: &&PathBuf| {
            let modified = std::fs::metadata(path).and_then(|facts| facts.modified());
            modified.is_ok_and(|modified| moment.is_left_over(path, modified))
        };
        paths.iter().filter(is_left_over).map(|path| std::fs::remove_file(path).unwrap()).count()
    }

    fn there(paths: &[PathBuf]) -> Vec<bool> {
        paths.iter().map(|path| path.exists()).collect()
    }

    #[test]
    fn what_is_old_goes_and_what_is_young_stays() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let (_directory, paths) = instances(&[wall - 10 * MINUTE, wall - MINUTE, wall + MINUTE]);
        let mut leftovers = Leftovers::default();
        assert_eq!(sweep_at(&mut leftovers, &paths, wall, steady), 1);
        assert_eq!(there(&paths), [false, true, true], "at the start nobody knows whether the clock was just set back");
        sweep_at(&mut leftovers, &paths, wall + 3 * MINUTE, steady + 3 * MINUTE);
        assert_eq!(there(&paths), [false, false, true]);
        sweep_at(&mut leftovers, &paths, wall + 6 * MINUTE, steady + 6 * MINUTE);
        assert_eq!(there(&paths), [false, false, false]);
    }

    #[test]
    fn a_clock_that_is_set_forward_does_not_make_a_young_fifo_old() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let mut leftovers = Leftovers::default();
        let (_directory, paths) = instances(&[wall + 3 * MINUTE]);
        sweep_at(&mut leftovers, &paths, wall, steady);
        // The FIFO was made a second before the clock jumps.
        sweep_at(&mut leftovers, &paths, wall + HOUR, steady + 3 * MINUTE);
        assert_eq!(there(&paths), [true]);
        sweep_at(&mut leftovers, &paths, wall + HOUR + MINUTE, steady + 4 * MINUTE);
        assert_eq!(there(&paths), [true], "its client may still wait");
        sweep_at(&mut leftovers, &paths, wall + HOUR + 3 * MINUTE, steady + 6 * MINUTE);
        assert_eq!(there(&paths), [false], "nobody waits for so long");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_keep_leftovers_for_ever() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let mut leftovers = Leftovers::default();
        let (_directory, paths) = instances(&[wall + MINUTE]);
        sweep_at(&mut leftovers, &paths, wall, steady);
        sweep_at(&mut leftovers, &paths, wall - HOUR, steady + 3 * MINUTE);
        assert_eq!(there(&paths), [true], "its client may still wait");
        sweep_at(&mut leftovers, &paths, wall - HOUR + 3 * MINUTE, steady + 6 * MINUTE);
        assert_eq!(there(&paths), [false]);
    }
}
