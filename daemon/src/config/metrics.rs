//! `[metrics]`: where metrics are written to, and how often.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSection {
    /// An absolute path that ends in `.prom`, or nothing.
    pub file: String,
    /// Milliseconds from one time to the next.
    pub interval_ms: u64,
}

impl MetricsSection {
    /// The file, if there is to be one.
    pub fn file(&self) -> Option<&Path> {
        Some(Path::new(&self.file)).filter(|path| !path.as_os_str().is_empty())
    }

    /// How often it is written.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// The file replaces what is there, so it must be one that can be nothing else.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.file() {
            Some(path) if !path.is_absolute() || path.extension() != Some("prom".as_ref()) => Err(format!(
                "metrics.file: {:?} is no absolute path that ends in .prom; others are not collected",
                self.file
            )),
            _ => Ok(()),
        }
    }
}
