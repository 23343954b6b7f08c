//! Report: what a scan has found, in the form of its JSON. Fields may be added; none is ever renamed or removed.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::bus::Bus;
use super::content::Unknown;
use super::fifos::{Fifo, Found, Holder, Name};
use super::state::State;
use crate::format::base64;
use crate::transport::fifo::entrance::{admitted, group_name, user_name};
use crate::transport::fifo::processes::Facts;

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) buses: Vec<BusReport>,
    /// Missing unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fifos: Option<Vec<FifoReport>>,
    pub(crate) unseen: Unseen,
}

/// How much was looked at, and what could not be seen.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Unseen {
    /// Processes that were looked at.
    pub(crate) processes: u64,
    /// Those of them whose descriptors this user may not see.
    pub(crate) processes_unreadable: u64,
    /// Whether the system does not even tell which other users' processes there are (proc(5), hidepid).
    pub(crate) processes_hidden: bool,
    /// Whether there was time for all processes.
    pub(crate) processes_complete: bool,
    /// FIFOs and buses for which there was no room.
    pub(crate) fifos_left_out: u64,
    pub(crate) buses_left_out: u64,
    /// Directories of other users' sessions into which this user may not look.
    pub(crate) sessions_hidden: u64,
    /// Processes of brokers of which it can't be told which bus they serve.
    pub(crate) brokers_without_bus: Vec<u32>,
}

/// A bus.
#[derive(Debug, Serialize)]
pub(crate) struct BusReport {
    /// What to name it with `--bus`.
    pub(crate) address: String,
    #[serde(flatten)]
    pub(crate) location: Location,
    pub(crate) state: State,
    pub(crate) why: Option<String>,
    /// Whose directory it is.
    pub(crate) owner: Option<Account>,
    pub(crate) door: Option<DoorReport>,
    /// Whether the permissions let this user in.
    pub(crate) may_connect: Option<bool>,
    pub(crate) broker: Option<BrokerReport>,
    pub(crate) instances: Option<u64>,
    pub(crate) instances_max: Option<u64>,
}

/// A path, which need not be text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Location {
    pub(crate) path: String,
    /// Its bytes, if they are no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
}

/// A user or a group.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Account {
    id: u32,
    pub(crate) name: String,
}

/// The door of a bus.
#[derive(Debug, Serialize)]
pub(crate) struct DoorReport {
    mode: String,
    owner: Account,
    group: Account,
    /// Whom it lets in, in words.
    pub(crate) admits: String,
}

/// Who serves a bus. What it says itself is there only if it may be asked.
#[derive(Debug, Serialize)]
pub(crate) struct BrokerReport {
    pub(crate) pid: u32,
    pub(crate) version: Option<String>,
    uptime_ms: Option<u64>,
}

/// A FIFO, or a pipe.
#[derive(Debug, Serialize)]
pub(crate) struct FifoReport {
    #[serde(flatten)]
    pub(crate) location: Location,
    /// What has become of its name.
    pub(crate) name: Name,
    /// The bus that it is of, by its address, and as what.
    pub(crate) bus: Option<String>,
    pub(crate) part: Option<Part>,
    /// As `stat` shows them.
    device: [u32; 2],
    inode: u64,
    pub(crate) mode: String,
    uid: u32,
    gid: u32,
    pub(crate) user: String,
    /// Missing where `unknown` says why.
    pub(crate) waiting_bytes: Option<u64>,
    pub(crate) buffer_bytes: Option<u64>,
    pub(crate) unknown: Option<Unknown>,
    pub(crate) holders: Vec<HolderReport>,
    pub(crate) holders_left_out: u64,
}

#[cfg(test)]
impl FifoReport {
    /// One that nobody holds, for tests.
    pub(crate) fn example() -> FifoReport {
        FifoReport {
            location: Location::of(Path::new("/x")),
            name: Name::Deleted,
            bus: None,
            part: None,
            device: [0, 1],
            inode: 1,
            mode: octal(0o600),
            uid: 0,
            gid: 0,
            user: "root".into(),
            waiting_bytes: None,
            buffer_bytes: None,
            unknown: None,
            holders: Vec::new(),
            holders_left_out: 0,
        }
    }
}

/// What a FIFO is to a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    Door,
    /// What a client sends.
    Up,
    /// What a client gets.
    Down,
}

/// Who has a FIFO open.
#[derive(Debug, Serialize)]
pub(crate) struct HolderReport {
    #[serde(flatten)]
    pub(crate) holder: Holder,
    pub(crate) command: String,
    pub(crate) uid: Option<u32>,
    pub(crate) user: Option<String>,
}

impl BusReport {
    pub(crate) fn of(bus: &Bus) -> BusReport {
        let survey = bus.survey.as_ref();
        let directory = survey.and_then(|survey| survey.directory.facts());
        let door = survey.and_then(|survey| survey.door.facts());
        let status = bus.status.as_ref();
        BusReport {
            address: bus.candidate.address.clone(),
            location: Location::of(bus.candidate.place.path()),
            state: bus.state,
            why: bus.why.clone(),
            owner: directory.map(|facts| Account { id: facts.uid, name: user_name(facts.uid) }),
            door: directory.zip(door).map(|(directory, door)| DoorReport::of(&directory, &door)),
            may_connect: survey.and_then(|survey| survey.may_connect),
            broker: bus.broker().map(|pid| BrokerReport {
                pid,
                version: status.map(|status| status.version.clone()),
                uptime_ms: status.map(|status| status.uptime_ms),
            }),
            instances: status.map(|status| status.instances),
            instances_max: status.map(|status| status.instances_max),
        }
    }
}

impl DoorReport {
    fn of(directory: &Facts, door: &Facts) -> DoorReport {
        DoorReport {
            mode: octal(door.mode),
            owner: Account { id: door.uid, name: user_name(door.uid) },
            group: Account { id: door.gid, name: group_name(door.gid) },
            admits: admitted(directory, door),
        }
    }
}

impl Location {
    pub(crate) fn of(path: &Path) -> Location {
        let bytes = path.as_os_str().as_bytes();
        let path_base64 = if path.to_str().is_none() { Some(base64(bytes)) } else { None };
        Location { path: path.display().to_string(), path_base64 }
    }
}

/// The FIFOs, and what each is to one of the buses.
pub(crate) fn fifo_reports(found: &Found, buses: &[Bus]) -> Vec<FifoReport> {
    let buses: HashMap<&Path, &str> = buses.iter().map(|bus| (&*bus.real, &*bus.candidate.address)).collect();
    // There are many FIFOs of few users, and asking who that is may take time.
    let mut users: HashMap<u32, String> = HashMap::new();
    let mut user = |uid: u32| users.entry(uid).or_insert_with(|| user_name(uid)).clone();
    let report = |fifo: &Fifo| {
        let (part, bus) = part_of(&fifo.path).map_or((None, None), |(part, directory)| {
            let bus = buses.get(&*directory).map(|address| (*address).to_owned());
            (bus.is_some().then_some(part), bus)
        });
        let holders = fifo.holders.iter().map(|holder| {
            let program = found.programs.get(&holder.pid);
            let uid = program.and_then(|program| program.uid);
            let command = program.map(|program| program.command.clone()).unwrap_or_default();
            HolderReport { holder: *holder, command, uid, user: uid.map(&mut user) }
        });
        let holders = holders.collect();
        FifoReport {
            location: Location::of(&fifo.path),
            name: fifo.name,
            bus,
            part,
            device: [fifo.facts.device.major, fifo.facts.device.minor],
            inode: fifo.facts.inode,
            mode: octal(fifo.facts.mode),
            uid: fifo.facts.uid,
            gid: fifo.facts.gid,
            user: user(fifo.facts.uid),
            waiting_bytes: fifo.content.ok().map(|content| content.waiting_bytes),
            buffer_bytes: fifo.content.ok().map(|content| content.buffer_bytes),
            unknown: fifo.content.err(),
            holders,
            holders_left_out: fifo.holders_left_out,
        }
    };
    found.fifos.iter().map(report).collect()
}

/// What a FIFO with this path would be, and to the bus in which directory.
fn part_of(path: &Path) -> Option<(Part, PathBuf)> {
    let directory = path.parent()?;
    if path.file_name()? == "bus" {
        return Some((Part::Door, directory.to_owned()));
    }
    let part = match path.extension()?.to_str()? {
        "up" => Part::Up,
        "down" => Part::Down,
        _ => return None,
    };
    Some((part, directory.parent().filter(|_| directory.ends_with("instances"))?.to_owned()))
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn what_a_fifo_is_to_a_bus_is_in_its_path() {
        let check = |path: &str, expected: Option<(Part, &str)>| {
            let expected = expected.map(|(part, directory)| (part, PathBuf::from(directory)));
            assert_eq!(part_of(Path::new(path)), expected, "{path}");
        };
        check("/run/pipebus/bus", Some((Part::Door, "/run/pipebus")));
        check("/run/pipebus/instances/00ff.up", Some((Part::Up, "/run/pipebus")));
        check("/run/pipebus/instances/00ff.down", Some((Part::Down, "/run/pipebus")));
        check("/run/pipebus/other/00ff.down", None);
        check("/run/pipebus/instances/x", None);
        check("/", None);
    }

    #[test]
    fn a_path_that_is_no_text_is_there_byte_by_byte() {
        let plain = serde_json::to_string(&Location::of(Path::new("/a\nb"))).unwrap();
        assert_eq!(plain, r#"{"path":"/a\nb"}"#);
        let odd = serde_json::to_string(&Location::of(Path::new(OsStr::from_bytes(b"/\xff")))).unwrap();
        assert_eq!(odd, "{\"path\":\"/\u{fffd}\",\"path_base64\":\"L/8=\"}");
    }
}
