//! Clients arrive over a named pipe of Windows: one name, and an instance of the pipe for each.
//!
//! The system says who is at the other end (`identity` below), who may open the pipe is in its security descriptor
//! (`descriptor`), and which account is which in `accounts`.

mod accounts;
mod arrival;
mod descriptor;

use std::collections::VecDeque;
use std::io::{self, ErrorKind::WouldBlock, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pipebus_proto::control::Identity;
use pipebus_proto::place::{PIPES, Place, Surroundings};
use pipebus_windows::descriptor::Descriptor;
use pipebus_windows::{account, pipe};
use tokio::io::{AsyncRead, AsyncReadExt, Interest, ReadBuf, Ready};
use tokio::net::windows::named_pipe::NamedPipeServer;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info};

pub(crate) use self::accounts::{group_named, groups_of, user_named};
use self::arrival::{Unfit, introduce};
use super::{Arrived, BindError, Closed};
use crate::config::DoorSection;
use crate::counters::Tally;
use crate::episode::Episode;

/// Instances that wait for clients: while one is taken, and another is made in its place, the rest are there.
const IDLE_INSTANCES: usize = 8;

/// Clients that have come and said nothing yet. Of more, those that have been silent longest have to go.
const SILENT_MAX: usize = 256;

/// The longest name of a pipe, in characters ("Pipe Names" in Microsoft's documentation).
const NAME_CHARS_MAX: usize = 256;

/// How long a client may take to close its end once it has been told goodbye.
const PARTING_WAIT: Duration = Duration::from_secs(1);

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
pub(crate) struct Reader(Arc<NamedPipeServer>);

/// Where a client's frames go.
#[derive(Debug)]
pub(crate) struct Writer(Arc<NamedPipeServer>);

impl Reader {
    /// As of a pipe of tokio.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.0.ready(interest).await
    }

    /// Reads what there is, as far as tokio has heard of it.
    pub(crate) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read_buf(buffer) {
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
        self.0.ready(interest).await
    }

    /// Tries something; if it would block, [`Writer::ready`] waits for room.
    pub(crate) fn try_io<R>(&self, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        // `try_write` tells tokio itself.
        io()
    }
}

/// Reads what is there: nothing, as an error, if the pipe is empty.
pub(crate) fn try_read(reader: &Reader, bytes: &mut [u8]) -> io::Result<usize> {
    reader.0.try_read(bytes)
}

/// Writes as much as the pipe takes at once: nothing, as an error, if what was written before has not gone on yet.
pub(crate) fn try_write(writer: &Writer, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    writer.0.try_write(&pipe::first_bytes(pieces))
}

/// The broker has written its last to a client. What the client has not read would be lost when its pipe is closed for
/// good, so it is waited for until the client has closed its end; not for long.
pub(crate) async fn part(reader: &mut Reader) {
    let mut nowhere = [0; 512];
    let left = async { while let Ok(1..) = reader.read(&mut nowhere).await {} };
    if timeout(PARTING_WAIT, left).await.is_err() {
        // Otherwise what it does not read would keep the instance.
        let _ = reader.0.disconnect();
    }
}

/// The broker's end of the door.
pub(crate) struct Listener {
    name: String,
    settings: DoorSection,
    descriptor: Descriptor,
    /// Instances that wait for clients.
    idle: JoinSet<io::Result<NamedPipeServer>>,
    /// Clients that have not said anything yet, each with when it is to go.
    silent: JoinSet<Result<Arrived, Unfit>>,
    /// The same, those that came first in front; some may have spoken since.
    order: VecDeque<AbortHandle>,
    /// Clients that came and were not let in: anybody can do that as often as it likes.
    unfit: Episode,
    tally: Arc<Tally>,
}

impl Listener {
    /// Makes the first instance of the pipe.
    pub(crate) fn bind(place: &Place, settings: &DoorSection, _: Option<Inherited>) -> Result<Listener, BindError> {
        let no_pipe = || BindError::NoPipe { path: place.path().to_owned() };
        let name = place.path().to_str().filter(|name| is_name(name)).ok_or_else(no_pipe)?.to_owned();
        let descriptor = descriptor::of_door(settings)?;
        // Asked besides, since Wine lets anybody make a first one.
        if pipe::is_there(&name) {
            return Err(served(place, &name));
        }
        let mut listener = Listener {
            name,
            settings: settings.clone(),
            descriptor,
            idle: JoinSet::new(),
            silent: JoinSet::new(),
            order: VecDeque::new(),
            unfit: Episode::default(),
            tally: Arc::default(),
        };
        let first = listener.make(true);
        let first = first.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => served(place, &listener.name),
            _ => BindError::System { doing: "make the pipe", path: place.path().to_owned(), source: error },
        })?;
        listener.wait_with(first, &Handle::current());
        Ok(listener)
    }

    /// Counts from now on there what happens to those who come.
    pub(crate) fn count_in(&mut self, tally: Arc<Tally>) {
        self.tally = tally;
    }

    /// Waits for the next client that says something, and lets the system say who it is. Instances that are made
    /// meanwhile live in the runtime `home`.
    ///
    /// # Cancel safety
    /// A client is taken only when returned.
    pub(crate) async fn accept(&mut self, home: &Handle) -> Result<Arrived, Closed> {
        loop {
            self.order.retain(|client| !client.is_finished());
            if let Some(clients) = self.unfit.due() {
                info!(clients, "clients came and were not let in; log debug to see why each was not");
            }
            while self.idle.len() < IDLE_INSTANCES {
                let instance = {
                    let _entered = home.enter();
                    self.make(false)?
                };
                self.wait_with(instance, home);
            }
            tokio::select! {
                Some(connected) = self.idle.join_next() => match connected {
                    Ok(Ok(instance)) => self.listen_to(instance, home),
                    Ok(Err(error)) => debug!(%error, "a client left as it came"),
                    Err(error) => return Err(Closed::Door(io::Error::other(error))),
                },
                Some(arrived) = self.silent.join_next() => match arrived {
                    Ok(Ok(arrived)) => return Ok(arrived),
                    Ok(Err(why)) => self.count_unfit(&why),
                    Err(_) => self.count_unfit(&Unfit::Crowded),
                }
            }
        }
    }

    fn count_unfit(&mut self, why: &Unfit) {
        debug!(reason = %why, "a client was not let in");
        self.unfit.add(1);
        self.tally.unfit_knocks.add(1);
    }

    fn make(&self, first: bool) -> io::Result<NamedPipeServer> {
        let DoorSection { remote, buffer_bytes, .. } = self.settings;
        pipe::Instance { first, remote, buffer_bytes, descriptor: &self.descriptor }.create(&self.name)
    }

    fn wait_with(&mut self, instance: NamedPipeServer, home: &Handle) {
        let connected = async move {
            instance.connect().await?;
            Ok(instance)
        };
        self.idle.spawn_on(connected, home);
    }

    fn listen_to(&mut self, instance: NamedPipeServer, home: &Handle) {
        if self.silent.len() >= SILENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        self.order.push_back(self.silent.spawn_on(introduce(instance), home));
    }
}

fn is_name(name: &str) -> bool {
    let pipe = name.strip_prefix(PIPES);
    pipe.is_some_and(|pipe| !pipe.is_empty() && !pipe.contains('\\')) && name.chars().count() <= NAME_CHARS_MAX
}

/// Who has the pipe: asked by opening it, if there is an instance for that.
fn served(place: &Place, name: &str) -> BindError {
    let pid = pipe::open(name).and_then(|pipe| pipe::server_process(&pipe));
    let holder = pid.map_or_else(|_| "another process".to_owned(), |pid| format!("process {pid}"));
    BindError::Served { path: place.path().to_owned(), holder }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_this_machine() {
        for name in [r"\\.\pipe\pipebus", r"\\.\pipe\a b"] {
            assert!(is_name(name), "{name}");
        }
        let long = format!("{PIPES}{}", "x".repeat(NAME_CHARS_MAX));
        for name in [r"\\server\pipe\pipebus", r"\\.\pipe\", r"\\.\pipe\a\b", "bus", "./bus", &long] {
            assert!(!is_name(name), "{name}");
        }
    }
}
