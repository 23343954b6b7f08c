//! Host: the program that a broker runs in, and what only it can do.

use std::fmt::Debug;

use crate::config::Config;

/// The program that a broker runs in: what only it can do for those who order it over the bus, and what it may want to know.
///
/// All of it may be left out. Whoever then orders it is told that it can't be done.
pub trait Host: Debug + Send + Sync + 'static {
    /// Reads the configuration anew, from wherever it came. May take its time.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    fn configuration(&self) -> Result<Config, String> {
        Err(cannot("read its configuration anew"))
    }

    /// What is logged now: a filter as `log.filter` in the configuration.
    ///
    /// # Errors
    /// Why it can't be told.
    fn log_filter(&self) -> Result<String, String> {
        Err(cannot("show what it logs"))
    }

    /// Logs what this filter says from now on.
    ///
    /// # Errors
    /// What is wrong with it; then all stays as it was.
    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        let _ = filter;
        Err(cannot("change what it logs"))
    }

    /// The configuration is about to be read anew.
    fn reloading(&self) {}

    /// It has been, or was wrong.
    fn reloaded(&self) {}

    /// The broker is about to end, whatever the reason.
    fn stopping(&self) {}
}

/// No program that the broker knows of.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Host for Nobody {}

fn cannot(what: &str) -> String {
    format!("this broker runs inside another program, and can't be told to {what}; tell that program")
}
