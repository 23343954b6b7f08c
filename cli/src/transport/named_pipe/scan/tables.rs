//! Tables: what a scan has found, for people.

use super::report::{BusReport, PipeReport, Report};
use super::state::State;
use crate::format::escaped;
use crate::look::UNKNOWN;
use crate::output::{bytes, grouped};
use crate::table::{finish, table};

/// All tables, and beneath them what is to be said of some rows.
pub(crate) fn text(report: &Report, width: Option<u16>) -> String {
    let mut parts = Vec::new();
    if report.buses.is_empty() {
        parts.push("no bus is here that you can see; start one with: pipebusd".to_owned());
    } else {
        parts.push(bus_table(&report.buses, width));
    }
    let why = report
        .buses
        .iter()
        .filter_map(|bus| Some(format!("{}: {}", escaped(&bus.address), escaped(bus.why.as_ref()?))));
    let why: Vec<String> = why.collect();
    if !why.is_empty() {
        parts.push(why.join("\n"));
    }
    if report.buses.iter().any(|bus| bus.access.is_some() || bus.pipe.is_some()) {
        parts.push(access_table(&report.buses, width));
    }
    match &report.pipes {
        Some(pipes) if !pipes.is_empty() => parts.push(pipe_table(pipes, width)),
        _ => {}
    }
    parts.join("\n\n")
}

fn bus_table(buses: &[BusReport], width: Option<u16>) -> String {
    let mut table = table(&["BUS", "STATE", "OWNER", "WHO MAY CONNECT", "BROKER", "PID", "INSTANCES"], width);
    for bus in buses {
        let broker = bus.broker.as_ref();
        let instances = bus.instances.zip(bus.instances_max);
        table.add_row([
            escaped(&bus.address),
            bus.state.to_string(),
            bus.owner.as_ref().map_or(UNKNOWN.to_owned(), |owner| escaped(&owner.name)),
            bus.access.as_ref().map_or(UNKNOWN.to_owned(), |access| admits(&access.admits, bus)),
            broker.and_then(|broker| broker.version.as_deref()).map_or(UNKNOWN.to_owned(), escaped),
            broker.map_or(UNKNOWN.to_owned(), |broker| broker.pid.to_string()),
            instances.map_or(UNKNOWN.to_owned(), |(now, max)| format!("{} of {}", grouped(now), grouped(max))),
        ]);
    }
    finish(table, &[5, 6])
}

fn admits(who: &str, bus: &BusReport) -> String {
    match bus.may_connect {
        Some(false) if bus.state != State::Broken => format!("{}, not you", escaped(who)),
        _ => escaped(who),
    }
}

/// The pipes that were opened: how large they are, who serves them, and who may do what.
fn access_table(buses: &[BusReport], width: Option<u16>) -> String {
    let mut table = table(&["PIPE", "PIPE'S INSTANCES", "TO SERVER", "TO CLIENT", "SERVED BY", "WHO", "MAY"], width);
    for bus in buses.iter().filter(|bus| bus.access.is_some() || bus.pipe.is_some()) {
        let pipe = bus.pipe.as_ref();
        let instances = pipe.map(|pipe| match pipe.instances_max {
            Some(max) => format!("{} of {max}", pipe.instances),
            None => format!("{}, no limit", pipe.instances),
        });
        let size = |of: Option<u32>| of.map_or(UNKNOWN.to_owned(), |size| bytes(u64::from(size)));
        let program = bus.broker.as_ref().and_then(|broker| broker.program.as_deref());
        let (who, may) = grants(bus);
        table.add_row([
            escaped(&bus.path),
            instances.unwrap_or(UNKNOWN.to_owned()),
            size(pipe.map(|pipe| pipe.in_buffer_bytes)),
            size(pipe.map(|pipe| pipe.out_buffer_bytes)),
            program.map_or(UNKNOWN.to_owned(), |program| escaped(name_of(program))),
            who,
            may,
        ]);
    }
    finish(table, &[2, 3])
}

/// A program, without where it is.
fn name_of(program: &str) -> &str {
    program.rsplit('\\').next().unwrap_or(program)
}

/// Who, and what they may, a line each.
fn grants(bus: &BusReport) -> (String, String) {
    let Some(access) = &bus.access else { return (UNKNOWN.to_owned(), UNKNOWN.to_owned()) };
    let Some(grants) = &access.grants else { return ("everyone".to_owned(), "may do everything".to_owned()) };
    let who: Vec<String> = grants.iter().map(|grant| escaped(&grant.who.name)).collect();
    let may: Vec<String> = grants.iter().map(|grant| grant.in_words()).collect();
    if who.is_empty() { ("nobody".to_owned(), "may do anything".to_owned()) } else { (who.join("\n"), may.join("\n")) }
}

fn pipe_table(pipes: &[PipeReport], width: Option<u16>) -> String {
    let mut table = table(&["NAME", "INSTANCES", "BUS"], width);
    for pipe in pipes {
        let bus = pipe.bus.as_deref().map_or(UNKNOWN.to_owned(), escaped);
        table.add_row([escaped(&pipe.path), grouped(pipe.instances), bus]);
    }
    finish(table, &[1])
}

/// What could not be seen, a sentence each.
pub(crate) fn gaps(report: &Report) -> Vec<String> {
    let unseen = &report.unseen;
    let mut gaps = Vec::new();
    if let Some(why) = &unseen.pipes_unlisted {
        gaps.push(format!("this system does not list its pipes ({why}), so buses of other sessions are not found"));
    }
    if unseen.buses_left_out > 0 {
        gaps.push(format!("{} more buses were found than can be shown", grouped(unseen.buses_left_out)));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    use pipebus_windows::descriptor::Descriptor;

    use crate::transport::named_pipe::access::{Access, Account};
    use crate::transport::named_pipe::scan::report::{AccessReport, BrokerReport, PipeFacts, Unseen};

    const ANN: &str = "S-1-5-21-1-2-3-1001";
    const BOB: &str = "S-1-5-21-1-2-3-1002";

    fn bus() -> BusReport {
        let access =
            Access::of(&Descriptor::parse(&format!("O:{ANN}D:P(A;;GA;;;{ANN})(A;;0x12019b;;;{BOB})")).unwrap())
                .unwrap();
        BusReport {
            address: "system".into(),
            path: r"\\.\pipe\pipebus".into(),
            state: State::Alive,
            why: None,
            owner: Some(Account { id: ANN.into(), name: "ann".into() }),
            pipe: Some(PipeFacts { instances: 7, instances_max: None, in_buffer_bytes: 65536, out_buffer_bytes: 4096 }),
            access: Some(AccessReport::of(&access)),
            may_connect: Some(false),
            broker: Some(BrokerReport::example()),
            instances: Some(5),
            instances_max: Some(4096),
        }
    }

    #[test]
    fn a_bus_is_told_in_two_rows_with_a_line_for_each_who_may_something() {
        let report = Report { buses: vec![bus()], pipes: None, unseen: Unseen::default() };
        let expected = format!(
            "\
BUS     STATE  OWNER  WHO MAY CONNECT                                    BROKER  PID   INSTANCES
system  alive  ann    {ANN}, {BOB}, not you  0.1.0     9  5 of 4,096

PIPE              PIPE'S INSTANCES  TO SERVER  TO CLIENT  SERVED BY  WHO                  MAY
\\\\.\\pipe\\pipebus  7, no limit          64 KiB    4.0 KiB  d.exe      {ANN}  may do everything
                                                                     {BOB}  may use it"
        );
        let text = text(&report, None);
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn what_could_not_be_seen_is_said_and_only_then() {
        let mut report = Report { buses: Vec::new(), pipes: Some(Vec::new()), unseen: Unseen::default() };
        assert_eq!(gaps(&report), Vec::<String>::new());
        report.unseen = Unseen { pipes_unlisted: Some("it can't".into()), buses_left_out: 3 };
        let all = gaps(&report);
        assert!(all[0].contains("does not list its pipes (it can't)") && all[1].starts_with("3 more"), "{all:?}");
    }
}
