//! `pipebus scan`: the buses of this machine, and the names of all its pipes.
//!
//! A pipe that may be no bus is not opened unless somebody names it.

mod bus;
mod places;
mod report;
mod state;
mod tables;

use pipebus_proto::place::Address;

use self::bus::Bus;
use self::places::Places;
use self::report::{BusReport, Report, pipe_reports};
use self::state::State;
use crate::args::inspect::Scan;
use crate::failure::Failure;
use crate::format::push_object;
use crate::output::{self, complain};
use crate::system::terminal;

/// `named` is the bus of `--bus`, if it was on the command line; `usual` what is meant otherwise.
pub(crate) async fn run(usual: &Address, named: Option<&Address>, arguments: &Scan) -> Result<(), Failure> {
    let named: Vec<Address> = named.into_iter().chain(&arguments.buses).cloned().collect();
    let mut places = Places::find(&named, usual);
    let mut buses = bus::look_at(std::mem::take(&mut places.candidates), !arguments.no_ask).await;
    buses.retain(|bus| bus.state != State::Absent || bus.candidate.is_named);
    let shows_pipes = arguments.all || arguments.pipes;
    let report = Report {
        buses: buses.iter().map(BusReport::of).collect(),
        pipes: shows_pipes.then(|| pipe_reports(&places.pipes, &buses)),
        unseen: places.unseen,
    };
    show(&report, arguments.json)?;
    dead(&buses).map_or(Ok(()), Err)
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
        tables::gaps(report).iter().for_each(|gap| complain(gap));
    }
    Ok(())
}

/// That a bus which was asked for is not alive.
fn dead(buses: &[Bus]) -> Option<Failure> {
    let dead = buses.iter().find(|bus| bus.candidate.is_named && bus.state != State::Alive)?;
    Some(Failure::NotAlive { address: dead.candidate.address.clone(), state: dead.state.to_string() })
}
