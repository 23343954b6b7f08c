//! Sample: what a broker has at one moment.

use std::path::Path;

use pipebus_proto::admin::Status;
use serde::Serialize;

use crate::output::{bytes, grouped};
use crate::system::process;
use crate::transport::files;

/// Each is `None` where this system does not tell.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sample {
    pub(super) open_files: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
    /// In the bus's directory, but for what is still to be swept.
    pub(super) files: Option<u64>,
    /// FIFOs of clients that were killed while they knocked, which are swept.
    pub(super) leftovers: Option<u64>,
    pub(super) instances: Option<u64>,
    pub(super) topics: Option<u64>,
    pub(super) subscriptions: Option<u64>,
    pub(super) queued_bytes: Option<u64>,
}

/// A row of the table: its name, its value, and how that is shown.
pub(super) type Row = (&'static str, fn(&Sample) -> Option<u64>, fn(u64) -> String);

pub(super) const ROWS: [Row; 9] = [
    ("open files", |sample| sample.open_files, grouped),
    ("threads", |sample| sample.threads, grouped),
    ("memory", |sample| sample.memory_bytes, bytes),
    ("files of the bus", |sample| sample.files, grouped),
    ("to be swept", |sample| sample.leftovers, grouped),
    ("instances", |sample| sample.instances, grouped),
    ("topics", |sample| sample.topics, grouped),
    ("subscriptions", |sample| sample.subscriptions, grouped),
    ("queued", |sample| sample.queued_bytes, bytes),
];

impl Sample {
    /// What the broker says of itself, and what the system says of it.
    pub(super) fn take(status: &Status) -> Sample {
        let files = files(Path::new(&status.bus));
        Sample {
            open_files: process::open_files(status.pid),
            threads: process::threads(status.pid),
            memory_bytes: status.memory_bytes,
            files: files.map(|(kept, _)| kept),
            leftovers: files.map(|(_, leftovers)| leftovers),
            instances: Some(status.instances),
            topics: Some(status.topics),
            subscriptions: Some(status.subscriptions),
            queued_bytes: Some(status.queued_bytes),
        }
    }

    /// Of each count the greater one.
    pub(super) fn or_more(self, other: Sample) -> Sample {
        Sample {
            open_files: self.open_files.max(other.open_files),
            threads: self.threads.max(other.threads),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            files: self.files.max(other.files),
            leftovers: self.leftovers.max(other.leftovers),
            instances: self.instances.max(other.instances),
            topics: self.topics.max(other.topics),
            subscriptions: self.subscriptions.max(other.subscriptions),
            queued_bytes: self.queued_bytes.max(other.queued_bytes),
        }
    }

    /// What has not come back to what it was `before`. A broker may keep so many more files open, and so much memory.
    pub(super) fn leaks(&self, before: &Sample, open_files_more: u64, memory_more: u64) -> Vec<String> {
        let mut leaks = Vec::new();
        for (name, of, show) in ROWS {
            let more = match name {
                "open files" => open_files_more,
                "memory" => memory_more,
                "to be swept" => continue,
                _ => 0,
            };
            if let (Some(before), Some(after)) = (of(before), of(self))
                && after > before.saturating_add(more)
            {
                leaks.push(format!("{name}: {} before, {} after", show(before), show(after)));
            }
        }
        leaks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_no_leak_and_what_does_not_is_named() {
        let before = Sample { open_files: Some(30), memory_bytes: Some(8 << 20), topics: Some(0), ..Sample::default() };
        assert!(before.leaks(&before, 0, 0).is_empty());
        let after = Sample { open_files: Some(33), memory_bytes: Some(9 << 20), topics: Some(2), ..before };
        assert_eq!(after.leaks(&before, 3, 1 << 20), ["topics: 0 before, 2 after"]);
        let leaks = after.leaks(&before, 2, 0);
        assert_eq!(leaks.len(), 3, "{leaks:?}");
        assert_eq!(leaks[1], "memory: 8.0 MiB before, 9.0 MiB after");
        assert!(Sample::default().leaks(&before, 0, 0).is_empty(), "what is not known is no leak");
    }

    #[test]
    fn the_most_is_the_most_of_each() {
        let one = Sample { topics: Some(3), instances: Some(1), ..Sample::default() };
        let other = Sample { topics: Some(2), instances: Some(9), ..Sample::default() };
        let most = one.or_more(other);
        assert_eq!((most.topics, most.instances, most.threads), (Some(3), Some(9), None));
    }
}
