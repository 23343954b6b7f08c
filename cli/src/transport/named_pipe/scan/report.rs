//! Report: what a scan has found, in the form of its JSON. Fields may be added; none is ever renamed or removed.

use pipebus_proto::place::PIPES;
use pipebus_windows::pipe::{Facts, Listed};
use serde::Serialize;

use super::bus::Bus;
use super::state::State;
use crate::transport::named_pipe::access::{Access, Account, Grant};

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) buses: Vec<BusReport>,
    /// Missing unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pipes: Option<Vec<PipeReport>>,
    pub(crate) unseen: Unseen,
}

/// What could not be seen.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Unseen {
    /// Why the system does not list its pipes, if so.
    pub(crate) pipes_unlisted: Option<String>,
    /// Buses for which there was no room.
    pub(crate) buses_left_out: u64,
}

/// A bus.
#[derive(Debug, Serialize)]
pub(crate) struct BusReport {
    /// What to name it with `--bus`.
    pub(crate) address: String,
    pub(crate) path: String,
    pub(crate) state: State,
    pub(crate) why: Option<String>,
    /// Whose pipe it is.
    pub(crate) owner: Option<Account>,
    pub(crate) pipe: Option<PipeFacts>,
    pub(crate) access: Option<AccessReport>,
    /// Whether the pipe's descriptor lets this user in.
    pub(crate) may_connect: Option<bool>,
    pub(crate) broker: Option<BrokerReport>,
    pub(crate) instances: Option<u64>,
    pub(crate) instances_max: Option<u64>,
}

/// A pipe that was opened.
#[derive(Debug, Serialize)]
pub(crate) struct PipeFacts {
    pub(crate) instances: u32,
    /// `null` if there is no bound.
    pub(crate) instances_max: Option<u32>,
    /// How many bytes its buffers have to the server, and to the client.
    pub(crate) in_buffer_bytes: u32,
    pub(crate) out_buffer_bytes: u32,
}

/// Who may do what.
#[derive(Debug, Serialize)]
pub(crate) struct AccessReport {
    /// Whom it lets in, in words.
    pub(crate) admits: String,
    /// Whether nothing is added to it by inheritance.
    is_protected: bool,
    /// In order, the first that fits counts; `null` if everybody may do everything.
    pub(crate) grants: Option<Vec<Grant>>,
    sddl: String,
}

/// Who serves a bus. What it says itself is there only if it may be asked.
#[derive(Debug, Serialize)]
pub(crate) struct BrokerReport {
    pub(crate) pid: u32,
    /// By its path.
    pub(crate) program: Option<String>,
    pub(crate) version: Option<String>,
    uptime_ms: Option<u64>,
}

#[cfg(test)]
impl BrokerReport {
    /// One for tests.
    pub(crate) fn example() -> BrokerReport {
        BrokerReport { pid: 9, program: Some(r"C:\d.exe".into()), version: Some("0.1.0".into()), uptime_ms: Some(1) }
    }
}

/// A pipe that was not opened.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PipeReport {
    pub(crate) path: String,
    pub(crate) instances: u64,
    /// The bus that it is, by its address.
    pub(crate) bus: Option<String>,
}

impl BusReport {
    pub(crate) fn of(bus: &Bus) -> BusReport {
        let seen = bus.survey.seen();
        let access = bus.survey.access();
        let status = bus.status.as_ref();
        BusReport {
            address: bus.candidate.address.clone(),
            path: bus.candidate.place.path().display().to_string(),
            state: bus.state,
            why: bus.why.clone(),
            owner: access.and_then(|access| access.owner.clone()),
            pipe: seen.and_then(|seen| seen.pipe.as_ref().ok()).map(PipeFacts::of),
            access: access.map(AccessReport::of),
            may_connect: bus.may_connect,
            broker: bus.server().map(|pid| BrokerReport {
                pid,
                program: seen.and_then(|seen| seen.program.clone()),
                version: status.map(|status| status.version.clone()),
                uptime_ms: status.map(|status| status.uptime_ms),
            }),
            instances: status.map(|status| status.instances),
            instances_max: status.map(|status| status.instances_max),
        }
    }
}

impl PipeFacts {
    fn of(facts: &Facts) -> PipeFacts {
        PipeFacts {
            instances: facts.instances,
            instances_max: facts.instances_max,
            in_buffer_bytes: facts.in_bytes,
            out_buffer_bytes: facts.out_bytes,
        }
    }
}

impl AccessReport {
    pub(crate) fn of(access: &Access) -> AccessReport {
        AccessReport {
            admits: access.admits(),
            is_protected: access.is_protected,
            grants: access.grants.clone(),
            sddl: access.sddl.clone(),
        }
    }
}

/// All pipes, and which of them is which bus.
pub(crate) fn pipe_reports(pipes: &[Listed], buses: &[Bus]) -> Vec<PipeReport> {
    let known = buses.iter().map(|bus| (bus.candidate.place.path().display().to_string(), &*bus.candidate.address));
    reports(pipes, &known.collect::<Vec<_>>())
}

fn reports(pipes: &[Listed], buses: &[(String, &str)]) -> Vec<PipeReport> {
    let report = |pipe: &Listed| {
        let path = format!("{PIPES}{}", pipe.name);
        let bus = buses.iter().find(|(known, _)| known.eq_ignore_ascii_case(&path));
        PipeReport { bus: bus.map(|(_, address)| (*address).to_owned()), path, instances: pipe.instances }
    };
    pipes.iter().map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_is_a_bus_is_known_by_its_name() {
        let pipes = ["PipeBus", "other"].map(|name| Listed { name: name.to_owned(), instances: 3 });
        let found = reports(&pipes, &[(r"\\.\pipe\pipebus".to_owned(), "system")]);
        let buses: Vec<_> = found.iter().map(|pipe| (&*pipe.path, pipe.bus.as_deref(), pipe.instances)).collect();
        assert_eq!(buses, [(r"\\.\pipe\PipeBus", Some("system"), 3), (r"\\.\pipe\other", None, 3)]);
    }
}
