//! Survey: what a pipe looks like to one who opens it and says nothing.
//!
//! That uses up one of its instances for a moment, and its server notices that somebody came and left.

use std::io;
use std::time::Duration;

use pipebus_proto::place::Place;
use pipebus_proto::trust::{self, Distrust};
use pipebus_windows::descriptor::Descriptor;
use pipebus_windows::{account, pipe, process};
use tokio::runtime::Builder;

use crate::system::clock::now;
use crate::transport::named_pipe::access::Access;

/// The name of the broker's program.
pub(crate) const BROKER: &str = "pipebusd.exe";

/// How long to wait for an instance that has no client, and how often to try.
const BUSY_WAIT: Duration = Duration::from_millis(500);
const BUSY_STEP: Duration = Duration::from_millis(10);

/// What is known of a pipe without saying anything to its server.
#[derive(Clone, Debug)]
pub(crate) enum Survey {
    Open(Box<Seen>),
    /// There is no such pipe.
    Absent,
    /// Each of its instances has a client.
    Busy,
    /// This user may not.
    Denied,
    /// The system says something else.
    Failed(String),
    /// There is a pipe; it was not opened.
    Unopened,
}

/// A pipe, opened.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) pipe: Result<pipe::Facts, String>,
    /// Who serves it.
    pub(crate) server: Option<u32>,
    /// Which program that is, by its path, if this user may ask.
    pub(crate) program: Option<String>,
    pub(crate) access: Result<Access, String>,
}

impl Survey {
    /// Opens a pipe and looks at it.
    pub(crate) fn of(place: &Place) -> Survey {
        let Some(name) = place.path().to_str() else { return Survey::Failed("its name is no text".to_owned()) };
        // What is opened is tokio's, even if nobody waits for it.
        let Ok(runtime) = Builder::new_current_thread().enable_all().build() else {
            return Survey::Failed("there is no room to open it".to_owned());
        };
        let _inside = runtime.enter();
        let until = now() + BUSY_WAIT;
        loop {
            match pipe::open(name) {
                Ok(pipe) => return Survey::Open(Box::new(Seen::of(&pipe))),
                Err(error) if pipe::is_busy(&error) && now() < until => std::thread::sleep(BUSY_STEP),
                Err(error) => return Survey::failed(&error),
            }
        }
    }

    /// Whether there is a pipe, which is not opened.
    pub(crate) fn from_outside(place: &Place) -> Survey {
        let is_there = place.path().to_str().is_some_and(pipe::is_there);
        if is_there { Survey::Unopened } else { Survey::Absent }
    }

    fn failed(error: &io::Error) -> Survey {
        match error {
            error if pipe::is_absent(error) => Survey::Absent,
            error if pipe::is_busy(error) => Survey::Busy,
            error if error.kind() == io::ErrorKind::PermissionDenied => Survey::Denied,
            error => Survey::Failed(error.to_string()),
        }
    }

    pub(crate) fn seen(&self) -> Option<&Seen> {
        if let Survey::Open(seen) = self { Some(seen) } else { None }
    }

    pub(crate) fn access(&self) -> Option<&Access> {
        self.seen()?.access.as_ref().ok()
    }
}

impl Seen {
    fn of(pipe: &tokio::net::windows::named_pipe::NamedPipeClient) -> Seen {
        let server = pipe::server_process(pipe).ok();
        Seen {
            pipe: pipe::facts(pipe).map_err(|error| error.to_string()),
            server,
            program: server.and_then(|pid| process::program(pid).ok()),
            access: Descriptor::of(pipe)
                .and_then(|descriptor| Access::of(&descriptor))
                .map_err(|error| error.to_string()),
        }
    }

    /// The program's name, without where it is.
    pub(crate) fn program_name(&self) -> Option<&str> {
        self.program.as_ref()?.rsplit('\\').next()
    }

    /// Whether it is called as brokers are.
    pub(crate) fn is_broker(&self) -> bool {
        self.program_name().is_some_and(|name| name.eq_ignore_ascii_case(BROKER))
    }

    /// What clients think of its owner; `None` if they can't know.
    pub(crate) fn trust(&self, place: &Place) -> Option<Result<(), Distrust>> {
        let owner = self.access.as_ref().ok()?.owner.as_ref().map(|owner| &*owner.id).unwrap_or_default();
        Some(is_trusted(place, owner))
    }
}

/// What clients think of a pipe of this owner.
pub(crate) fn is_trusted(place: &Place, owner: &str) -> Result<(), Distrust> {
    let me = account::own().map(|own| own.sid).unwrap_or_default();
    trust::check_owner(place.path(), owner, &me)
}
