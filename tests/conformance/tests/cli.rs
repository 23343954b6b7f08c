//! `pipebus` and `pipebusd` as a person or a script uses them, on every system.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::io::Write;
use std::process::Stdio;

use pipebus_conformance::{Bus, Process, check, command, output, run, run_with, text, wait_for};

/// Starts something that subscribes, and waits until that is in force.
fn start(bus: &Bus, arguments: &[&str]) -> Process {
    let before = bus.log().matches("Subscribe {").count();
    let process = Process::start(bus.cli(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()));
    wait_for("the subscription", || (bus.log().matches("Subscribe {").count() > before).then_some(()));
    process
}

fn json(bus: &Bus, what: &str) -> serde_json::Value {
    let output = run(&mut bus.cli(&[what, "--json"]));
    assert!(output.status.success(), "{what}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_is_published_is_shown_and_the_status_tells_of_it() {
    let bus = Bus::start();
    let subscriber = start(&bus, &["sub", "a/**", "--count", "3", "--format", "json"]);
    assert!(run_with(&mut bus.cli(&["pub", "--lines", "a/b"]), b"1\n2\n3\n").status.success());
    let output = output(subscriber);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let objects: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = objects.iter().map(|o| (o["topic"].as_str().unwrap(), o["payload"].as_str().unwrap())).collect();
    assert_eq!(seen, [("a/b", "1"), ("a/b", "2"), ("a/b", "3")]);
    let status = json(&bus, "status");
    assert_eq!(status["bus"], bus.address());
    // The question is a message, too.
    assert_eq!(status["messages_in"], 4);
    let shown = text(&run(&mut bus.cli(&["status"])).stdout);
    assert!(shown.contains(bus.address()) && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn bytes_of_a_file_arrive_as_they_were() {
    let bus = Bus::start();
    let (file, all) = (bus.scratch().join("file"), bus.scratch().join("all"));
    let payload: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    std::fs::write(&file, &payload).unwrap();
    let mut subscribe = bus.cli(&["sub", "bytes", "--count", "1", "--format", "raw"]);
    let mut subscriber = Process::start(subscribe.stdout(std::fs::File::create(&all).unwrap()));
    wait_for("the subscription", || bus.log().contains("Subscribe {").then_some(()));
    assert!(run(&mut bus.cli(&["pub", "bytes", "--file", file.to_str().unwrap()])).status.success());
    assert!(subscriber.wait().success());
    assert!(std::fs::read(&all).unwrap() == payload);
}

#[test]
fn the_bus_can_be_looked_at() {
    let bus = Bus::start();
    let subscriber = start(&bus, &["sub", "news/*"]);
    let mut publisher = Process::start(bus.cli(&["pub", "news/today", "--lines"]).stdin(Stdio::piped()));
    publisher.0.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").unwrap();
    wait_for("two messages", || (json(&bus, "status")["messages_in"].as_u64().unwrap() >= 2).then_some(()));
    assert_eq!(json(&bus, "topics")[0]["name"], "news/today");
    let instances = json(&bus, "instances");
    let names: Vec<_> = instances.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["pipebus sub", "pipebus pub", "pipebus instances"]);
    assert_eq!(json(&bus, "subscriptions")[0]["pattern"], "news/*");
    for (what, shows) in [("instances", "pipebus sub"), ("topics", "news/today"), ("users", "instances")] {
        let shown = text(&run(&mut bus.cli(&[what])).stdout).to_lowercase();
        assert!(shown.contains(shows), "{what}: {shown}");
    }
    let metrics = text(&run(&mut bus.cli(&["metrics"])).stdout);
    assert!(metrics.contains("pipebus_instances") && metrics.contains("process_resident_memory_bytes"), "{metrics}");
    let id = instances[0]["id"].to_string();
    assert!(run(&mut bus.cli(&["disconnect", &id, "--reason", "a story"])).status.success());
    let ended = output(subscriber);
    assert!(!ended.status.success() && text(&ended.stderr).contains("a story"), "{}", text(&ended.stderr));
}

#[test]
fn what_passes_can_be_watched_and_captured() {
    let bus = Bus::start();
    let file = bus.scratch().join("capture.pcapng");
    let shown = start(&bus, &["monitor", "seen", "--count", "1", "--json"]);
    let captured = start(&bus, &["monitor", "seen", "--count", "1", "--pcapng", file.to_str().unwrap()]);
    assert!(run(&mut bus.cli(&["pub", "seen", "hello"])).status.success());
    let shown = output(shown);
    assert!(text(&shown.stdout).contains(r#""topic":"seen""#), "{} {}", text(&shown.stdout), text(&shown.stderr));
    assert!(output(captured).status.success());
    assert!(std::fs::read(&file).unwrap().windows(5).any(|bytes| bytes == b"hello"));
}

#[test]
fn a_broker_can_be_drained_and_its_log_turned_up() {
    let bus = Bus::start();
    assert!(run(&mut bus.cli(&["log", "warn"])).status.success());
    assert!(run(&mut bus.cli(&["drain", "--timeout", "10s"])).status.success());
    check(&mut bus.cli(&["status"]), 3, "no broker serves the bus");
}

#[test]
fn each_kind_of_failure_has_its_exit_code_and_says_what_to_do() {
    let bus = Bus::without_broker(&[]);
    check(&mut bus.cli(&["pub", "a", "b"]), 3, "start one with: pipebusd --bus");
    check(command("pipebus").args(["--bus", "sesion", "status"]), 2, "say system, session");
    check(command("pipebusd").args(["--bus", "sesion"]), 2, "say system, session");
    let bus = Bus::start();
    check(&mut bus.cli(&["request", "nobody/home"]), 1, "nobody serves nobody/home");
    check(bus.broker_command().stderr(Stdio::piped()), 4, bus.address());
    let with = |setting: &str| {
        let mut broker = command("pipebusd");
        broker.args(["--bus", Bus::without_broker(&[]).address(), "--set", setting]);
        broker
    };
    check(with("door.access=group").args(["--set", "door.group=no-such-group"]), 2, "no-such-group");
    check(&mut with("policy.rules=[{who=['user:no-such-user'],allow=['all']}]"), 2, "no-such-user");
    check(&mut with("door.colour=blue"), 2, "colour");
}

#[test]
fn scan_and_doctor_find_the_bus() {
    let bus = Bus::start();
    let scanned = run(&mut bus.cli(&["scan", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&scanned.stdout).unwrap();
    let buses = report["buses"].as_array().unwrap();
    let found = buses.iter().find(|one| one["path"] == bus.address());
    let found = found.unwrap_or_else(|| panic!("{}", text(&scanned.stdout)));
    assert_eq!(found["state"], "alive", "{found}");
    let checked = run(&mut bus.cli(&["doctor", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(report["problems"], 0, "{report:#}");
    let none = Bus::without_broker(&[]);
    let checked = run(&mut none.cli(&["doctor"]));
    assert!(!checked.status.success() && text(&checked.stdout).contains("no broker"), "{}", text(&checked.stdout));
}

#[test]
fn the_demo_shows_what_it_promises() {
    let shown = run(command("pipebus").args(["demo"]));
    assert!(shown.status.success(), "{}", text(&shown.stderr));
}
