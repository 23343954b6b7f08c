//! The file that the metrics are written to now and then, for node_exporter's textfile collector.
//!
//! Whoever reads it finds all of one moment, never a part. It is removed when the broker ends, since what it says would
//! be taken for true: without it, the metrics are gone, as they should be.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipebus_proto::admin::MetricsFormat;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::broker::Broker;
use crate::service::create_for_everyone;

/// How long the end waits for what is being written: a broker does not hang because a disk does.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes the file that is configured at once and then in each interval, for as long as it is polled. Dropped, the file
/// is gone.
pub(crate) async fn keep_writing(broker: &Broker) {
    let Some(path) = broker.config.metrics.file() else { return std::future::pending().await };
    let file = Arc::new(MetricsFile::new(path));
    let _removed = Removed(file.clone());
    let mut ticks = interval(broker.config.metrics.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fails = false;
    loop {
        ticks.tick().await;
        let (file, text) = (file.clone(), super::write(broker, MetricsFormat::Prometheus));
        // The door is not to wait for a disk.
        let written = tokio::task::spawn_blocking(move || file.write(text.as_bytes())).await;
        match written.unwrap_or_else(|panicked| Err(panicked.into())) {
            Err(error) if !fails => {
                fails = true;
                warn!(path = %path.display(), %error, "the metrics can't be written; it is tried again in each interval");
            }
            Ok(()) if fails => {
                fails = false;
                info!(path = %path.display(), "the metrics are written again");
            }
            _ => {}
        }
    }
}

struct MetricsFile {
    path: PathBuf,
    /// Beside it, with a name that no collector reads.
    temporary: PathBuf,
    state: Mutex<State>,
    /// Rung when nothing is being written any more.
    written: Condvar,
}

#[derive(Default)]
struct State {
    is_writing: bool,
    /// What is at its path is the broker's own.
    is_there: bool,
    /// The broker has ended: nothing is to be there any more.
    has_ended: bool,
}

impl MetricsFile {
    fn new(path: &Path) -> MetricsFile {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let (state, written) = (Mutex::default(), Condvar::new());
        MetricsFile { path: path.to_owned(), temporary: temporary.into(), state, written }
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.has_ended {
            return Ok(());
        }
        state.is_writing = true;
        drop(state);
        let written = self.write_temporary(text);
        let mut state = self.state();
        let replaced = match written {
            Ok(()) if !state.has_ended => fs::rename(&self.temporary, &self.path),
            written => written,
        };
        state.is_there |= replaced.is_ok() && !state.has_ended;
        if replaced.is_err() || state.has_ended {
            let _ = fs::remove_file(&self.temporary);
        }
        state.is_writing = false;
        self.written.notify_all();
        replaced
    }

    fn write_temporary(&self, text: &[u8]) -> io::Result<()> {
        // What a killed broker has left.
        let _ = fs::remove_file(&self.temporary);
        create_for_everyone(&self.temporary)?.write_all(text)
    }

    /// Removes it, once nothing is being written; what takes too long does not appear any more.
    fn remove(&self) {
        let waited = self.written.wait_timeout_while(self.state(), PATIENCE, |state| state.is_writing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.has_ended = true;
        if std::mem::take(&mut state.is_there) {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropped, the file is gone.
struct Removed(Arc<MetricsFile>);

impl Drop for Removed {
    fn drop(&mut self) {
        self.0.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_file_takes_the_place_of_the_last_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.prom");
        let file = MetricsFile::new(&path);
        // Of a broker that was killed.
        fs::write(directory.path().join("a.prom.tmp"), "half").unwrap();
        for text in ["one", "two"] {
            file.write(text.as_bytes()).unwrap();
            assert_eq!(
                (fs::read_to_string(&path).unwrap().as_str(), names(directory.path())),
                (text, vec!["a.prom".into()])
            );
        }
        file.remove();
        assert!(names(directory.path()).is_empty());
        file.write(b"three").unwrap();
        assert!(!path.exists(), "it comes after its end");
    }

    #[test]
    fn what_a_link_leads_to_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let of = |name: &str| directory.path().join(name);
        fs::write(of("others"), "others").unwrap();
        for link in ["a.prom", "a.prom.tmp"] {
            fs::hard_link(of("others"), of(link)).unwrap();
        }
        MetricsFile::new(&of("a.prom")).write(b"own").unwrap();
        assert_eq!(fs::read_to_string(of("others")).unwrap(), "others");
        assert_eq!(names(directory.path()), ["a.prom", "others"]);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_and_what_others_have_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.prom");
        fs::create_dir(&path).unwrap();
        let file = MetricsFile::new(&path);
        assert!(file.write(b"text").is_err());
        file.remove();
        assert_eq!(names(directory.path()), ["a.prom"]);
        assert!(MetricsFile::new(&directory.path().join("nowhere/a.prom")).write(b"text").is_err());
    }
}
