//! A log in a file: all is there and not on standard error, and when it is full, another follows.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pipebus_tests::machine::text;
use pipebus_tests::{Process, TestBus, command, soon, wait_for};
use rustix::process::Signal;

/// The smallest that a full file may be.
const BYTES_MAX: u64 = 64 * 1024;

/// More than make three files.
const TOPICS_MAX: u32 = 4000;

fn file(bus: &TestBus) -> PathBuf {
    bus.scratch().join("a log")
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    format!("{}.{number}", path.display()).into()
}

fn broker(bus: &TestBus) -> Command {
    let mut command = bus.broker_command();
    command.arg("--set").arg(format!("log.file={}", file(bus).display()));
    command.args(["--set", &format!("log.file_bytes_max={BYTES_MAX}"), "--set", "log.files_max=3"]);
    command
}

fn start(bus: &TestBus) -> Process {
    let broker = Process::start(&mut broker(bus));
    let said = || fs::read_to_string(file(bus)).unwrap_or_default();
    wait_for("the broker to listen", || said().contains("listening").then_some(()));
    broker
}

#[tokio::test]
async fn a_file_that_is_full_is_followed_by_another_and_none_is_too_large() {
    let bus = TestBus::without_broker(&[]);
    let mut broker = start(&bus);
    let path = file(&bus);
    let client = bus.client().await;
    // The log has a line of each topic that is declared, and connections only in part, if there are many.
    for number in 0..TOPICS_MAX {
        if numbered(&path, 2).exists() {
            break;
        }
        let topic = format!("{}/{number}", "long".repeat(40));
        client.publish(&topic, "").await.unwrap();
        soon("a confirmation", client.flush()).await.unwrap();
    }
    soon("a goodbye", client.close()).await.unwrap();
    broker.signal(Signal::TERM);
    assert!(broker.wait().success());
    assert!(fs::read_to_string(&path).unwrap().trim_end().ends_with("ended"));
    assert_eq!(bus.log(), "", "it is on standard error");
    for path in [path.clone(), numbered(&path, 1), numbered(&path, 2)] {
        let file = fs::metadata(&path).unwrap();
        assert!(file.len() <= BYTES_MAX, "{}: {}", path.display(), file.len());
        assert_eq!(file.permissions().mode() & 0o7777 & !0o640, 0, "{}", path.display());
        // Each entry is whole.
        let said = fs::read_to_string(&path).unwrap();
        assert!(said.ends_with('\n') && said.lines().all(|line| line.starts_with("20")), "{said}");
    }
    assert!(!numbered(&path, 3).exists());
}

#[test]
fn why_a_broker_ends_is_in_its_file_and_on_the_terminal() {
    let bus = TestBus::start();
    let mut second = broker(&bus);
    second.stderr(std::process::Stdio::piped());
    let output = second.output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let said = fs::read_to_string(file(&bus)).unwrap();
    assert!(said.contains("cannot go on") && said.contains("is taken"), "{said}");
    assert!(text(&output.stderr).starts_with("pipebusd: ") && text(&output.stderr).contains("is taken"), "{output:?}");
}

#[test]
fn a_log_that_cannot_be_is_said_at_once() {
    let check = |settings: &[&str], exit_code: i32, said: &str| {
        let mut broker = command("pipebusd");
        for setting in settings {
            broker.args(["--set", setting]);
        }
        let output = broker.output().unwrap();
        assert_eq!(output.status.code(), Some(exit_code), "{output:?}");
        assert!(text(&output.stderr).contains(said), "{output:?}");
    };
    check(&["log.file=/nowhere/log"], 1, "cannot open log.file, /nowhere/log; make its directory");
    check(&["log.file=log"], 2, "no absolute path");
    check(&["log.file=/tmp/log", "log.format=journald"], 2, "all goes to the journal");
    check(&["log.format=event-log"], 2, "no Event Log on this system");
}
