//! Facts: all that the checks judge, gathered before. A check asks nobody.

use std::path::{Path, PathBuf};

use pipebus_proto::admin::{InstanceStatus, Status};
use pipebus_proto::trust::Distrust;

use crate::doctor::facts::{Answer, Contact, Right};
use crate::doctor::finding::quoted;
use crate::transport::fifo::survey::Survey;

/// What is known of a bus and of those around it.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// As people name it.
    pub(crate) address: String,
    pub(crate) survey: Survey,
    pub(crate) names: Names,
    /// What clients think of the directory; `None` if it can't be judged.
    pub(crate) trust: Option<Result<(), Distrust>>,
    pub(crate) me: Me,
    /// What lies in `instances/`; `None` if this user may not see.
    pub(crate) leftovers: Option<Leftovers>,
    /// The broker's process, if it can be seen.
    pub(crate) process: Option<BrokerProcess>,
    pub(crate) contact: Contact,
    pub(crate) status: Answer<Status>,
    pub(crate) instances: Answer<Vec<InstanceStatus>>,
    /// The user, but root, who has the most instances, and how many.
    pub(crate) crowd: Answer<Option<(String, u64)>>,
    pub(crate) publish: Answer<Right>,
    pub(crate) subscribe: Answer<Right>,
    pub(crate) pipes: Pipes,
    /// Those of this bus that systemd knows.
    pub(crate) units: Vec<Unit>,
    /// How systemctl is told that they are this user's own.
    pub(crate) manager: Manager,
    pub(crate) configuration: Configuration,
}

/// The names of those whom the survey knows by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) directory_owner: String,
    pub(crate) door_owner: String,
    pub(crate) instances_owner: String,
    pub(crate) lock_owner: String,
    /// None, if there is no group of this number.
    pub(crate) door_group: Option<String>,
}

/// Who runs this.
#[derive(Clone, Debug)]
pub(crate) struct Me {
    pub(crate) uid: u32,
    pub(crate) name: String,
    /// The groups of this process.
    pub(crate) groups: Vec<u32>,
    /// The groups that this user has by the system's files, and so after the next login.
    pub(crate) groups_on_file: Vec<u32>,
    /// How many descriptors this process may have.
    pub(crate) descriptors_max: u64,
}

/// FIFOs that have names in `instances/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    pub(crate) fifos: u64,
    /// Those of them that belong to no living attempt to connect.
    pub(crate) old: u64,
}

/// What the system tells of the broker's process.
#[derive(Clone, Debug)]
pub(crate) struct BrokerProcess {
    pub(crate) pid: u32,
    pub(crate) user: String,
    /// What it does, as a letter of ps(1).
    pub(crate) state: char,
    pub(crate) descriptors_max: u64,
    /// `None` if this user may not see.
    pub(crate) descriptors: Option<u64>,
}

/// What the kernel allows of pipes; `None` where it does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) size_max: Option<u64>,
    /// Pages of one user; 0 if there is no limit.
    pub(crate) user_pages_soft: Option<u64>,
    pub(crate) user_pages_hard: Option<u64>,
    pub(crate) protected_fifos: Option<u64>,
}

/// A unit of systemd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) name: String,
    pub(crate) is_loaded: bool,
    /// `active`, `inactive`, `failed` and so on.
    pub(crate) active: String,
    /// `enabled`, `disabled` and so on.
    pub(crate) file: String,
    /// Why it has failed.
    pub(crate) result: String,
}

/// Which systemd is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    System,
    User,
}

/// What `pipebusd --check-config` says.
#[derive(Clone, Debug)]
pub(crate) enum Configuration {
    Valid {
        file: Option<PathBuf>,
    },
    Invalid {
        file: Option<PathBuf>,
        says: String,
    },
    /// It could not be asked.
    Unchecked(String),
}

impl Facts {
    /// Where the bus is.
    pub(crate) fn path(&self) -> &Path {
        self.survey.place.path()
    }

    /// Whether a broker is known to serve the bus.
    pub(crate) fn is_served(&self) -> bool {
        self.survey.holder.is_some() || matches!(self.contact, Contact::Connected { .. })
    }

    /// What starts a broker.
    pub(crate) fn start(&self) -> String {
        match self.units.iter().any(|unit| unit.name == "pipebusd.socket" && unit.is_loaded) {
            true => format!("{} start pipebusd.socket", self.manager.systemctl()),
            false => format!("pipebusd --bus {}", quoted(&self.address)),
        }
    }

    /// What gets a broker that runs out of the way and starts another.
    pub(crate) fn restart(&self) -> String {
        match self.units.iter().any(|unit| unit.name == "pipebusd.service" && unit.active == "active") {
            true => format!("{} restart pipebusd.service", self.manager.systemctl()),
            false => format!("end it (kill {}), then: {}", self.broker_pid(), self.start()),
        }
    }

    fn broker_pid(&self) -> String {
        let said = if let Answer::Given(status) = &self.status { Some(status.pid) } else { None };
        self.survey.holder.or(said).map_or("its process id".to_owned(), |pid| pid.to_string())
    }
}

impl Manager {
    pub(crate) fn systemctl(self) -> &'static str {
        match self {
            Manager::System => "systemctl",
            Manager::User => "systemctl --user",
        }
    }

    pub(crate) fn journalctl(self) -> &'static str {
        match self {
            Manager::System => "journalctl",
            Manager::User => "journalctl --user",
        }
    }
}
