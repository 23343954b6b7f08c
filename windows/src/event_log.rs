//! The Event Log, in which administrators of Windows look first.

use std::io;
use std::ptr;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE, RegisterEventSourceW,
    ReportEventW,
};
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, REG_DWORD, REG_EXPAND_SZ, RegDeleteTreeW, RegSetKeyValueW,
};

use crate::system::{check, check_code, wide};

/// Where programs are known that write to the log of applications.
const SOURCES: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application";

/// A part of Windows, whose messages 1 to 1000 are "%1": whatever text an entry has.
const MESSAGES: &str = r"%SystemRoot%\System32\EventCreate.exe";

/// The message that all entries are.
const MESSAGE: u32 = 1;

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
        check(unsafe { ReportEventW(self.0, kind, 0, MESSAGE, ptr::null_mut(), 1, 0, texts.as_ptr(), ptr::null()) })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: it is open, and nobody uses it any more.
        unsafe { DeregisterEventSource(self.0) };
    }
}

/// Makes a program known, so that its entries are shown as they are, without a remark that their text is missing. Not
/// needed to write to the log.
///
/// # Errors
/// What the system says; only administrators may.
pub fn register(name: &str) -> io::Result<()> {
    let bytes = |units: &[u16]| units.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>();
    let levels = EVENTLOG_ERROR_TYPE | EVENTLOG_WARNING_TYPE | EVENTLOG_INFORMATION_TYPE;
    set(name, "EventMessageFile", REG_EXPAND_SZ, &bytes(&wide(MESSAGES)))?;
    set(name, "TypesSupported", REG_DWORD, &u32::from(levels).to_le_bytes())
}

fn set(name: &str, value: &str, kind: u32, data: &[u8]) -> io::Result<()> {
    let (key, value, bytes) = (wide(&format!(r"{SOURCES}\{name}")), wide(value), data.len() as u32);
    // SAFETY: the texts end with a 0, and there is as much data as is said.
    check_code(unsafe {
        RegSetKeyValueW(HKEY_LOCAL_MACHINE, key.as_ptr(), value.as_ptr(), kind, data.as_ptr().cast(), bytes)
    })
}

/// Takes that back.
///
/// # Errors
/// What the system says; only administrators may.
pub fn unregister(name: &str) -> io::Result<()> {
    let key = wide(&format!(r"{SOURCES}\{name}"));
    // SAFETY: it ends with a 0.
    match check_code(unsafe { RegDeleteTreeW(HKEY_LOCAL_MACHINE, key.as_ptr()) }) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
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

    #[test]
    fn a_program_is_made_known_and_forgotten_again() {
        for _ in 0..2 {
            register("pipebus-test-known").unwrap();
        }
        unregister("pipebus-test-known").unwrap();
        unregister("pipebus-test-known").unwrap();
    }
}
