//! Sweep: every user may write to `instances/`, so what lies there and belongs to no living attempt to connect is taken
//! away again, a part at a time, so that nobody waits at the door for it.

use std::collections::HashMap;
use std::fs::{self, DirEntry, ReadDir};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::leftovers::{Leftovers, Moment};
use crate::episode::Episode;

/// How long after one pass the next begins; sooner if there was something to take away, for there may be more.
const PASS_INTERVAL: Duration = Duration::from_secs(5);
const NEXT_PASS: Duration = Duration::from_secs(1);

/// What is looked at before the door has its turn.
const TURN_ENTRIES_MAX: usize = 256;

/// What one user may have in `instances/`: two FIFOs for each of as many instances as it may have by default, which may
/// all be about to knock.
const ENTRIES_PER_USER_MAX: usize = 2 * 8192;

/// Takes leftovers away.
pub(super) struct Sweep {
    instances: PathBuf,
    leftovers: Leftovers,
    pass: Option<Pass>,
    due: Instant,
    swept: Episode,
    stuck: Episode,
}

/// One way through the directory.
struct Pass {
    entries: ReadDir,
    begun: Moment,
    /// What stays of each user's.
    of_users: HashMap<u32, usize>,
    removed: u64,
}

/// What became of one entry.
enum Fate {
    Stays,
    Removed,
    /// A directory with something in it.
    Stuck(PathBuf),
}

impl Sweep {
    /// Its first turn is due at once.
    pub(super) fn new(instances: PathBuf) -> Sweep {
        Sweep {
            instances,
            leftovers: Leftovers::default(),
            pass: None,
            due: Instant::now(),
            swept: Episode::default(),
            stuck: Episode::default(),
        }
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Looks at a part of what is there. In a directory that somebody has filled, no more of the time goes to this than
    /// to the door.
    pub(super) fn take_turn(&mut self) {
        let begun = Instant::now();
        if self.take_entries() {
            let now = Instant::now();
            self.due = now + now.duration_since(begun).max(Duration::from_millis(1));
            return;
        }
        let removed = self.pass.take().map_or(0, |pass| pass.removed);
        self.due = begun + if removed > 0 { NEXT_PASS } else { PASS_INTERVAL };
        self.swept.add(removed);
        if let Some(removed) = self.swept.due() {
            info!(removed, "swept what clients left behind");
        }
    }

    /// Whether there are more.
    fn take_entries(&mut self) -> bool {
        let pass = match self.pass.take() {
            Some(pass) => pass,
            None => match fs::read_dir(&self.instances) {
                Ok(entries) => Pass { entries, begun: self.leftovers.now(), of_users: HashMap::new(), removed: 0 },
                Err(_) => return false,
            },
        };
        let pass = self.pass.insert(pass);
        for _ in 0..TURN_ENTRIES_MAX {
            let Some(Ok(entry)) = pass.entries.next() else { return false };
            match pass.judge(&entry) {
                Fate::Stays => {}
                Fate::Removed => pass.removed += 1,
                Fate::Stuck(path) => {
                    self.stuck.add(1);
                    if let Some(count) = self.stuck.due() {
                        let owner = entry.metadata().map(|facts| facts.uid()).ok();
                        let path = path.display();
                        warn!(count, %path, owner, "directories that are not empty can't be swept; remove them as root");
                    }
                }
            }
        }
        true
    }
}

impl Pass {
    fn judge(&mut self, entry: &DirEntry) -> Fate {
        let path = entry.path();
        // Directories are not even looked at: another file system may be mounted there.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return match fs::remove_dir(&path) {
                Ok(()) => Fate::Removed,
                Err(_) => Fate::Stuck(path),
            };
        }
        let Ok(facts) = entry.metadata() else { return Fate::Stays };
        let is_left_over = facts.modified().is_ok_and(|modified| self.begun.is_left_over(&path, modified));
        let goes = !facts.file_type().is_fifo() || is_left_over || self.is_too_much(facts.uid());
        if goes && fs::remove_file(path).is_ok() { Fate::Removed } else { Fate::Stays }
    }

    /// Counts one more of the user's.
    fn is_too_much(&mut self, uid: u32) -> bool {
        let count = self.of_users.entry(uid).or_insert(0);
        *count += 1;
        *count > ENTRIES_PER_USER_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode};

    fn make_fifo(path: &std::path::Path) {
        rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o600)).unwrap();
    }

    fn set_time(path: &std::path::Path, time: &str) {
        assert!(std::process::Command::new("touch").args(["-d", time]).arg(path).status().unwrap().success());
    }

    #[tokio::test]
    async fn what_no_client_may_be_about_to_use_goes_and_the_rest_stays() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for (name, time) in [("young", "now"), ("old", "10 minutes ago")] {
            make_fifo(&at(name));
            set_time(&at(name), time);
        }
        fs::write(at("file"), "").unwrap();
        symlink("/etc", at("link")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        fs::create_dir_all(at("full/of")).unwrap();
        let mut sweep = Sweep::new(root.path().to_owned());
        sweep.take_turn();
        let mut left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["full", "young"]);
        assert!(sweep.due() < Instant::now() + NEXT_PASS * 2, "there may be more");
        sweep.take_turn();
        assert!(sweep.due() > Instant::now() + NEXT_PASS * 2, "there is no more");
    }

    #[tokio::test]
    async fn a_full_directory_is_swept_in_parts() {
        let root = tempfile::tempdir().unwrap();
        (0..2 * TURN_ENTRIES_MAX + 1).for_each(|n| fs::write(root.path().join(n.to_string()), "").unwrap());
        let mut sweep = Sweep::new(root.path().to_owned());
        let turns = std::iter::repeat_with(|| {
            sweep.take_turn();
            sweep.pass.is_some()
        });
        assert!(turns.take_while(|more| *more).count() >= 2);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
