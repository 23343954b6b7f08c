//! `pipebus scan`: the buses of this machine, and the FIFOs that its processes hold open.
//!
//! Whatever is looked at is left as it is: no FIFO is opened but the doors of buses, and no broker started.

mod bus;
mod content;
mod fifos;
mod places;
mod report;
mod state;
mod tables;

use pipebus_proto::place::Address;

use self::bus::Bus;
use self::fifos::{Found, Wanted};
use self::places::Places;
use self::report::{BusReport, Report, Unseen, fifo_reports};
use self::state::State;
use crate::args::inspect::Scan;
use crate::failure::Failure;
use crate::format::push_object;
use crate::output::{self, complain};
use crate::system::terminal;
use crate::transport::fifo::processes::Process;

/// `named` is the bus of `--bus`, if it was on the command line; `usual` what is meant otherwise.
pub(crate) async fn run(usual: &Address, named: Option<&Address>, arguments: &Scan) -> Result<(), Failure> {
    let wanted = match arguments {
        Scan { pipes: true, .. } => Wanted::Pipes,
        Scan { all: true, .. } => Wanted::Fifos,
        _ => Wanted::Doors,
    };
    let mut found =
        fifos::find(wanted).map_err(|error| Failure::system("look through the processes in /proc", error))?;
    let named: Vec<Address> = named.into_iter().chain(&arguments.buses).cloned().collect();
    let mut places = Places::find(&named, usual, &found);
    let mut buses = bus::look_at(std::mem::take(&mut places.candidates), !arguments.no_ask).await;
    buses.retain(|bus| bus.state != State::Absent || bus.candidate.is_named);
    let shows_fifos = wanted != Wanted::Doors;
    if shows_fifos {
        found.look_into();
    }
    let report = Report {
        buses: buses.iter().map(BusReport::of).collect(),
        fifos: shows_fifos.then(|| fifo_reports(&found, &buses)),
        unseen: unseen(&found, places),
    };
    show(&report, arguments.json)?;
    dead(&buses).map_or(Ok(()), Err)
}

fn unseen(found: &Found, places: Places) -> Unseen {
    Unseen {
        processes: found.processes,
        processes_unreadable: found.unreadable,
        // Where all may be seen, this one is always there.
        processes_hidden: Process::of(1).is_none(),
        processes_complete: found.is_complete,
        fifos_left_out: found.left_out,
        buses_left_out: places.left_out,
        sessions_hidden: places.hidden,
        brokers_without_bus: places.unplaced,
    }
}

fn show(report: &Report, json: bool) -> Result<(), Failure> {
    let mut text = Vec::new();
    if json {
        push_object(&mut text, report);
    } else {
        text.extend_from_slice(tables::text(report, terminal::width()).as_bytes());
        text.push(b'\n');
    }
    output::write(&text)?;
    if !json {
        let is_root = rustix::process::geteuid().is_root();
        tables::gaps(report, is_root).iter().for_each(|gap| complain(gap));
    }
    Ok(())
}

/// That a bus which was asked for is not alive.
fn dead(buses: &[Bus]) -> Option<Failure> {
    let dead = buses.iter().find(|bus| bus.candidate.is_named && bus.state != State::Alive)?;
    Some(Failure::NotAlive { address: dead.candidate.address.clone(), state: dead.state.to_string() })
}
