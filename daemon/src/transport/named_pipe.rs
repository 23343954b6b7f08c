//! Clients arrive over a named pipe of Windows: one name, and an instance of the pipe for each.
//!
//! Who may open the pipe is in its security descriptor (`descriptor`), who has is told by the system (`arrival`), and which
//! account is which in `accounts`. Here are the two halves of a client's pipe, and the `listener` is the door.

mod accounts;
mod arrival;
mod descriptor;
mod listener;

use std::io::{self, ErrorKind::WouldBlock, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pipebus_proto::control::Identity;
use pipebus_proto::place::Surroundings;
use pipebus_windows::{account, pipe};
use tokio::io::{AsyncRead, AsyncReadExt, Interest, ReadBuf, Ready};
use tokio::net::windows::named_pipe::NamedPipeServer;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub(crate) use self::accounts::{group_named, groups_of, user_named};
pub(crate) use self::listener::Listener;
use super::BindError;
use crate::config::DoorSection;

/// How long a client that is not let in may take to close its end, once it has been told why.
const PARTING_WAIT: Duration = Duration::from_secs(1);

/// So many who have been told goodbye are waited for at a time, until they have read it.
const PARTING_MAX: usize = 1024;

/// An instance of the pipe. However the broker is done with it, it is taken from its client: one that keeps its end would
/// otherwise keep the pipe's name, and no later broker could have it ("DisconnectNamedPipe" in Microsoft's documentation).
#[derive(Debug)]
struct Pipe(NamedPipeServer);

impl Drop for Pipe {
    fn drop(&mut self) {
        // If nobody had it, there is nobody to take it from.
        let _ = self.0.disconnect();
    }
}

/// No door can come from another process here.
#[derive(Debug)]
pub enum Inherited {}

/// None: nobody hands over pipes here.
///
/// # Errors
/// Never; as on other systems, where it may fail.
pub fn inherited_door() -> io::Result<Option<Inherited>> {
    Ok(None)
}

/// Does nothing: handles have no limit that a process could raise.
pub fn raise_open_files() -> Option<u64> {
    None
}

/// Where a client's frames come from: its pipe, of which the other half is a [`Writer`].
#[derive(Debug)]
pub(crate) struct Reader(Arc<Pipe>);

/// Where a client's frames go.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Pipe>);

impl Reader {
    /// As of a pipe of tokio.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.0.0.ready(interest).await
    }

    /// Reads what there is, as far as tokio has heard of it.
    pub(crate) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.0.try_read(bytes)
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.0.poll_read_ready(context))?;
            match self.0.0.try_read_buf(buffer) {
                Err(error) if error.kind() == WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl Writer {
    /// Waits until there may be room, or the client has left.
    ///
    /// # Cancel safety
    /// It may be cancelled and called again.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.0.0.ready(interest).await
    }

    /// Tries something; if it would block, [`Writer::ready`] waits for room.
    pub(crate) fn try_io<R>(&self, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        // `try_write` tells tokio itself.
        io()
    }
}

/// Reads what is there: nothing, as an error, if the pipe is empty.
pub(crate) fn try_read(reader: &Reader, bytes: &mut [u8]) -> io::Result<usize> {
    reader.0.0.try_read(bytes)
}

/// Writes as much as the pipe takes at once: nothing, as an error, if what was written before has not gone on yet.
pub(crate) fn try_write(writer: &Writer, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let bytes = pipe::first_bytes(pieces);
    // Nothing is not to be written: to a reader it could look like the end.
    if bytes.is_empty() { Ok(0) } else { writer.0.0.try_write(&bytes) }
}

/// The broker has written its last to a client. What the client has not read is lost when its pipe is taken from it, so
/// the broker waits until the client has closed its end: not for longer than that, and not for too many.
pub(crate) async fn part(reader: &mut Reader, patience: Duration) {
    static PARTING: Semaphore = Semaphore::const_new(PARTING_MAX);
    let Ok(_place) = PARTING.try_acquire() else { return };
    let mut nowhere = [0; 512];
    let left = async { while let Ok(1..) = reader.read(&mut nowhere).await {} };
    let _ = timeout(patience, left).await;
}

/// Who this process is.
pub(crate) fn own_identity() -> Identity {
    Identity::Windows { sid: own_sid() }
}

/// What root is here: the system itself.
pub(crate) fn root() -> Identity {
    Identity::Windows { sid: account::SYSTEM.to_owned() }
}

/// What the session bus's place depends on.
pub(crate) fn surroundings() -> Surroundings {
    Surroundings::Windows { sid: own_sid() }
}

/// If the system can't tell, nobody is the owner.
fn own_sid() -> String {
    account::own().map(|own| own.sid).unwrap_or_default()
}

/// Whether there can be such a door.
///
/// # Errors
/// There is no such group, or no such security descriptor.
pub fn check_door(door: &DoorSection) -> Result<(), BindError> {
    descriptor::of_door(door).map(drop)
}
