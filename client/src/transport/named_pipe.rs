//! Reaching the broker over a named pipe of Windows: the client opens it, and says who it is by that.
//!
//! Reading and writing are two halves of one handle. It is open until both are gone.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pipebus_proto::place::{PipeName, Place, Surroundings};
use pipebus_proto::trust;
use pipebus_windows::descriptor::Descriptor;
use pipebus_windows::{account, pipe};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::windows::named_pipe::NamedPipeClient;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// How long to wait before trying again while each instance has a client: the broker makes another as soon as one is taken.
const BUSY_RETRY: Duration = Duration::from_millis(5);

/// For how long a pipe may not be there until nobody is believed to serve it: there may be none between two instances.
const GAP: Duration = Duration::from_millis(100);

/// What the broker says.
#[derive(Debug)]
pub(crate) struct Reader(Arc<NamedPipeClient>);

/// Where the client speaks.
#[derive(Debug)]
pub(crate) struct Writer(Arc<NamedPipeClient>);

/// The two halves of an open pipe.
pub(super) fn halves(pipe: NamedPipeClient) -> (Reader, Writer) {
    let pipe = Arc::new(pipe);
    (Reader(pipe.clone()), Writer(pipe))
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(&bytes[..bytes.len().min(pipe::WRITE_BYTES)]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write(context, &pipe::first_bytes(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An open pipe that waits for the broker.
pub(crate) struct Attempt {
    pub(crate) reader: Reader,
    writer: Writer,
    pub(crate) door: Door,
}

/// What FIFOs need and pipes do not: a broker hears by itself that somebody has come.
pub(crate) struct Door;

impl Attempt {
    /// Opens the pipe, waiting for an instance that is free, and says `hello`.
    pub(crate) async fn prepare(place: &Place, hello: &[u8]) -> Result<Attempt> {
        let pipe = open(place).await?;
        check_owner(place, &pipe)?;
        let (reader, mut writer) = halves(pipe);
        writer.write_all(hello).await.map_err(|error| Error::system("write to", place.path(), error))?;
        Ok(Attempt { reader, writer, door: Door })
    }

    /// The broker has answered.
    pub(crate) fn open(self) -> Result<(Reader, Writer)> {
        Ok((self.reader, self.writer))
    }
}

impl Door {
    /// Nothing is to be told.
    pub(crate) async fn knock(&self, _: &Place) -> Result<()> {
        Ok(())
    }
}

async fn open(place: &Place) -> Result<NamedPipeClient> {
    let path = place.path();
    let no_pipe = || Error::NoPipe { path: path.to_owned() };
    let is_local = PipeName::of(path).ok_or_else(no_pipe)?.is_local();
    let name = path.to_str().ok_or_else(no_pipe)?;
    let mut absent_since = None;
    loop {
        let error = match open_once(name, is_local).await {
            Ok(pipe) => return Ok(pipe),
            Err(error) => error,
        };
        if pipe::is_busy(&error) {
            absent_since = None;
        } else if !pipe::is_absent(&error) {
            return Err(match error.kind() {
                ErrorKind::PermissionDenied => Error::NoPermission { path: path.to_owned() },
                _ => Error::system("open", path, error),
            });
        } else if absent_since.get_or_insert_with(Instant::now).elapsed() >= GAP {
            return Err(Error::NoBroker { path: path.to_owned() });
        }
        tokio::time::sleep(BUSY_RETRY).await;
    }
}

/// A machine that can't be reached takes its time, in which nothing else here is to stand still.
async fn open_once(name: &str, is_local: bool) -> io::Result<NamedPipeClient> {
    if is_local {
        return pipe::open(name);
    }
    let name = name.to_owned();
    tokio::task::spawn_blocking(move || pipe::open(&name)).await?
}

/// Anybody can make a pipe of any name, so whose it is matters.
fn check_owner(place: &Place, pipe: &NamedPipeClient) -> Result<()> {
    let failed = |error| Error::system("examine", place.path(), error);
    let owner = Descriptor::of(pipe).and_then(|descriptor| descriptor.owner()).map_err(failed)?;
    let me = account::own().map_err(failed)?.sid;
    Ok(trust::check_owner(place.path(), owner.as_deref().unwrap_or_default(), &me)?)
}

/// Makes no difference: a pipe's buffers are as large as its server has made them.
pub(crate) fn grow<T>(_: &T, _: usize) {}

/// Nothing can be lent to a pipe of Windows: what is written is copied.
pub(crate) async fn lend(_: &Writer, _: &[&[u8]]) -> io::Result<usize> {
    Err(ErrorKind::Unsupported.into())
}

/// What the session bus's place depends on, as this process has it.
pub fn surroundings() -> Surroundings {
    // If the system can't tell, there is no session bus to be found.
    Surroundings::Windows { sid: account::own().map(|own| own.sid).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[tokio::test]
    async fn what_is_no_pipe_or_is_served_by_nobody_is_told_apart() {
        let attempt = async |path: &str| Attempt::prepare(&Place::new(Path::new(path)), b"").await.err().unwrap();
        assert!(matches!(attempt("./bus").await, Error::NoPipe { .. }));
        assert!(matches!(attempt(r"\\.\pipe\pipebus-nobody").await, Error::NoBroker { .. }));
    }
}
