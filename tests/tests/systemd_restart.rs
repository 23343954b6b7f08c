//! systemd restarts the broker, because it is told to or because the broker is stuck, and nobody who comes meanwhile is
//! turned away.

#![allow(clippy::unwrap_used, reason = "a failing fixture fails its test, which is its job")]

use std::io::Read;
use std::process::Stdio;

use pipebus_tests::machine::{Machine, User, text};
use pipebus_tests::{Process, wait_for};

/// Clients that come and go at the same time.
const COMERS: usize = 4;

/// With the first start as many as systemd allows within ten seconds, whoever asks (StartLimitBurst=).
const RESTARTS: usize = 4;

/// Comes, publishes, waits until the broker has passed it on, and leaves, until a file is there; says how often.
const COME_AND_GO: &str = r#"
count=0
until [ -e "$0" ]; do
    pipebus --bus system pub comes/and/goes "$count" || exit
    count=$((count + 1))
done
echo "$count"
"#;

const ENOUGH: &str = "/tmp/enough";

/// Clients that come and go until told that it is enough. Each that was not let in ends its process with a failure.
struct Comers<'machine> {
    user: User<'machine>,
    processes: Vec<Process>,
}

impl<'machine> Comers<'machine> {
    fn start(user: User<'machine>) -> Comers<'machine> {
        let come = |_| {
            let mut come = user.command(&["sh", "-c", COME_AND_GO, ENOUGH]);
            Process::start(come.stdout(Stdio::piped()).stderr(Stdio::piped()))
        };
        Comers { user, processes: (0..COMERS).map(come).collect() }
    }

    /// Tells them, and that none was turned away.
    fn all_were_let_in(self) {
        self.user.machine.run(&["touch", ENOUGH]);
        for mut process in self.processes {
            let status = process.wait();
            let (mut count, mut errors) = (String::new(), String::new());
            process.0.stdout.take().unwrap().read_to_string(&mut count).unwrap();
            process.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            assert!(status.success(), "{status} after {count:?}: {errors}");
            assert!(count.trim().parse::<u32>().unwrap() > 0);
        }
    }
}

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
