//! The units in `systemd/`, as shipped, under a real systemd: it holds the door, and a knock starts the broker.
//!
//! Where this is root, a whole machine is booted for it in namespaces of its own: see [`Machine`].

#![allow(clippy::unwrap_used, reason = "a failing fixture fails its test, which is its job")]

use std::fs;
use std::path::Path;
use std::process::Command;

use pipebus_tests::machine::{Machine, User, has, repository, run, sorted_lines, succeed, text};
use pipebus_tests::{Process, binary, wait_for};

/// What `systemd-analyze security` may find at most, from 0 (safe) to 10.
const EXPOSURE_MAX: f64 = 0.5;

const UNITS: [&str; 2] = ["pipebusd.service", "pipebusd.socket"];

#[test]
fn the_units_are_well_formed() {
    if !has(&["systemd-analyze"]) {
        return;
    }
    for (folder, manager) in [("systemd", "--system"), ("systemd/user", "--user")] {
        let copies = tempfile::tempdir().unwrap();
        let paths = UNITS.map(|unit| copies.path().join(unit));
        for (unit, path) in UNITS.iter().zip(&paths) {
            let text = fs::read_to_string(repository().join(folder).join(unit)).unwrap();
            fs::write(path, text.replace("/usr/bin/pipebusd", binary("pipebusd").to_str().unwrap())).unwrap();
        }
        let mut verify = Command::new("systemd-analyze");
        verify.args([manager, "verify", "--man=no"]).args(&paths).env("XDG_RUNTIME_DIR", copies.path());
        let output = run(&mut verify);
        assert!(output.status.success() && output.stderr.is_empty(), "{folder}: {output:?}");
    }
}

#[test]
fn the_broker_of_the_system_bus_can_do_little_harm() {
    if !has(&["systemd-analyze"]) {
        return;
    }
    let unit = repository().join("systemd/pipebusd.service");
    let output = run(Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(unit));
    let report = text(&output.stdout);
    let exposure = report.split("Overall exposure level for pipebusd.service:").nth(1).unwrap();
    let exposure: f64 = exposure.split_whitespace().next().unwrap().parse().unwrap();
    eprintln!("exposure {exposure}");
    assert!(exposure <= EXPOSURE_MAX, "{report}");
}

#[test]
fn a_knock_starts_the_session_broker_again_and_again() {
    let Some(machine) = Machine::boot() else { return };
    let user = machine.user_manager("ann");
    user.systemctl(&["start", "pipebusd.socket"]);
    assert_eq!(user.show("ActiveState"), "inactive");

    user.publish("session");
    assert_eq!((user.show("ActiveState"), user.show("NotifyAccess")), ("active".into(), "main".into()));
    let first = user.show("MainPID");
    user.deliver("session");
    let fed = user.show("WatchdogTimestampMonotonic");
    wait_for("the watchdog to be fed", || (user.show("WatchdogTimestampMonotonic") != fed).then_some(()));

    user.systemctl(&["stop", "pipebusd.service"]);
    assert_eq!((user.show("ActiveState"), user.show("Result")), ("inactive".into(), "success".into()));
    let left = machine.run(&["find", "/run/user/ann/pipebus", "-printf", "%f %m\n"]);
    assert_eq!(sorted_lines(&left.stdout), ["bus 600", "instances 3733", "pipebus 700"]);
    user.publish("session");
    assert_eq!(user.show("ActiveState"), "active");
    assert_ne!(user.show("MainPID"), first);

    user.systemctl(&["stop", "pipebusd.socket"]);
    assert_eq!((user.show("ActiveState"), user.show("Result")), ("inactive".into(), "success".into()));
    assert!(!user.pipebus(&["--bus", "session", "pub", "a", "b"]).status.success());
}

#[test]
fn the_system_bus_is_for_its_group_and_comes_back() {
    let Some(machine) = Machine::boot() else { return };
    let (root, ann, bob) = (machine.user("root"), machine.user("ann"), machine.user("bob"));
    root.systemctl(&["start", "pipebusd.socket"]);
    let door = machine.run(&["stat", "-c", "%U %G %a", "/run/pipebus/bus", "/run/pipebus/instances"]);
    assert_eq!(text(&door.stdout), "pipebus pipebus-users 620\npipebus pipebus 3733\n");

    // Not in the group: no entry, and no broker started by the attempt.
    let refused = bob.pipebus(&["--bus", "system", "pub", "a", "b"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("permission"), "{refused:?}");
    assert_eq!(root.show("ActiveState"), "inactive");

    ann.publish("system");
    assert_eq!((root.show("ActiveState"), root.show("WatchdogUSec")), ("active".into(), "30s".into()));
    let broker = machine.run(&["stat", "-c", "%U", &format!("/proc/{}", root.show("MainPID"))]);
    assert_eq!(text(&broker.stdout), "pipebus\n");
    ann.deliver("system");
    assert_broker_sees(&machine, &ann);
    let log = machine.run(&["journalctl", "--no-pager", "--unit=pipebusd.service", "--output=cat"]);
    assert!(text(&log.stdout).contains("listening"), "{log:?}");

    let pid = root.show("MainPID");
    root.systemctl(&["reload", "pipebusd.service"]);
    wait_for("the policy to be read anew", || {
        let log = machine.run(&["journalctl", "--no-pager", "--unit=pipebusd.service", "--output=cat"]);
        text(&log.stdout).contains("are read anew").then_some(())
    });
    assert_eq!(root.show("MainPID"), pid);
    ann.deliver("system");

    // A broker that dies is started again at once, one that is stopped at the next knock, both when the door is.
    let killed = root.show("MainPID");
    root.systemctl(&["kill", "--signal=KILL", "pipebusd.service"]);
    wait_for("another broker", || {
        (root.show("ActiveState") == "active" && root.show("MainPID") != killed).then_some(())
    });
    ann.publish("system");
    root.systemctl(&["stop", "pipebusd.service"]);
    ann.publish("system");
    root.systemctl(&["restart", "pipebusd.socket"]);
    ann.publish("system");

    root.systemctl(&["stop", "pipebusd.socket"]);
    assert_eq!((root.show("ActiveState"), root.show("Result")), ("inactive".into(), "success".into()));
    let left = machine.run(&["find", "/run/pipebus", "-printf", "%f %u %g %m\n"]);
    assert_eq!(sorted_lines(&left.stdout), ["instances pipebus pipebus 3733", "pipebus pipebus pipebus 755"]);
}

#[test]
fn a_drained_broker_has_ended_well_and_the_next_knock_starts_another() {
    let Some(machine) = Machine::boot() else { return };
    let user = machine.user_manager("ann");
    user.systemctl(&["start", "pipebusd.socket"]);
    user.publish("session");
    let first = user.show("MainPID");
    user.systemctl(&["reload", "pipebusd.service"]);
    wait_for("the reload to be over", || (user.show("ActiveState") == "active").then_some(()));
    assert_eq!(user.show("MainPID"), first);

    succeed(&user.pipebus(&["--bus", "session", "drain", "--wait"]));
    wait_for("systemd to see it", || (user.show("ActiveState") == "inactive").then_some(()));
    assert_eq!((user.show("Result"), user.show("NRestarts")), ("success".into(), "0".into()));
    user.publish("session");
    assert_eq!(user.show("ActiveState"), "active");
    assert_ne!(user.show("MainPID"), first);
}

#[test]
fn a_broker_whose_door_was_removed_says_so_and_a_new_door_brings_the_bus_back() {
    let Some(machine) = Machine::boot() else { return };
    let (root, ann) = (machine.user("root"), machine.user("ann"));
    root.systemctl(&["start", "pipebusd.socket"]);
    ann.publish("system");
    machine.run(&["rm", "/run/pipebus/bus"]);
    wait_for("the broker to end", || (root.show("ExecMainStatus") == "1").then_some(()));
    let log = machine.run(&["journalctl", "--no-pager", "--unit=pipebusd.service", "--output=cat"]);
    assert!(text(&log.stdout).contains("it is not this broker's to make"), "{log:?}");
    // Without a door it can't be started; systemd gives up after a few times.
    wait_for("systemd to give up", || (root.show("ActiveState") == "failed").then_some(()));
    root.systemctl(&["reset-failed", "pipebusd.service"]);
    root.systemctl(&["restart", "pipebusd.socket"]);
    ann.publish("system");
    ann.deliver("system");
}

#[test]
fn a_scan_starts_no_broker_and_doctor_sees_what_systemd_does() {
    let Some(machine) = Machine::boot() else { return };
    let (root, ann, bob) = (machine.user("root"), machine.user("ann"), machine.user("bob"));
    let state = |user: &User<'_>| {
        let report: serde_json::Value = serde_json::from_slice(&user.pipebus(&["scan", "--json"]).stdout).unwrap();
        let buses = report["buses"].as_array().unwrap().clone();
        let system = buses.iter().find(|bus| bus["address"] == "system").map(|bus| bus["state"].clone());
        system.and_then(|state| state.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let finding = |user: &User<'_>, check: &str| {
        let output = user.pipebus(&["doctor", "--bus", "system", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = report["checks"].as_array().unwrap().iter().find(|finding| finding["check"] == check).cloned();
        let found = found.unwrap_or_else(|| panic!("{check}: {report}"));
        ["level", "what", "mend"].map(|key| found[key].as_str().unwrap_or_default().to_owned())
    };
    let [level, _, mend] = finding(&root, "socket");
    assert_eq!((level.as_str(), mend.as_str()), ("problem", "systemctl start pipebusd.socket"));

    root.systemctl(&["start", "pipebusd.socket"]);
    assert_eq!([state(&root), state(&ann)], ["held", "held"]);
    assert_eq!(root.show("ActiveState"), "inactive", "it was not knocked on");
    let [level, what, _] = finding(&bob, "permissions");
    assert_eq!((level.as_str(), what.as_str()), ("problem", "is for group pipebus-users, in which bob is not"));
    assert_eq!(root.show("ActiveState"), "inactive");
    let [level, what, _] = finding(&ann, "connection");
    assert_eq!((level.as_str(), root.show("ActiveState").as_str()), ("ok", "active"), "a knock starts it: {what}");
    assert_eq!([state(&root), state(&ann), state(&bob)], ["alive", "alive", "alive"]);
    assert_eq!(finding(&root, "configuration")[0], "ok");
    assert_eq!(finding(&root, "socket")[0], "warning", "it is not enabled");

    // Without its door it can't be started again, and systemd gives up.
    machine.run(&["rm", "/run/pipebus/bus"]);
    wait_for("systemd to give up", || (root.show("ActiveState") == "failed").then_some(()));
    assert_eq!(finding(&root, "door")[0], "problem");
    let [level, _, mend] = finding(&root, "service");
    assert!(level == "problem" && mend.contains("journalctl -e -u pipebusd.service"), "{mend}");
    let mend = mend.split("; ").next().unwrap();
    succeed(&run(&mut root.command(&["sh", "-c", mend])));
    ann.publish("system");
    assert_eq!([&finding(&root, "service")[0], &finding(&root, "door")[0]], ["ok", "ok"]);
}

#[test]
fn the_system_broker_writes_its_metrics_where_a_drop_in_lets_it() {
    let Some(machine) = Machine::boot() else { return };
    let root = machine.user("root");
    let document = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let lines = document.lines().skip_while(|line| line.trim() != "[Service]").take_while(|line| !line.is_empty());
    let drop_in: Vec<&str> = lines.map(str::trim).collect();
    let file = drop_in.iter().find_map(|line| line.strip_prefix("Environment=PIPEBUSD__METRICS__FILE=")).unwrap();
    let folder = Path::new(file).parent().unwrap().to_str().unwrap();
    succeed(&machine.run(&["install", "-d", "-o", "pipebus", folder]));
    let start = |drop_in: &[&str]| {
        let script = "mkdir -p /etc/systemd/system/pipebusd.service.d && \
                      printf '%s\\n' \"$@\" > /etc/systemd/system/pipebusd.service.d/metrics.conf";
        succeed(&machine.run(&[&["sh", "-c", script, "sh"], drop_in].concat()));
        root.systemctl(&["daemon-reload"]);
        root.systemctl(&["restart", "pipebusd.socket"]);
        root.publish("system");
    };

    // Without the path it may not, and says so; nothing else suffers.
    let without: Vec<&str> = drop_in.iter().copied().filter(|line| !line.starts_with("ReadWritePaths=")).collect();
    assert!(without.len() < drop_in.len());
    start(&without);
    wait_for("the broker to say so", || {
        let log = machine.run(&["journalctl", "--no-pager", "--unit=pipebusd.service", "--output=cat"]);
        text(&log.stdout).contains("the metrics can't be written").then_some(())
    });
    root.deliver("system");

    start(&drop_in);
    let stat = wait_for("the file", || {
        let stat = machine.run(&["stat", "-c", "%U %a", file]);
        stat.status.success().then(|| text(&stat.stdout))
    });
    assert_eq!(stat, "pipebus 644\n");
    root.systemctl(&["stop", "pipebusd.socket"]);
    assert_eq!(text(&machine.run(&["find", folder, "-type", "f"]).stdout), "", "it is left behind");
}

/// Sandboxed as it is, the broker must see who a client really is.
fn assert_broker_sees(machine: &Machine, user: &User<'_>) {
    let uid = text(&machine.run(&["id", "-u", user.name]).stdout).trim().parse::<u32>().unwrap();
    let subscribe = ["pipebus", "--bus", "system", "sub", "nothing", "--timeout", "60s"];
    let _subscriber = Process::start(&mut user.command(&subscribe));
    wait_for("the client's identity", || {
        let instances = machine.user("root").pipebus(&["--bus", "system", "instances", "--json"]);
        let instances: serde_json::Value = serde_json::from_slice(&instances.stdout).unwrap();
        let known =
            |instance: &serde_json::Value| instance["identity"]["unix"]["uid"] == uid && instance["pid"].is_u64();
        instances.as_array().unwrap().iter().any(known).then_some(())
    });
}
