//! Facts: all that the checks judge, gathered before. A check asks nobody.

use std::path::Path;

use pipebus_proto::admin::{InstanceStatus, Status};
use pipebus_proto::place::Place;
use pipebus_windows::account::Account;

use crate::doctor::facts::{Answer, Contact, Right};
use crate::doctor::finding::quoted;
use crate::transport::named_pipe::survey::Survey;

/// What is known of a bus and of those around it.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// As people name it.
    pub(crate) address: String,
    pub(crate) place: Place,
    pub(crate) survey: Survey,
    pub(crate) me: Me,
    pub(crate) contact: Contact,
    pub(crate) status: Answer<Status>,
    pub(crate) instances: Answer<Vec<InstanceStatus>>,
    /// The user who has the most instances, and how many.
    pub(crate) crowd: Answer<Option<(String, u64)>>,
    pub(crate) publish: Answer<Right>,
    pub(crate) subscribe: Answer<Right>,
    /// Of the system's bus alone.
    pub(crate) service: Option<Service>,
}

/// Who runs this.
#[derive(Clone, Debug)]
pub(crate) struct Me {
    pub(crate) account: Account,
    pub(crate) name: String,
}

/// What the service control manager says of pipebusd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    NotInstalled,
    Installed {
        state: State,
        start: Start,
        /// With which error it has ended; 0 for none.
        exit_code: u32,
    },
    /// It does not say.
    Unknown,
}

/// What a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Stopped,
    /// On the way from one to the other, or paused.
    Between,
}

/// When a service starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the system.
    Automatic,
    /// When somebody wants it to.
    Manual,
    Disabled,
}

impl Facts {
    /// Where the bus is.
    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Whether a client gets in.
    pub(crate) fn is_served(&self) -> bool {
        matches!(self.contact, Contact::Connected { .. })
    }

    /// What starts a broker.
    pub(crate) fn start(&self) -> String {
        match self.service {
            Some(Service::Installed { .. }) => "as an administrator: pipebusd service start".to_owned(),
            _ => format!("pipebusd --bus {}", quoted(&self.address)),
        }
    }

    /// What gets a broker that runs out of the way and starts another.
    pub(crate) fn restart(&self) -> String {
        match self.service {
            Some(Service::Installed { state: State::Running, .. }) => {
                "as an administrator: pipebusd service stop, then: pipebusd service start".to_owned()
            }
            _ => format!("end it (taskkill /F /PID {}), then: {}", self.server_pid(), self.start()),
        }
    }

    fn server_pid(&self) -> String {
        let said = if let Answer::Given(status) = &self.status { Some(status.pid) } else { None };
        let seen = self.survey.seen().and_then(|seen| seen.server);
        said.or(seen).map_or("its process id".to_owned(), |pid| pid.to_string())
    }
}
