//! `pipebus bench` counts truly and leaves nothing behind. No story here asserts a speed.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use pipebus_proto::admin::{STATUS, Status};
use pipebus_tests::{DEADLINE, Process, TestBus, command, wait_for};
use rustix::process::Signal;
use serde_json::Value;

/// Every report has these.
const KEYS: [&str; 14] = [
    "work",
    "seconds",
    "messages_per_s",
    "bytes_per_s",
    "lost",
    "broker_cpu_us_per_message",
    "p50_us",
    "p99_us",
    "p999_us",
    "max_us",
    "published",
    "received",
    "yardstick",
    "ratio",
];

/// What a measurement says, which is to be a success.
fn report(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    // Not a terminal: nobody sees progress.
    assert_eq!(stderr, "", "{command:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in KEYS {
        assert!(report.get(key).is_some(), "{key} is missing in {report}");
    }
    assert_eq!(report["lost"], 0, "{report}");
    report
}

/// A measurement on a broker of its own, in a temporary directory in which nothing is left.
fn report_of(arguments: &[&str]) -> Value {
    let place = tempfile::tempdir().unwrap();
    let report = report(command("pipebus").env("TMPDIR", place.path()).arg("bench").args(arguments));
    check_nothing_is_left(place.path());
    report
}

fn check_nothing_is_left(place: &Path) {
    // One that was killed is gone when its parent, which may have ended before, is told.
    wait_for("the end of all processes", || processes(place).is_empty().then_some(()));
    let left: Vec<_> = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The command lines of all processes that were told this path.
fn processes(place: &Path) -> Vec<String> {
    let command_line = |entry: std::io::Result<fs::DirEntry>| fs::read(entry.ok()?.path().join("cmdline")).ok();
    let all = fs::read_dir("/proc").unwrap().filter_map(command_line);
    let all = all.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    all.filter(|line| line.contains(place.to_str().unwrap())).collect()
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("{key} is no count in {report}"))
}

/// That speeds are there; what they are is the machine's matter.
fn check_rates(report: &Value) {
    for key in ["messages_per_s", "bytes_per_s", "broker_cpu_us_per_message"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }
}

fn check_latencies(report: &Value) {
    let all = ["p50_us", "p99_us", "p999_us", "max_us"].map(|key| report[key].as_f64().unwrap());
    assert!(all[0] > 0.0 && all.is_sorted(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_what_the_broker_counts() {
    /// The bench and this story ask the broker a few times, and requests count as well.
    const ASKED: u64 = 4;
    let bus = TestBus::start();
    let client = bus.client().await;
    let status = async || client.request(STATUS, "", DEADLINE).await.unwrap().json::<Status>().unwrap();
    for (work, subscribers) in [(&["throughput"][..], 1), (&["mesh", "--publishers", "2", "--subscribers", "3"], 3)] {
        let before = status().await;
        let report = report(bus.cli(&["bench"]).args(work).args(["--seconds", "0.5"]));
        let after = status().await;
        check_rates(&report);
        let (published, received) = (number(&report, "published"), number(&report, "received"));
        assert!(published > 0 && received == subscribers * published, "{report}");
        let got = after.messages_in - before.messages_in;
        assert!((published..=published + ASKED).contains(&got), "the broker got {got}: {report}");
        let sent = after.messages_out - before.messages_out;
        assert!((received..=received + ASKED).contains(&sent), "the broker sent {sent}: {report}");
    }
}

#[test]
fn a_bus_in_the_environment_is_left_alone() {
    let bus = TestBus::start();
    let arguments = ["bench", "throughput", "--seconds", "0.1"];
    let report = report(command("pipebus").env("PIPEBUS_BUS", bus.address()).args(arguments));
    assert!(number(&report, "published") > 0);
    assert!(!bus.log().contains("pipebus bench"), "{}", bus.log());
}

#[test]
fn throughput_is_compared_with_either_relay() {
    for more in [&["--size", "40000"][..], &["--relay", "splice", "--feed", "vmsplice"], &["--size", "0"]] {
        let report = report_of(&[&["throughput", "--seconds", "0.2", "--yardstick"], more].concat());
        let yardstick = &report["yardstick"];
        assert_eq!((&report["publishers"], &report["subscribers"]), (&1.into(), &1.into()));
        assert!(yardstick["messages_per_s"].as_f64().unwrap() > 0.0, "{report}");
        assert_eq!(yardstick["lost"], 0, "{report}");
        assert!(report["ratio"].as_f64().unwrap() > 0.0, "{report}");
    }
}

#[test]
fn rounds_are_put_together() {
    let report = report_of(&["throughput", "--seconds", "0.1", "--rounds", "3", "--idle-instances", "5"]);
    check_rates(&report);
    assert_eq!((&report["rounds"], &report["yardstick"], &report["ratio"]), (&3.into(), &Value::Null, &Value::Null));
}

#[test]
fn many_to_many_is_compared_with_a_relay() {
    for (work, publishers, relay) in [("fanout", 1, "splice"), ("fanout", 1, "copy"), ("mesh", 8, "copy")] {
        let report = report_of(&[work, "--seconds", "0.2", "--yardstick", "--relay", relay]);
        check_rates(&report);
        check_rates(&report["yardstick"]);
        assert_eq!((&report["publishers"], &report["subscribers"]), (&publishers.into(), &8.into()));
        for side in [&report, &report["yardstick"]] {
            assert_eq!(number(side, "received"), 8 * number(side, "published"), "{report}");
            assert_eq!(side["lost"], 0, "{report}");
        }
    }
}

#[test]
fn latency_is_measured_there_and_back_and_one_way() {
    for more in [&[][..], &["--rate", "2000"], &["--rate", "2000", "--size", "0"]] {
        let report = report_of(&[&["latency", "--seconds", "0.3", "--yardstick"], more].concat());
        check_latencies(&report);
        check_latencies(&report["yardstick"]);
        let ratio = report["p50_us"].as_f64().unwrap() / report["yardstick"]["p50_us"].as_f64().unwrap();
        assert!((report["ratio"].as_f64().unwrap() - ratio).abs() < 1e-9, "{report}");
        assert_eq!(report["published"], report["received"]);
    }
}

#[test]
fn idle_instances_are_connected_and_counted() {
    let report = report_of(&["idle", "--instances", "50", "--seconds", "0.1"]);
    assert_eq!(number(&report, "instances"), 50);
    assert!(number(&report, "broker_bytes_after") > 0, "{report}");
    for key in ["broker_bytes_per_instance", "broker_cpu_percent", "connect_seconds"] {
        assert!(report[key].as_f64().unwrap() >= 0.0, "{key}: {report}");
    }
}

#[test]
fn a_soak_ends_with_what_it_began_with() {
    let report = report_of(&["soak", "--minutes", "0.05"]);
    for key in ["clients", "published", "received", "killed"] {
        assert!(number(&report, key) > 0, "{key}: {report}");
    }
    for key in ["files", "instances", "topics", "subscriptions", "queued_bytes"] {
        assert_eq!(report["before"][key], report["after"][key], "{key}: {report}");
    }
    assert!(number(&report["most"], "instances") > number(&report["after"], "instances"), "{report}");
    assert_eq!(report["leaks"], serde_json::json!([]));
}

#[test]
fn all_means_are_shown_side_by_side() {
    let place = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let mut command = command("pipebus");
        let output =
            command.env("TMPDIR", place.path()).args(["bench", "ipc", "--seconds", "0.01"]).args(more).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        check_nothing_is_left(place.path());
        String::from_utf8(output.stdout).unwrap()
    };
    let report: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    let cells = report["cells"].as_array().unwrap();
    assert_eq!((&report["work"], cells.len()), (&"ipc".into(), 4 * 5));
    for (means, trips) in [("fifo", true), ("unix_socket", true), ("tcp_loopback", true), ("file", false)] {
        let of_means: Vec<_> = cells.iter().filter(|cell| cell["means"] == means).collect();
        let sizes: Vec<_> = of_means.iter().map(|cell| number(cell, "size")).collect();
        assert_eq!(sizes, [64, 1 << 10, 16 << 10, 64 << 10, 1 << 20], "{report}");
        assert!(
            of_means.iter().all(|cell| cell["bytes_per_s"].is_f64() && cell["messages_per_s"].is_f64()),
            "{report}"
        );
        assert!(trips || of_means.iter().all(|cell| cell["round_trip_p50_us"].is_null()), "{report}");
    }
    let shown = run(&[]);
    // Bars and colour are for terminals.
    assert!(shown.contains("TCP LOOPBACK") && !shown.contains('\u{1b}') && !shown.contains('█'), "{shown}");
}

#[test]
fn an_interrupted_measurement_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let mut process = start_long(place.path());
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(1));
        check_nothing_is_left(place.path());
    }
}

#[test]
fn no_process_outlives_a_measurement_that_is_killed() {
    let place = tempfile::tempdir().unwrap();
    let mut process = start_long(place.path());
    process.signal(Signal::KILL);
    process.wait();
    wait_for("the end of all processes", || processes(place.path()).is_empty().then_some(()));
}

/// A measurement that goes on until it is stopped, with all its processes.
fn start_long(place: &Path) -> Process {
    let mut command = command("pipebus");
    command.env("TMPDIR", place).args(["bench", "fanout", "--subscribers", "2", "--seconds", "600"]);
    let process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let parts = || processes(place).iter().filter(|line| line.contains("bench-part")).count();
    wait_for("a publisher and two subscribers", || (parts() == 3).then_some(()));
    process
}

#[test]
fn what_can_t_be_is_said_in_plain_words() {
    let check = |arguments: &[&str], code: i32, says: &str| {
        let output = command("pipebus").arg("bench").args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    };
    check(&["throughput", "--seconds", "0"], 2, "0.01 to 3600");
    check(&["throughput", "--relay", "copy"], 2, "--yardstick");
    check(&["soak", "--minutes", "0"], 2, "0.01 to 100000");
    check(&["throughput", "--bus", "/nowhere/at/all"], 3, "/nowhere/at/all");
}
