//! What packagers and administrators do: `make install`, and the Debian package, with the real dpkg on a machine of its
//! own.

#![allow(clippy::unwrap_used, reason = "a failing fixture fails its test, which is its job")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pipebus_tests::machine::{Machine, has, repository, run, sorted_lines, succeed, text};
use pipebus_tests::{Process, binary, wait_for};

#[test]
fn make_install_puts_every_file_in_its_place_and_make_uninstall_takes_it_away() {
    if !has(&["make", "systemd-analyze"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    make(&root, scratch.path(), "install");
    for (file, mode) in [
        ("opt/bin/pipebus", 0o755),
        ("opt/bin/pipebusd", 0o755),
        ("opt/lib/systemd/system/pipebusd.socket", 0o644),
        ("opt/lib/systemd/user/pipebusd.service", 0o644),
        ("opt/lib/sysusers.d/pipebus.conf", 0o644),
        ("opt/lib/tmpfiles.d/pipebus.conf", 0o644),
        ("opt/share/man/man1/pipebus-sub.1", 0o644),
        ("opt/share/man/man5/pipebus.toml.5", 0o644),
        ("opt/share/man/man8/pipebusd.8", 0o644),
        ("opt/share/bash-completion/completions/pipebus", 0o644),
        ("opt/share/zsh/site-functions/_pipebus", 0o644),
        ("opt/share/fish/vendor_completions.d/pipebus.fish", 0o644),
        ("opt/share/pipebus/wireshark/pipebus.lua", 0o644),
        ("opt/share/doc/pipebus/LICENSE-MIT", 0o644),
        ("etc/pipebus/system.toml", 0o644),
    ] {
        let facts = fs::metadata(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(facts.permissions().mode() & 0o7777, mode, "{file}");
    }
    let version = run(Command::new(root.join("opt/bin/pipebus")).arg("--version"));
    assert!(version.status.success());
    let unit = fs::read_to_string(root.join("opt/lib/systemd/system/pipebusd.service")).unwrap();
    assert!(unit.contains("ExecStart=/opt/bin/pipebusd --bus system --config /etc/pipebus/system.toml"), "{unit}");

    fs::write(root.join("etc/pipebus/system.toml"), "# mine\n").unwrap();
    make(&root, scratch.path(), "install");
    assert_eq!(fs::read_to_string(root.join("etc/pipebus/system.toml")).unwrap(), "# mine\n");

    make(&root, scratch.path(), "uninstall");
    let left = run(Command::new("find").arg(&root).args(["-type", "f", "-printf", "%P\n"]));
    assert_eq!(sorted_lines(&left.stdout), ["etc/pipebus/system.toml"]);
}

#[test]
fn units_that_are_installed_elsewhere_are_well_formed() {
    if !has(&["make", "systemd-analyze"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (prefix, etc) = (scratch.path().join("usr"), scratch.path().join("etc"));
    let places = [format!("prefix={}", prefix.display()), format!("sysconfdir={}", etc.display())];
    make_with(scratch.path(), &["install", &places[0], &places[1]]);
    for manager in ["system", "user"] {
        let units = prefix.join("lib/systemd").join(manager);
        let mut verify = Command::new("systemd-analyze");
        verify.args([&format!("--{manager}"), "verify", "--man=no"]).env("XDG_RUNTIME_DIR", scratch.path());
        let output = run(verify.args(["pipebusd.service", "pipebusd.socket"].map(|unit| units.join(unit))));
        assert!(output.status.success() && output.stderr.is_empty(), "{manager}: {output:?}");
    }
}

#[test]
fn the_debian_package_installs_starts_upgrades_and_purges() {
    if !has(&["make", "dpkg-deb", "strip", "deb-systemd-helper"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (older, newer) = (package(scratch.path(), "0.1.0"), package(scratch.path(), "0.1.1"));
    let Some(machine) = Machine::boot_bare() else { return };
    let (older, newer) = (machine.put(&older), machine.put(&newer));
    let before = installed_files(&machine);

    succeed(&machine.run(&["dpkg", "--install", &older]));
    succeed(&machine.run(&["usermod", "-aG", "pipebus-users", "ann"]));
    let (root, ann, bob) = (machine.user("root"), machine.user("ann"), machine.user("bob"));
    assert_eq!((root.show("ActiveState"), root.show("UnitFileState")), ("active".into(), "enabled".into()));
    ann.deliver("system");
    assert!(!bob.pipebus(&["--bus", "system", "pub", "a", "b"]).status.success());
    assert!(text(&machine.run(&["sh", "-c", "zcat /usr/share/man/man1/pipebus.1.gz"]).stdout).contains("pipebus"));

    // Somebody connects, publishes and leaves again and again while the broker is replaced.
    let first = root.show("MainPID");
    let again =
        "n=0; while [ ! -e /tmp/enough ]; do pipebus --bus system pub a b || exit 1; n=$((n + 1)); done; echo $n";
    let mut busy = Process::start(ann.command(&["sh", "-c", again]).stdout(std::process::Stdio::piped()));
    succeed(&machine.run(&["sh", "-c", "echo '# mine' >> /etc/pipebus/system.toml"]));
    succeed(&machine.run(&["dpkg", "--install", &newer]));
    wait_for("another broker", || {
        (root.show("MainPID") != first && root.show("ActiveState") == "active").then_some(())
    });
    ann.deliver("system");
    succeed(&machine.run(&["touch", "/tmp/enough"]));
    assert!(busy.wait().success(), "an attempt to connect failed during the upgrade");
    let configuration = machine.run(&["tail", "-n1", "/etc/pipebus/system.toml"]);
    assert_eq!(text(&configuration.stdout), "# mine\n");

    succeed(&machine.run(&["dpkg", "--remove", "pipebus"]));
    assert_eq!(root.show("ActiveState"), "inactive");
    assert!(machine.run(&["test", "-e", "/etc/pipebus/system.toml"]).status.success());
    succeed(&machine.run(&["dpkg", "--purge", "pipebus"]));
    assert_eq!(installed_files(&machine), before);
    assert!(machine.run(&["test", "!", "-e", "/run/pipebus"]).status.success());
}

/// Runs a target of the Makefile below a root of its own.
fn make(root: &Path, scratch: &Path, target: &str) {
    make_with(scratch, &[target, "prefix=/opt", &format!("DESTDIR={}", root.display())]);
}

/// Runs the Makefile on the programs that the tests use.
fn make_with(scratch: &Path, arguments: &[&str]) {
    let mut make = Command::new("make");
    make.current_dir(repository()).arg("--silent").args(arguments);
    make.arg(format!("built={}", binary("pipebusd").parent().unwrap().display()));
    make.arg(format!("written={}", scratch.join("written").display()));
    succeed(&run(&mut make));
}

/// A package of the programs that the tests use.
fn package(scratch: &Path, version: &str) -> PathBuf {
    let mut build = Command::new(repository().join("packaging/deb/build.sh"));
    let output = run(build.arg(binary("pipebusd").parent().unwrap()).arg(version).arg(scratch));
    succeed(&output);
    PathBuf::from(text(&output.stdout).trim())
}

/// What of pipebus is in the directories that packages use.
fn installed_files(machine: &Machine) -> Vec<String> {
    let places = ["/usr", "/etc", "/var/lib", "/run"];
    let find = [&["find"], &places[..], &["-xdev", "-name", "*pipebus*", "-not", "-path", "/run/layers/*"]].concat();
    sorted_lines(&machine.run(&find).stdout)
}
