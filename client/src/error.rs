//! Errors: what can go wrong for a client, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pipebus_proto::control::{Failure, Reason};
use pipebus_proto::place::AddressError;
use pipebus_proto::topic::TopicError;
use pipebus_proto::trust::Distrust;
use pipebus_proto::wire::ValueError;

/// Why something did not work.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text names no bus.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The text is no topic or no pattern.
    #[error(transparent)]
    Name(#[from] TopicError),
    /// Nobody serves the bus.
    #[error("no broker serves the bus {}; start one with: pipebusd --bus {}", path.display(), path.display())]
    NoBroker {
        /// The bus's path.
        path: PathBuf,
    },
    /// The permissions of its files, or of its pipe, do not let this user in.
    #[error("you may not connect to the bus {}: its permissions do not let you in; ask its owner", path.display())]
    NoPermission {
        /// The bus's path.
        path: PathBuf,
    },
    /// What should be the bus's FIFO is something else.
    #[error("{} is not a FIFO, so this is no bus; check the address", path.display())]
    NotFifo {
        /// Where.
        path: PathBuf,
    },
    /// What should be the name of a pipe of Windows is none.
    #[error(r"{} is no pipe's name, so this is no bus; say \\.\pipe\NAME", path.display())]
    NoPipe {
        /// What.
        path: PathBuf,
    },
    /// Somebody else could pretend to be the broker there.
    #[error("the bus is not to be trusted: {0}")]
    Distrust(#[from] Distrust),
    /// Client and broker speak different versions of the protocol.
    #[error("{0}")]
    Version(String),
    /// The broker or this user has as many clients as it may have.
    #[error("{0}")]
    Full(String),
    /// The broker, this program or the bus's file system has run out of something, such as file descriptors or space.
    #[error("{0}")]
    Exhausted(String),
    /// The broker lets nobody new in, and ends once all have left.
    #[error("{0}")]
    Draining(String),
    /// The broker's policy says no.
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// This client has as many topics or subscriptions as it may have.
    #[error("{0}")]
    TooMany(String),
    /// The broker refuses for another reason.
    #[error("the broker refuses: {text}")]
    Refused {
        /// For programs.
        reason: Reason,
        /// For people.
        text: String,
    },
    /// It took too long.
    #[error("{doing} took longer than {after:?}")]
    TimedOut {
        /// What.
        doing: &'static str,
        /// How long.
        after: Duration,
    },
    /// The message is larger than the broker takes.
    #[error(
        "the message has {bytes} bytes, and the broker takes at most {max}; send less at once, or raise limits.message_bytes_max"
    )]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The headers do not fit a frame.
    #[error("the headers of the message are longer than 65,535 bytes; shorten them")]
    Headers,
    /// The connection was lost before the answer came.
    #[error("the connection to the broker was lost")]
    Disconnected,
    /// The connection was lost, and with it perhaps some messages.
    #[error("the connection to the broker was lost, and up to {messages} messages may not have arrived")]
    Unconfirmed {
        /// How many messages were sent that the broker had not confirmed.
        messages: u64,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// Nobody answers requests to the topic.
    #[error("nobody serves {topic}; start its server, or check the topic")]
    NoServer {
        /// The topic.
        topic: String,
    },
    /// The request will not be answered.
    #[error("the request to {topic} failed: {}", describe(failure))]
    Unanswered {
        /// The topic.
        topic: String,
        /// Why.
        failure: Failure,
    },
    /// The server says that it failed.
    #[error("the server answered: {0}")]
    Failed(String),
    /// Sending now would have to wait.
    #[error("the broker does not take more at the moment; wait, or use publish, which waits")]
    WouldWait,
    /// A value does not encode or decode.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A value is no JSON, or not of its type.
    #[error("the payload is no such JSON: {0}")]
    Json(String),
    /// The broker broke the protocol.
    #[error("the broker sent something malformed: {0}; is it of the same version?")]
    Protocol(String),
    /// The operating system says no.
    #[error("cannot {doing} {}: {source}", path.display())]
    System {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What it said.
        source: Arc<io::Error>,
    },
}

/// What most functions here return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn system(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Error {
        Error::System { doing, path: path.to_owned(), source: Arc::new(source.into()) }
    }

    pub(crate) fn refused(reason: Reason, text: String) -> Error {
        match reason {
            Reason::Version => Error::Version(text),
            Reason::Forbidden => Error::Forbidden(text),
            Reason::BrokerFull | Reason::UserFull => Error::Full(text),
            Reason::Exhausted => Error::Exhausted(text),
            Reason::TooMany => Error::TooMany(text),
            Reason::Draining => Error::Draining(text),
            reason => Error::Refused { reason, text },
        }
    }

    pub(crate) fn unanswered(topic: &str, failure: Failure) -> Error {
        let topic = topic.to_owned();
        match failure {
            Failure::NoServer => Error::NoServer { topic },
            failure => Error::Unanswered { topic, failure },
        }
    }

    /// Whether connecting again may go better by itself.
    pub(crate) fn is_passing(&self) -> bool {
        !matches!(self, Error::Version(_) | Error::NotFifo { .. } | Error::NoPipe { .. } | Error::Distrust(_))
    }
}

fn describe(failure: &Failure) -> &'static str {
    match failure {
        Failure::NoServer => "nobody serves it",
        Failure::Busy => "its server takes nothing",
        Failure::ServerGone => "its server left before it answered",
        Failure::TooMany => "this client has too many requests unanswered",
        Failure::Forbidden => "the bus's policy does not allow it any more",
    }
}
