//! Facts that a client of the bus learns, of whatever kind its pipe is. What else the checks judge by is the transport's.

use std::time::Duration;

use pipebus_client::Error;

/// Whether a client gets in.
#[derive(Clone, Debug)]
pub(crate) enum Contact {
    Connected { after: Duration },
    Failed(Error),
}

/// What the broker says to a question.
#[derive(Clone, Debug)]
pub(crate) enum Answer<T> {
    Given(T),
    /// Its policy lets this user not ask.
    Forbidden,
    /// Nobody could be asked.
    NotAsked,
    Failed(String),
}

/// Whether this user may do something, on the topics that `on` says.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    pub(crate) allowed: bool,
    pub(crate) on: &'static str,
}
