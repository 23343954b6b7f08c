//! Every configuration file that is shipped is one that the broker takes.

#![allow(clippy::unwrap_used, reason = "a failing fixture fails its test, which is its job")]

use std::fs;
use std::path::Path;

use pipebus_tests::command;

#[test]
fn the_broker_takes_every_file_in_config() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let mut check = command("pipebusd");
        // Not --check-config: whether the machine has the groups that the file names is not the file's fault.
        check.arg("--print-config").arg("--config").arg(&path);
        let checked = check.output().unwrap();
        assert!(checked.status.success(), "{}: {checked:?}", path.display());
    }
}

#[test]
fn the_system_bus_is_for_its_group() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/system.toml");
    let printed = command("pipebusd").arg("--print-config").arg("--config").arg(file).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    for line in ["address = \"system\"", "access = \"group\"", "group = \"pipebus-users\"", "format = \"journald\""] {
        assert!(printed.contains(line), "{line} is not in:\n{printed}");
    }
}
