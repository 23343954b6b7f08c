//! Transport: how clients arrive. One file for each kind of pipe, offering the same items; this one chooses.
//!
//! What both promise: end of file on `reader` or `BrokenPipe` on `writer` means that the client left, and `peer` comes
//! from the operating system, never from what the client says.

#[cfg(unix)]
mod fifo;
#[cfg(windows)]
mod named_pipe;

#[cfg(unix)]
use fifo as chosen;
#[cfg(windows)]
use named_pipe as chosen;

pub use self::chosen::{Inherited, check_door, inherited_door, raise_open_files};
pub(crate) use self::chosen::{
    Listener, Reader, Writer, group_named, groups_of, own_identity, part, root, surroundings, try_read, try_write,
    user_named,
};

use std::io;
use std::path::PathBuf;

use pipebus_proto::place::AddressError;
use pipebus_proto::trust::Distrust;

use crate::core::policy::Peer;

/// A client has arrived: a byte stream each way, and who is at the other end.
pub(crate) struct Arrived {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) peer: Peer,
}

/// Who may connect: what the permissions of the well-known pipe let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// The user that the broker runs as, and root.
    #[default]
    Owner,
    /// The members of `group`, besides.
    Group,
    /// Every user of the machine.
    Everyone,
}

/// Why no client arrives.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    /// The door fails, perhaps for a moment.
    #[error(transparent)]
    Door(#[from] io::Error),
    /// Nobody can come any more.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Why the broker can't listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another broker has this bus.
    #[error("the bus {} is taken by the broker with pid {holder}; stop that one, or name another bus", path.display())]
    Taken {
        /// The bus's directory.
        path: PathBuf,
        /// Its process id, as it wrote it.
        holder: String,
    },
    /// Somebody has a pipe of this name.
    #[error("the pipe {} is held by {holder} already; stop that, or name another bus", path.display())]
    Served {
        /// Its name.
        path: PathBuf,
        /// Who, as far as the system tells.
        holder: String,
    },
    /// What should be the name of a pipe of Windows is none.
    #[error(r"{} is no pipe's name on this machine; say \\.\pipe\NAME, with at most 256 characters in all", path.display())]
    NoPipe {
        /// What.
        path: PathBuf,
    },
    /// The security descriptor that pipes are to have is none.
    #[error(
        "door.security: {text:?} is no security descriptor that Windows knows: {why}; say, for example, D:P(A;;GA;;;SY)(A;;GA;;;OW)"
    )]
    Security {
        /// What was written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The security descriptor of the pipe does not let the broker itself make instances.
    #[error(
        "door.security does not let the broker's own account make instances of the pipe; give that GA, or take door.security out"
    )]
    NotOwn,
    /// A setting that makes no sense on this system.
    #[error("{0} is for another operating system; take it out of the configuration")]
    Elsewhere(&'static str),
    /// Something that is no FIFO is where the door should be.
    #[error("{} is not a FIFO; remove it, or name another bus", path.display())]
    NotFifo {
        /// Where.
        path: PathBuf,
    },
    /// The configuration names no bus.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The directory can't be trusted.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// There is no such group.
    #[error("there is no group {0:?} on this machine; create it, or change door.group")]
    NoGroup(String),
    /// A rule of the policy names somebody who does not exist.
    #[error("{0}")]
    Policy(String),
    /// The operating system says no.
    #[error("cannot {doing} {}: {source}", path.display())]
    System {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// What has happened to the bus of a broker that ends because nobody new can reach it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The directory is gone, or is another.
    #[error(
        "the bus's directory {} was removed, renamed or replaced while the broker ran, so that nobody new can connect; start the broker again",
        path.display()
    )]
    Directory {
        /// Where it was.
        path: PathBuf,
    },
    /// What somebody else, such as systemd, made and holds is gone.
    #[error(
        "{} was removed or replaced while the broker ran, so that nobody new can connect, and it is not this broker's to make; under systemd, restart pipebusd.socket",
        path.display()
    )]
    Supervised {
        /// What.
        path: PathBuf,
    },
    /// Something in the directory was removed, and can't be made anew: another broker has come, or something else is
    /// in its place.
    #[error("something in the bus's directory was removed or replaced while the broker ran: {0}")]
    Removed(BindError),
}
