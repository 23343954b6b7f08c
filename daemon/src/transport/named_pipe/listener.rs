//! Listener: the door, which is the name of the pipe, and its instances that wait for clients.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pipebus_proto::place::{PipeName, Place};
use pipebus_windows::descriptor::Descriptor;
use pipebus_windows::lock::Lock;
use pipebus_windows::pipe;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info, warn};

use super::arrival::{Unfit, introduce};
use super::{Inherited, Pipe, descriptor};
use crate::config::DoorSection;
use crate::counters::Tally;
use crate::episode::Episode;
use crate::transport::{Arrived, BindError, Closed};

/// Instances that wait for clients: while one is taken, and another is made in its place, the rest are there.
const IDLE_INSTANCES: usize = 8;

/// Clients that have come and said nothing yet. Of more, those that have been silent longest have to go.
const SILENT_MAX: usize = 256;

/// The longest name of a pipe, in characters ("Pipe Names" in Microsoft's documentation).
const NAME_CHARS_MAX: usize = 256;

/// How soon it is tried again to make an instance.
const MAKE_RETRY: Duration = Duration::from_millis(100);

/// The broker's end of the door.
pub(crate) struct Listener {
    /// That no other broker has the name.
    _lock: Lock,
    name: String,
    settings: DoorSection,
    descriptor: Descriptor,
    /// Instances that wait for clients.
    idle: JoinSet<io::Result<Pipe>>,
    /// Clients that have not said anything yet. None of them is waited for for long.
    silent: JoinSet<Result<Arrived, Unfit>>,
    /// The same, those that came first in front; some may have spoken since.
    order: VecDeque<AbortHandle>,
    /// Clients that came and were not let in: anybody can do that as often as it likes.
    unfit: Episode,
    /// Instances that could not be made.
    unmade: Episode,
    tally: Arc<Tally>,
}

impl Listener {
    /// Makes the first instance of the pipe.
    pub(crate) fn bind(place: &Place, settings: &DoorSection, _: Option<Inherited>) -> Result<Listener, BindError> {
        let no_pipe = || BindError::NoPipe { path: place.path().to_owned() };
        let name = place.path().to_str().filter(|name| is_name(name)).ok_or_else(no_pipe)?.to_owned();
        let descriptor = descriptor::of_door(settings)?;
        let failed = |source| BindError::System { doing: "make the pipe", path: place.path().to_owned(), source };
        // However it is spelt, it is one pipe.
        let lock = Lock::take(&name.to_lowercase()).map_err(failed)?.ok_or_else(|| held(place, &name))?;
        let mut listener = Listener {
            _lock: lock,
            name,
            settings: settings.clone(),
            descriptor,
            idle: JoinSet::new(),
            silent: JoinSet::new(),
            order: VecDeque::new(),
            unfit: Episode::default(),
            unmade: Episode::default(),
            tally: Arc::default(),
        };
        let first = listener.make_first(place)?;
        // One that may not make another would be a door that is shut soon.
        let second = listener.make(false).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => BindError::NotOwn,
            _ => failed(error),
        })?;
        for instance in [first, second] {
            listener.wait_with(instance, &Handle::current());
        }
        Ok(listener)
    }

    /// The first instance of a pipe that nobody else serves.
    fn make_first(&self, place: &Place) -> Result<Pipe, BindError> {
        // Asked before, since Wine lets anybody make a first one.
        match pipe::open(&self.name) {
            Err(error) if pipe::is_absent(&error) => {}
            opened => return Err(held_by(place, opened.and_then(|pipe| pipe::server_process(&pipe)))),
        }
        match self.make(true) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.take_over(place),
            made => {
                made.map_err(|source| BindError::System { doing: "make the pipe", path: place.path().into(), source })
            }
        }
    }

    /// An instance of a pipe that nobody serves and that is there all the same: a client of a broker that was killed still
    /// has its end. Its descriptor is that of the first instance there ever was, so it must be as this broker wants it.
    fn take_over(&self, place: &Place) -> Result<Pipe, BindError> {
        let instance = self.make(false).map_err(|_| held(place, &self.name))?;
        let is_ours = || {
            let found = Descriptor::of(&instance.0)?;
            io::Result::Ok(found.owner()? == self.descriptor.owner()? && found.is_like(&self.descriptor)?)
        };
        if !is_ours().unwrap_or(false) {
            let holder = "clients of an earlier server, with another security descriptor,".to_owned();
            return Err(BindError::Served { path: place.path().to_owned(), holder });
        }
        warn!("clients of an earlier broker still hold the pipe, which is taken over");
        Ok(instance)
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
            let unmade = self.refill(home);
            // As long as there are others, they are waited for.
            if let Some(error) = unmade
                && self.idle.is_empty()
                && self.silent.is_empty()
            {
                return Err(Closed::Door(error));
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
                },
                () = tokio::time::sleep(MAKE_RETRY), if self.idle.len() < IDLE_INSTANCES => {}
            }
        }
    }

    /// Makes as many instances as are to wait. Returns why not, if it can't.
    fn refill(&mut self, home: &Handle) -> Option<io::Error> {
        while self.idle.len() < IDLE_INSTANCES {
            let made = {
                let _entered = home.enter();
                self.make(false)
            };
            match made {
                Ok(instance) => self.wait_with(instance, home),
                Err(error) => {
                    self.unmade.add(1);
                    if let Some(times) = self.unmade.due() {
                        warn!(%error, times, "no further instance of the pipe can be made, so that clients may have to wait");
                    }
                    return Some(error);
                }
            }
        }
        None
    }

    fn count_unfit(&mut self, why: &Unfit) {
        debug!(reason = %why, "a client was not let in");
        self.unfit.add(1);
        self.tally.unfit_knocks.add(1);
    }

    fn make(&self, first: bool) -> io::Result<Pipe> {
        let DoorSection { remote, buffer_bytes, .. } = self.settings;
        pipe::Instance { first, remote, buffer_bytes, descriptor: &self.descriptor }.create(&self.name).map(Pipe)
    }

    fn wait_with(&mut self, instance: Pipe, home: &Handle) {
        let connected = async move {
            instance.0.connect().await?;
            Ok(instance)
        };
        self.idle.spawn_on(connected, home);
    }

    fn listen_to(&mut self, instance: Pipe, home: &Handle) {
        if self.silent.len() >= SILENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        self.order.push_back(self.silent.spawn_on(introduce(instance), home));
    }
}

fn is_name(name: &str) -> bool {
    let is_own = |name: PipeName<'_>| name.is_local() && !name.pipe.contains('\\');
    PipeName::of(Path::new(name)).is_some_and(is_own) && name.chars().count() <= NAME_CHARS_MAX
}

/// Who has the pipe: asked by opening it, if there is an instance for that.
fn held(place: &Place, name: &str) -> BindError {
    held_by(place, pipe::open(name).and_then(|pipe| pipe::server_process(&pipe)))
}

fn held_by(place: &Place, pid: io::Result<u32>) -> BindError {
    let holder = pid.map_or_else(|_| "another process".to_owned(), |pid| format!("process {pid}"));
    BindError::Served { path: place.path().to_owned(), holder }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_this_machine() {
        for name in [r"\\.\pipe\pipebus", r"\\.\PIPE\a b"] {
            assert!(is_name(name), "{name}");
        }
        let long = format!(r"\\.\pipe\{}", "x".repeat(NAME_CHARS_MAX));
        for name in [r"\\server\pipe\pipebus", r"\\.\pipe\", r"\\.\pipe\a\b", "bus", "./bus", &long] {
            assert!(!is_name(name), "{name}");
        }
    }
}
