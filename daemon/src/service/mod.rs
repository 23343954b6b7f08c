//! Service: what a broker asks of the system that it runs on, and says to whoever supervises it there: systemd, or the
//! service control manager of Windows. One folder for each system, offering the same items; this file chooses.
//!
//! How clients arrive is no part of it: that is in `transport`. What is public here is for the program `pipebusd`.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub use system::{
    ABOUT, BUS_HELP, CONFIG_HELP, EXAMPLES, Ends, LOG_FORMAT_HELP, LOG_FORMATS, Options, Reloads, Supervisor,
    check_log_format, open_log, start, system_log,
};
pub(crate) use system::{
    check_trusted, create_for_everyone, open_files, open_files_max, processor_time, resident_bytes, system_directory,
};

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// A program that serves a bus, whoever has started it.
pub trait Program: Send + 'static {
    /// Its options as they were given, with which it can be started again in the same way from anywhere.
    fn options(&self) -> Vec<OsString>;

    /// The file that they name to configure it.
    fn configuration(&self) -> Option<PathBuf>;

    /// Finds out whether it could serve.
    ///
    /// # Errors
    /// What is wrong with its configuration.
    fn check(&self, supervisor: &Supervisor) -> Result<(), Failure>;

    /// Serves until it is told to end.
    ///
    /// # Errors
    /// Why it could not begin, or go on.
    fn serve(self, supervisor: Supervisor) -> Result<(), Failure>;
}

/// Why a program ends, if not because it was told to.
#[derive(Debug)]
pub struct Failure {
    /// What it ends with.
    pub exit_code: u8,
    /// What people are told.
    pub text: String,
    /// It is in the log already, which is not on standard error.
    pub is_logged: bool,
}

impl Failure {
    /// Tells people, and returns what to end with.
    pub fn show(&self) -> ExitCode {
        eprintln!("pipebusd: {}", self.text);
        ExitCode::from(self.exit_code)
    }
}

/// Why a log can't go where it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoLog {
    /// This system has no such log.
    #[error("there is no {0}")]
    Elsewhere(&'static str),
    /// It does not take anything.
    #[error("{0} can't be reached; set log.format to text")]
    Unreachable(&'static str, #[source] std::io::Error),
}
