//! systemd restarts the broker, because it is told to or because the broker is stuck, and nobody who comes meanwhile is
//! turned away.

#![allow(clippy::unwrap_used, reason = "a failing fixture fails its test, which is its job")]

use pipebus_tests::machine::comers::Comers;
use pipebus_tests::machine::{Machine, text};
use pipebus_tests::wait_for;

/// With the first start as many as systemd allows within ten seconds, whoever asks (StartLimitBurst=).
const RESTARTS: usize = 4;

#[test]
fn nobody_who_comes_while_systemd_restarts_the_broker_is_turned_away() {
    let Some(machine) = Machine::boot() else { return };
    let (root, ann) = (machine.user("root"), machine.user("ann"));
    root.systemctl(&["start", "pipebusd.socket"]);
    ann.publish("system");
    let comers = Comers::start(ann);
    for _ in 0..RESTARTS {
        let before = root.show("MainPID");
        root.systemctl(&["restart", "pipebusd.service"]);
        assert_ne!(root.show("MainPID"), before);
        ann.deliver("system");
    }
    comers.all_were_let_in();
}

#[test]
fn a_broker_that_is_stuck_is_ended_by_the_watchdog_and_whoever_waits_reaches_the_next() {
    let Some(machine) = Machine::boot() else { return };
    let (root, ann) = (machine.user("root"), machine.user("ann"));
    machine.configure("system/pipebusd.service", "[Service]\nWatchdogSec=1s\n");
    root.systemctl(&["start", "pipebusd.socket"]);
    ann.publish("system");
    assert_eq!(root.show("WatchdogUSec"), "1s");
    let stuck = root.show("MainPID");
    machine.run(&["kill", "-STOP", &stuck]);
    // It waits for a broker that answers nothing, and is let in by another.
    ann.publish("system");
    assert_ne!(root.show("MainPID"), stuck);
    assert_eq!(root.show("NRestarts"), "1");
    wait_for("systemd to say why", || {
        let log = machine.run(&["journalctl", "--no-pager", "--unit=pipebusd.service", "--output=cat"]);
        text(&log.stdout).contains("Watchdog timeout").then_some(())
    });
}
