//! `[log]`: what is logged, how, and where to.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The smallest bound of a log file, in bytes: some entries.
const FILE_BYTES_MIN: u64 = 64 * 1024;

/// The most files of a log.
const FILES_MAX: u32 = 1000;

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// A filter of tracing-subscriber's `EnvFilter`.
    pub filter: String,
    /// How lines look and where they go.
    pub format: LogFormat,
    /// An absolute path for what would go to standard error, or nothing.
    pub file: String,
    /// Bytes of that file, before the next is begun.
    pub file_bytes_max: u64,
    /// Files that are kept, that one included.
    pub files_max: u32,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people, on standard error or in a file.
    Text,
    /// A JSON object a line, on standard error or in a file.
    Json,
    /// To systemd's journal, with fields.
    Journald,
    /// What matters to the Event Log of Windows, and everything as text to a file, if there is to be one.
    EventLog,
}

impl LogSection {
    /// The file, if there is to be one.
    pub fn file(&self) -> Option<&Path> {
        Some(Path::new(&self.file)).filter(|path| !path.as_os_str().is_empty())
    }

    /// Whether nothing is logged on standard error.
    pub fn is_elsewhere(&self) -> bool {
        self.file().is_some() || matches!(self.format, LogFormat::Journald | LogFormat::EventLog)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.file().is_some_and(|path| !path.is_absolute()) {
            return Err(format!("log.file: {:?} is no absolute path", self.file));
        }
        if self.file().is_some() && self.format == LogFormat::Journald {
            return Err("log.file: all goes to the journal; set log.format to text or json, or log.file to \"\"".into());
        }
        if self.file_bytes_max < FILE_BYTES_MIN {
            let given = self.file_bytes_max;
            return Err(format!("log.file_bytes_max: {given} is too little; give it at least {FILE_BYTES_MIN}"));
        }
        if !(1..=FILES_MAX).contains(&self.files_max) {
            return Err(format!("log.files_max: must be from 1 to {FILES_MAX}"));
        }
        Ok(())
    }
}
