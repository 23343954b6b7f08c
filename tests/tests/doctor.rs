//! `pipebus doctor`: it finds what is wrong, says what mends it, and is content with what is good.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use pipebus_tests::raw::make_fifo;
use pipebus_tests::{EVERYONE, OTHER_UID, TestBus, as_user, can_change_user, open, wait_for};
use rustix::fs::OFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;

/// A group that every Linux system has, and that is not this user's.
const GROUP: &str = "daemon";
const GROUP_ID: u32 = 1;

/// So that any system has enough file descriptors.
const FEW: &str = "limits.instances_max=100";

/// What it says, by check, and its exit code.
fn examine(doctor: &mut Command) -> (i32, Value) {
    let output = doctor.arg("--json").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().unwrap(), report)
}

fn doctor(bus: &TestBus) -> (i32, Value) {
    examine(&mut bus.cli(&["doctor"]))
}

fn of<'report>(report: &'report Value, check: &str) -> &'report Value {
    let all = report["checks"].as_array().unwrap();
    all.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("{check}: {report}"))
}

/// Fails unless the check says so, with what mends it, and the exit code tells of problems.
#[track_caller]
fn check((code, report): (i32, Value), check: &str, level: &str, says: &str, mend: &str) {
    let finding = of(&report, check);
    assert_eq!(finding["level"], level, "{finding}");
    assert!(finding["what"].as_str().unwrap().contains(says), "{finding}");
    assert!(finding["mend"].as_str().unwrap_or_default().contains(mend), "{finding}");
    assert_eq!(code, i32::from(report["problems"].as_u64().unwrap() > 0), "{report}");
    assert!(level != "problem" || code == 1, "{report}");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What nothing on the machine but the bus decides.
const OF_THE_BUS: [&str; 14] = [
    "directory",
    "trust",
    "door",
    "instances",
    "permissions",
    "listener",
    "connection",
    "lock",
    "process",
    "versions",
    "configuration",
    "leftovers",
    "losses",
    "rights",
];

#[test]
fn nothing_is_wrong_with_a_good_bus() {
    let bus = TestBus::start_with(&[FEW]);
    // On a busy machine, connecting takes its time once in a while.
    let report = wait_for("a bus without a fault", || {
        let (code, report) = doctor(&bus);
        assert_eq!((code, &report["problems"]), (0, &0.into()), "{report}");
        (of(&report, "connection")["level"] == "ok").then_some(report)
    });
    for check in OF_THE_BUS {
        assert_eq!(of(&report, check)["level"], "ok", "{}", of(&report, check));
    }
    assert_eq!(report["path"], bus.address());
    let output = bus.cli(&["doctor"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), output.stderr.is_empty()), (Some(0), true));
    assert_eq!(shown.lines().count(), report["checks"].as_array().unwrap().len(), "a line for each check: {shown}");
    assert!(shown.starts_with("ok ") && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn a_bus_without_a_broker_is_told_with_how_to_start_one() {
    let mut bus = TestBus::without_broker(&[]);
    let start = format!("pipebusd --bus {}", bus.address());
    check(doctor(&bus), "directory", "problem", "no such directory", &start);
    bus.start_broker();
    bus.kill_broker();
    check(doctor(&bus), "listener", "problem", "nobody listens", &start);
    check(doctor(&bus), "connection", "problem", "no broker answers", &start);
    check(doctor(&bus), "lock", "warning", "left behind", &start);
    // As systemd does, but with no broker to come.
    let _door = open(&bus.place().door(), OFlags::RDWR).unwrap();
    check(doctor(&bus), "listener", "problem", "no broker comes", "status pipebusd.service");
}

#[test]
fn what_mends_a_wrong_mode_does_mend_it() {
    let bus = TestBus::start();
    for (path, wrong, name, says) in [
        (bus.place().instances(), 0o755, "instances", "and not 3733"),
        (bus.place().instances(), 0o777, "instances", "and not 3733"),
        (bus.place().door(), 0o644, "door", "others can read it"),
        (bus.place().door(), 0o400, "door", "can't read and write"),
    ] {
        set_mode(&path, wrong);
        let (code, report) = doctor(&bus);
        check((code, report.clone()), name, "problem", says, "chmod ");
        let mend = of(&report, name)["mend"].as_str().unwrap();
        assert!(Command::new("sh").args(["-c", mend]).status().unwrap().success(), "{mend}");
        let (_, report) = doctor(&bus);
        assert_eq!(of(&report, name)["level"], "ok", "{report}");
    }
    set_mode(bus.place().path(), 0o777);
    check(doctor(&bus), "trust", "problem", "can be written by others", "chmod go-w");
}

#[test]
fn who_is_not_in_the_group_of_the_door_is_told_so() {
    if !can_change_user() {
        return;
    }
    let group = format!("door.group={GROUP}");
    let bus = TestBus::start_with(&[EVERYONE[1], "door.access=group", &group]);
    let stranger = examine(as_user(&mut bus.cli(&["doctor"]), OTHER_UID));
    check(stranger, "permissions", "problem", &format!("is for group {GROUP}"), &format!("usermod -aG {GROUP}"));
    let member = examine(bus.cli(&["doctor"]).uid(OTHER_UID).gid(GROUP_ID));
    check(member.clone(), "permissions", "ok", "let", "");
    check(member.clone(), "versions", "unknown", "only administrators", "");
    check(member, "rights", "ok", "may publish (topics that no rule names), may subscribe", "");
    let (_, status) = examine(&mut bus.cli(&["status"]));
    let counts = (&status["topics"], &status["messages_in"], &status["messages_out"]);
    assert_eq!(counts, (&0.into(), &1.into(), &0.into()), "nothing but this question was sent: {status}");
    let closed = TestBus::start();
    let stranger = examine(as_user(&mut closed.cli(&["doctor"]), OTHER_UID));
    check(stranger, "door", "problem", "may not see it", "ask");
}

#[test]
fn who_may_do_nothing_is_told_so() {
    if !can_change_user() {
        return;
    }
    let rules = "policy.rules=[{who=['owner'],allow=['all']},{who=['any'],allow=['connect']}]";
    let bus = TestBus::start_with(&["door.access=everyone", rules]);
    let stranger = examine(as_user(&mut bus.cli(&["doctor"]), OTHER_UID));
    check(stranger, "rights", "warning", "may not publish", "pipebus policy check --user");
}

#[test]
fn fifos_that_were_left_behind_are_counted() {
    let mut bus = TestBus::start();
    let left = bus.place().instances().join("0123456789abcdef0123456789abcdef.up");
    bus.kill_broker();
    make_fifo(&left, 0o640);
    check(doctor(&bus), "leftovers", "warning", "1 FIFO", "find ");
    if can_change_user() {
        let stranger = examine(as_user(&mut bus.cli(&["doctor"]), OTHER_UID));
        assert!(!stranger.1.to_string().contains("leftovers"), "who may not even see the directory: {}", stranger.1);
    }
}

#[test]
fn a_broker_with_few_file_descriptors_is_told_before_it_runs_out() {
    let bus = TestBus::start_with(&[FEW]);
    let pid = Pid::from_raw(i32::try_from(bus.broker().0.id()).unwrap()).unwrap();
    let allow = |descriptors| {
        let limit = Rlimit { current: Some(descriptors), maximum: Some(descriptors) };
        prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    };
    let mend = format!("prlimit --pid {} --nofile=", bus.broker().0.id());
    allow(263);
    check(doctor(&bus), "broker-files", "warning", "limits.instances_max = 100 needs 264", &mend);
    allow(64);
    check(doctor(&bus), "broker-files", "problem", "of 64 file descriptors", &mend);
}

#[test]
fn a_broker_that_is_stopped_is_told_and_waited_for_no_longer_than_need_be() {
    let bus = TestBus::start();
    bus.broker().signal(Signal::STOP);
    let begun = tokio::time::Instant::now();
    let told = doctor(&bus);
    assert!(begun.elapsed() < pipebus_tests::DEADLINE / 2, "{:?}", begun.elapsed());
    bus.broker().signal(Signal::CONT);
    check(told.clone(), "process", "problem", "stopped", &format!("kill -CONT {}", bus.broker().0.id()));
    check(told, "connection", "problem", "took longer", "");
}

#[test]
fn a_configuration_that_has_become_wrong_is_told_while_the_broker_still_runs() {
    let bus = TestBus::start_with_file("[limits]\ninstances_max = 100\n");
    let file = bus.scratch().join("pipebus.toml");
    check(doctor(&bus), "configuration", "ok", "valid", "");
    fs::write(&file, "[limits]\ninstances_maximum = 100\n").unwrap();
    check(doctor(&bus), "configuration", "problem", "instances_maximum", &file.display().to_string());
}
