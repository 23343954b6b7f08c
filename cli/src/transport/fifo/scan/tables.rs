//! Tables: what a scan has found, for people.

use super::content::Unknown;
use super::fifos::Name;
use super::report::{BusReport, FifoReport, HolderReport, Part, Report};
use super::state::State;
use crate::format::escaped;
use crate::look::UNKNOWN;
use crate::output::{bytes, grouped};
use crate::table::{finish, table};

/// So many of those who hold one FIFO are named.
const HOLDERS_SHOWN_MAX: usize = 4;

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
    match &report.fifos {
        Some(fifos) if fifos.is_empty() => parts.push("no process that you can see holds a FIFO open".to_owned()),
        Some(fifos) => parts.push(fifo_table(fifos, width)),
        None => {}
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
            bus.owner.as_ref().map_or(UNKNOWN.to_owned(), |owner| owner.name.clone()),
            bus.door.as_ref().map_or(UNKNOWN.to_owned(), |door| admits(&door.admits, bus)),
            broker.and_then(|broker| broker.version.as_deref()).map_or(UNKNOWN.to_owned(), escaped),
            broker.map_or(UNKNOWN.to_owned(), |broker| broker.pid.to_string()),
            instances.map_or(UNKNOWN.to_owned(), |(now, max)| format!("{} of {}", grouped(now), grouped(max))),
        ]);
    }
    finish(table, &[5, 6])
}

fn admits(who: &str, bus: &BusReport) -> String {
    match bus.may_connect {
        Some(false) if bus.state != State::Broken => format!("{who}, not you"),
        _ => who.to_owned(),
    }
}

fn fifo_table(fifos: &[FifoReport], width: Option<u16>) -> String {
    let mut table = table(&["FIFO", "PART OF", "OWNER", "MODE", "WAITING", "SIZE", "READERS", "WRITERS"], width);
    for fifo in fifos {
        let content = |number: Option<u64>| number.map_or_else(|| unknown(fifo.unknown).to_owned(), bytes);
        table.add_row([
            name(fifo),
            part(fifo),
            fifo.user.clone(),
            fifo.mode.clone(),
            content(fifo.waiting_bytes),
            content(fifo.buffer_bytes),
            holders(fifo, |holder| holder.holder.reads),
            holders(fifo, |holder| holder.holder.writes),
        ]);
    }
    finish(table, &[4, 5])
}

fn name(fifo: &FifoReport) -> String {
    let path = escaped(&fifo.location.path);
    match fifo.name {
        Name::Leads | Name::Pipe => path,
        Name::Deleted => format!("{path} (deleted)"),
        Name::Elsewhere => format!("{path} (elsewhere)"),
    }
}

fn part(fifo: &FifoReport) -> String {
    let Some((part, bus)) = fifo.part.zip(fifo.bus.as_deref()) else { return UNKNOWN.to_owned() };
    let part = match part {
        Part::Door => "door",
        Part::Up => "up",
        Part::Down => "down",
    };
    format!("{part} of {}", escaped(bus))
}

fn unknown(why: Option<Unknown>) -> &'static str {
    match why {
        Some(Unknown::Forbidden) => "needs root",
        Some(Unknown::Gone) => "gone",
        Some(Unknown::Unable) | None => UNKNOWN,
    }
}

/// Each process once, however often it holds the FIFO.
fn holders(fifo: &FifoReport, which: impl Fn(&&HolderReport) -> bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut pids: Vec<u32> = Vec::new();
    for holder in fifo.holders.iter().filter(which) {
        if !pids.contains(&holder.holder.pid) {
            pids.push(holder.holder.pid);
            lines.push(format!("{} {}", holder.holder.pid, escaped(&holder.command)));
        }
    }
    let more = lines.len().saturating_sub(HOLDERS_SHOWN_MAX) as u64 + fifo.holders_left_out;
    lines.truncate(HOLDERS_SHOWN_MAX);
    match (lines.is_empty(), more) {
        (true, 0) => return UNKNOWN.to_owned(),
        (_, 0) => {}
        (_, more) => lines.push(format!("and {} more", grouped(more))),
    }
    lines.join("\n")
}

/// What could not be seen, a sentence each, and what to do.
pub(crate) fn gaps(report: &Report, is_root: bool) -> Vec<String> {
    let unseen = &report.unseen;
    // In a container, root need not have all rights.
    let advice = if is_root { "not even root may here" } else { "run this as root to see it" };
    let forbidden = |fifo: &&FifoReport| fifo.unknown == Some(Unknown::Forbidden);
    let forbidden = report.fifos.iter().flatten().filter(forbidden).count() as u64;
    let (unreadable, processes) = (grouped(unseen.processes_unreadable), grouped(unseen.processes));
    let hidden = grouped(unseen.sessions_hidden);
    let left_out = unseen.fifos_left_out + unseen.buses_left_out;
    let mut gaps = Vec::new();
    let mut say = |if_so: bool, gap: String| gaps.extend(if_so.then_some(gap));
    say(
        unseen.processes_unreadable > 0,
        format!("what {unreadable} of {processes} processes hold can't be seen; {advice}"),
    );
    say(unseen.processes_hidden, format!("other users' processes can't be seen at all; {advice}"));
    say(unseen.sessions_hidden > 0, format!("the session buses of {hidden} other users can't be seen; {advice}"));
    for pid in &unseen.brokers_without_bus {
        say(true, format!("which bus the broker with process id {pid} serves can't be seen; {advice}"));
    }
    say(forbidden > 0, format!("what waits in {} of the FIFOs can't be seen; {advice}", grouped(forbidden)));
    say(!unseen.processes_complete, "there was no time to look through all processes; some are missing".to_owned());
    say(left_out > 0, format!("{} more FIFOs or buses were found than can be shown", grouped(left_out)));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::fifo::scan::fifos::Holder;
    use crate::transport::fifo::scan::report::Unseen;

    fn holder(pid: u32, command: &str) -> HolderReport {
        let holder = Holder { pid, descriptor: 3, reads: true, writes: false, blocks: true };
        HolderReport { holder, command: command.to_owned(), uid: None, user: None }
    }

    fn fifo(unknown: Option<Unknown>) -> FifoReport {
        let mut fifo = FifoReport::example();
        (fifo.part, fifo.bus, fifo.user) = (Some(Part::Up), Some("session".into()), "ann".into());
        (fifo.waiting_bytes, fifo.buffer_bytes) = match unknown {
            None => (Some(5), Some(65536)),
            Some(_) => (None, None),
        };
        fifo.unknown = unknown;
        fifo.holders = [7, 7, 8].map(|pid| holder(pid, "a\nb")).into();
        fifo
    }

    #[test]
    fn a_row_names_each_process_once_and_says_what_needs_root() {
        let expected = "\
FIFO          PART OF        OWNER  MODE     WAITING        SIZE  READERS  WRITERS
/x (deleted)  up of session  ann    0600         5 B      64 KiB  7 a\\nb   –
                                                                  8 a\\nb
/x (deleted)  up of session  ann    0600  needs root  needs root  7 a\\nb   –
                                                                  8 a\\nb";
        let text = fifo_table(&[fifo(None), fifo(Some(Unknown::Forbidden))], None);
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn of_very_many_who_hold_a_fifo_some_are_named() {
        let mut many = fifo(None);
        many.holders = (0..HOLDERS_SHOWN_MAX as u32 + 2).map(|pid| holder(pid, "x")).collect();
        many.holders_left_out = 1000;
        assert_eq!(holders(&many, |_| true), "0 x\n1 x\n2 x\n3 x\nand 1,002 more");
    }

    #[test]
    fn what_could_not_be_seen_is_said_with_what_to_do_and_only_then() {
        let mut report = Report { buses: Vec::new(), fifos: None, unseen: Unseen::default() };
        report.unseen.processes_complete = true;
        assert_eq!(gaps(&report, false), Vec::<String>::new());
        (report.unseen.processes, report.unseen.processes_unreadable) = (1200, 7);
        assert_eq!(gaps(&report, false), ["what 7 of 1,200 processes hold can't be seen; run this as root to see it"]);
        assert_eq!(gaps(&report, true), ["what 7 of 1,200 processes hold can't be seen; not even root may here"]);
        report.fifos = Some(vec![fifo(Some(Unknown::Forbidden)), fifo(None)]);
        (report.unseen.processes_complete, report.unseen.fifos_left_out) = (false, 3);
        report.unseen.brokers_without_bus = vec![77];
        let all = gaps(&report, false);
        assert_eq!(all.len(), 5, "{all:?}");
        assert!(
            all[1].contains("process id 77") && all[2].contains("in 1 of the FIFOs") && all[4].starts_with("3 more")
        );
    }
}
