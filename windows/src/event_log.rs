//! The Event Log, in which administrators of Windows look first.

use std::io;
use std::ptr;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE, RegisterEventSourceW,
    ReportEventW,
};

use crate::system::{check, wide};

/// An entry has at most so many UTF-16 units ("ReportEventW" in Microsoft's documentation: 31,839).
const ENTRY_UNITS_MAX: usize = 31_000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something has failed.
    Error,
    /// Something may fail.
    Warning,
    /// Something has happened.
    Information,
}

/// A program that writes to the log.
#[derive(Debug)]
pub struct Source(HANDLE);

// SAFETY: the system takes it from any thread.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

impl Source {
    /// By this name, which people see.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(name: &str) -> io::Result<Source> {
        // SAFETY: the name ends with a 0.
        let source = unsafe { RegisterEventSourceW(ptr::null(), wide(name).as_ptr()) };
        check(i32::from(!source.is_null()))?;
        Ok(Source(source))
    }

    /// Adds an entry; one that is too long is cut.
    ///
    /// # Errors
    /// What the system says.
    pub fn report(&self, level: Level, text: &str) -> io::Result<()> {
        let kind = match level {
            Level::Error => EVENTLOG_ERROR_TYPE,
            Level::Warning => EVENTLOG_WARNING_TYPE,
            Level::Information => EVENTLOG_INFORMATION_TYPE,
        };
        let mut text: Vec<u16> = text.encode_utf16().take(ENTRY_UNITS_MAX).collect();
        text.push(0);
        let texts = [text.as_ptr()];
        // SAFETY: there is one text, which ends with a 0.
        check(unsafe { ReportEventW(self.0, kind, 0, 0, ptr::null_mut(), 1, 0, texts.as_ptr(), ptr::null()) })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: it is open, and nobody uses it any more.
        unsafe { DeregisterEventSource(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_however_long() {
        let source = Source::new("pipebus-test").unwrap();
        source.report(Level::Information, "a test of pipebus").unwrap();
        source.report(Level::Warning, &"x".repeat(100_000)).unwrap();
    }
}
