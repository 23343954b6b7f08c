//! The broker as a service of Windows: installed, started, stopped, and what is told of it.
//!
//! There is one service of this name on a machine. So this does nothing unless PIPEBUS_TESTS_MAY_INSTALL is set, as it may be
//! where the machine is there for tests, and needs an administrator.

#![cfg(windows)]
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn pipebusd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipebusd"));
    command.args(arguments);
    command
}

/// Runs `pipebusd service` with these words; what it says must have this in it.
#[track_caller]
fn service(arguments: &[&str], exit_code: i32, said: &str) -> String {
    let output: Output = pipebusd(&["service"]).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert_eq!(output.status.code(), Some(exit_code), "{arguments:?}: {text}");
    assert!(text.contains(said), "{arguments:?}: {text}");
    text
}

#[track_caller]
fn status(exit_code: i32) -> serde_json::Value {
    serde_json::from_str(&service(&["status", "--json"], exit_code, "")).unwrap()
}

/// Removes it, whatever a failing test has left.
struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = pipebusd(&["service", "uninstall"]).output();
    }
}

fn may_install() -> bool {
    let may = std::env::var_os("PIPEBUS_TESTS_MAY_INSTALL").is_some();
    if !may {
        eprintln!("skipped: PIPEBUS_TESTS_MAY_INSTALL is not set, so no service is installed");
    }
    may
}

/// One test, since there is one service.
#[test]
fn a_service_is_installed_runs_ends_and_says_why() {
    if !may_install() {
        return;
    }
    assert_eq!(status(3)["state"], "not installed");
    service(&["start"], 1, "`pipebusd service install` makes it");
    service(&["uninstall"], 1, "`pipebusd service install` makes it");
    service(&["install", "--set", "queue.bytes_max=1"], 2, "queue.bytes_max");
    service(&["install", "--account", r"CORP\ann"], 2, "whom no other account");
    assert_eq!(status(3)["state"], "not installed", "what can't start is not installed");

    let _installed = Installed;
    let directory = tempfile::tempdir().unwrap();
    let bus = format!(r"\\.\pipe\pipebus-test-{}", std::process::id());
    runs_and_ends(&bus, directory.path());
    fails(&bus, directory.path());
}

fn runs_and_ends(bus: &str, directory: &Path) {
    let file = directory.join("log of a service");
    let log = || fs::read_to_string(&file).unwrap_or_default();
    service(&["install", "--bus", bus, "--set", &format!("log.file={}", file.display())], 0, "installed");
    service(&["install"], 1, "`pipebusd service uninstall` removes it");
    assert_eq!((&status(3)["state"], &status(3)["exit_code"]), (&"stopped".into(), &serde_json::Value::Null));

    service(&["start"], 0, "running, pid ");
    let running = status(0);
    assert!(running["state"] == "running" && running["pid"].is_u64() && running["exit_code"].is_null(), "{running}");
    assert!(log().contains("listening") && log().contains(bus), "{}", log());
    service(&["start"], 0, "running, pid ");
    let second = pipebusd(&["--bus", bus]).output().unwrap();
    assert_eq!(second.status.code(), Some(4), "{second:?}");

    service(&["stop"], 0, "stopped");
    service(&["stop"], 0, "stopped");
    assert!(log().trim_end().ends_with("ended"), "{}", log());
    assert_eq!((&status(3)["exit_code"], &status(3)["ended"]), (&0.into(), &"ended cleanly".into()));
    service(&["uninstall"], 0, "uninstalled");
    assert_eq!(status(3)["state"], "not installed");
}

/// What is wrong when it starts, it ends with.
fn fails(bus: &str, directory: &Path) {
    let config = directory.join("a file.toml");
    fs::write(&config, "").unwrap();
    service(&["install", "--bus", bus, "--config", config.to_str().unwrap()], 0, "installed");
    fs::write(&config, "[queue]\nbytes_max = 1").unwrap();
    service(&["start"], 1, "its configuration is wrong");
    assert_eq!((&status(3)["exit_code"], &status(3)["state"]), (&2.into(), &"stopped".into()));

    fs::write(&config, format!("[log]\nfile = '{}'", directory.join("nowhere/log").display())).unwrap();
    service(&["start"], 1, "has ended at once: failed");
    assert_eq!(status(3)["exit_code"], 1);
    service(&["uninstall"], 0, "uninstalled");
}
