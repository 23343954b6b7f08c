//! Progress: one line that tells somebody at a terminal what is being done.

use std::io::{self, IsTerminal, Write};

use crate::system::terminal::takes_sequences;

/// Dropped, the line is gone.
pub(crate) struct Progress {
    is_seen: bool,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { is_seen: io::stderr().is_terminal() && takes_sequences() }
    }

    /// Instead of what was shown before.
    pub(crate) fn show(&self, text: &str) {
        if self.is_seen {
            // Whoever has closed it does not want to know.
            let _ = write!(io::stderr(), "{CLEAR}{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

/// To the start of the line, and nothing after it.
const CLEAR: &str = "\r\x1b[K";
