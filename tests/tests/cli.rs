//! `pipebus` as a person or a script uses it.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::io::Write;
use std::process::Stdio;

use pipebus_conformance::{check, output, run_with as run, text};
use pipebus_tests::{Process, TestBus, command, wait_for};

/// Starts a subscriber and waits until it is in force.
fn subscribe(bus: &TestBus, arguments: &[&str]) -> Process {
    let before = bus.log().matches("Subscribe {").count();
    let process = Process::start(bus.cli(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()));
    wait_for("the subscription", || (bus.log().matches("Subscribe {").count() > before).then_some(()));
    process
}

#[test]
fn lines_of_a_publisher_are_json_objects_of_a_subscriber() {
    let bus = TestBus::start();
    let subscriber = subscribe(&bus, &["sub", "a/**", "--count", "3", "--format", "json"]);
    assert!(run(&mut bus.cli(&["pub", "--lines", "a/b"]), b"1\n2\n3\n").status.success());
    let output = output(subscriber);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let objects: Vec<serde_json::Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = objects.iter().map(|o| (o["topic"].as_str().unwrap(), o["payload"].as_str().unwrap())).collect();
    assert_eq!(seen, [("a/b", "1"), ("a/b", "2"), ("a/b", "3")]);
    assert_eq!(objects[0]["uid"], rustix::process::geteuid().as_raw());
}

#[test]
fn raw_is_the_payload_and_nothing_else() {
    let bus = TestBus::start();
    let all = bus.scratch().join("all");
    let mut subscribe_to = bus.cli(&["sub", "bytes", "--count", "5", "--format", "raw"]);
    let mut subscriber = Process::start(subscribe_to.stdout(std::fs::File::create(&all).unwrap()));
    wait_for("the subscription", || bus.log().contains("Subscribe {").then_some(()));
    let bytes: Vec<u8> = (0..=255).collect();
    assert!(run(&mut bus.cli(&["pub", "bytes"]), &bytes).status.success());
    let mut expected = bytes.clone();
    let file = bus.scratch().join("file");
    // An empty one, a small one, one that is lent to the pipe, and one of many fragments.
    for size in [0, 2, 100_000, 3_000_000] {
        let payload: Vec<u8> = bytes.iter().copied().cycle().take(size).collect();
        std::fs::write(&file, &payload).unwrap();
        assert!(run(&mut bus.cli(&["pub", "bytes", "--file", file.to_str().unwrap()]), b"").status.success());
        expected.extend(payload);
    }
    assert!(subscriber.wait().success());
    assert!(std::fs::read(&all).unwrap() == expected);
}

#[test]
fn a_subscriber_that_has_shown_enough_does_not_wait_for_more() {
    let bus = TestBus::start();
    for count in [1023, 1024, 1025, 2000, 5000] {
        let subscriber = subscribe(&bus, &["sub", "burst", "--format", "line", "--count", &count.to_string()]);
        assert!(run(&mut bus.cli(&["pub", "burst", "--lines"]), &b"x\n".repeat(count)).status.success());
        assert_eq!(output(subscriber).stdout.len(), 2 * count);
    }
}

#[test]
fn a_message_that_matches_two_patterns_is_shown_once() {
    let bus = TestBus::start();
    let subscriber = subscribe(&bus, &["sub", "a/*", "a/**", "--count", "2", "--format", "line"]);
    wait_for("both subscriptions", || (bus.log().matches("Subscribe {").count() == 2).then_some(()));
    assert!(run(&mut bus.cli(&["pub", "a/b", "--lines"]), b"one\ntwo\n").status.success());
    assert_eq!(text(&output(subscriber).stdout), "one\ntwo\n");
}

#[test]
fn commands_answer_requests_and_their_failures_are_failures() {
    let bus = TestBus::start();
    let _upper = subscribe(&bus, &["reply", "upper", "--", "tr", "a-z", "A-Z"]);
    let _fails = subscribe(&bus, &["reply", "fails", "--", "sh", "-c", "echo too bad >&2; exit 3"]);
    let answer = run(&mut bus.cli(&["request", "upper", "hello"]), b"");
    assert_eq!((answer.status.code(), text(&answer.stdout)), (Some(0), "HELLO".to_owned()), "{}", text(&answer.stderr));
    check(&mut bus.cli(&["request", "fails"]), 1, "too bad");
    check(&mut bus.cli(&["request", "nobody/home"]), 1, "nobody serves nobody/home");
    let _slow = subscribe(&bus, &["reply", "slow", "--", "sleep", "5"]);
    check(&mut bus.cli(&["request", "slow", "--timeout", "100ms"]), 5, "slow");
}

#[test]
fn the_bus_can_be_looked_at() {
    let bus = TestBus::start();
    let _subscriber = subscribe(&bus, &["sub", "news/*"]);
    let _server = subscribe(&bus, &["reply", "ask/me", "--", "cat"]);
    let mut publish = bus.cli(&["pub", "news/today", "--lines"]);
    let mut publisher = Process::start(publish.stdin(Stdio::piped()));
    publisher.0.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").unwrap();
    let json = |what: &str| -> serde_json::Value {
        serde_json::from_slice(&run(&mut bus.cli(&[what, "--json"]), b"").stdout).unwrap()
    };
    wait_for("two messages", || (json("status")["messages_in"].as_u64().unwrap() >= 2).then_some(()));
    let status = json("status");
    assert_eq!((&status["pid"], &status["subscriptions"]), (&bus.broker().0.id().into(), &2.into()));
    assert_eq!((&status["topics"], &status["bus"]), (&1.into(), &bus.address().into()));
    let topic = &json("topics")[0];
    assert_eq!(
        (&topic["name"], &topic["publishers"], &topic["subscribers"]),
        (&"news/today".into(), &1.into(), &1.into())
    );
    let instances = json("instances");
    let names: Vec<_> = instances.as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["pipebus sub", "pipebus reply", "pipebus pub", "pipebus instances"]);
    assert_eq!(instances[2]["pid"], publisher.0.id());
    for (what, shows) in [("status", "process"), ("instances", "news/*"), ("topics", "news/today")] {
        let shown = text(&run(&mut bus.cli(&[what]), b"").stdout);
        assert!(shown.contains(shows) && !shown.contains('\u{1b}'), "{what}: {shown}");
    }
}

#[test]
fn each_kind_of_failure_has_its_exit_code_and_says_what_to_do() {
    let bus = TestBus::start();
    check(&mut bus.cli(&["pub", "a//b", "x"]), 2, "empty segment at byte 2");
    check(&mut bus.cli(&["sub", "a/b*"]), 2, "at byte 3");
    check(&mut bus.cli(&["sub"]), 2, "PATTERN");
    check(command("pipebus").args(["--bus", "sesion", "status"]), 2, "sesion");
    check(&mut bus.cli(&["pub", "$bus/mine", "x"]), 4, "broker's own");
    check(&mut bus.cli(&["sub", "quiet", "--count", "1", "--timeout", "50ms"]), 5, "0 of 1");
    check(&mut bus.cli(&["sub", "quiet", "--timeout", "50ms"]), 0, "");
    let nowhere = TestBus::without_broker(&[]);
    check(&mut nowhere.cli(&["status"]), 3, "start one with: pipebusd --bus");
    let small = TestBus::start_with(&["limits.message_bytes_max=262144"]);
    let output = run(&mut small.cli(&["pub", "large"]), &[0; 262_145]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("at most 262144"), "{}", text(&output.stderr));
}

#[test]
fn the_demo_shows_what_it_promises_and_leaves_nothing_behind() {
    let output = run(command("pipebus").arg("demo").env("NO_COLOR", "1"), b"");
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}{}", text(&output.stderr));
    for wanted in ["[all ] machine/load", "[free] machine/memory/free", "none is lost in silence", "drop-oldest"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    let bus = shown.lines().find_map(|line| line.split("pipebusd --bus ").nth(1)).unwrap();
    assert!(!std::path::Path::new(bus).parent().unwrap().exists(), "{bus} is still there");
}

#[test]
fn the_configuration_is_checked_as_far_as_the_machine_can_tell() {
    let check_config = |arguments: &[&str], code: i32, says: &str| {
        check(command("pipebusd").args(arguments).arg("--check-config"), code, says);
    };
    check_config(&[], 0, "");
    check_config(&["--log", "a=b=c"], 2, "log.filter");
    check_config(&["--set", "door.access=group", "--set", "door.group=no-such-group"], 2, "no-such-group");
    check_config(&["--set", "queue.bytes_max=4095"], 2, "at least 4096");
}
