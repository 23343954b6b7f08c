//! `make install`, and the Debian package on a machine of its own: it installs, starts, is upgraded under load, and leaves
//! nothing behind.

#![allow(clippy::unwrap_used, reason = "a failing fixture fails its test, which is its job")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use pipebus_tests::binary;
use pipebus_tests::machine::comers::Comers;
use pipebus_tests::machine::{Machine, has, repository, run, sorted_lines, succeed, text};

/// `make`, which must succeed, with the programs that are built for tests, and nothing of the caller's that it would heed.
fn make(arguments: &[&str]) {
    // What it makes on the way is always in the same place.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    // They are there, and cargo has nothing to do.
    let programs = binary("pipebus").parent().unwrap().to_owned();
    let profile = if programs.ends_with("debug") { "dev" } else { "release" };
    let mut make = Command::new("make");
    make.args(["--silent", "--directory"]).arg(repository()).arg(format!("PROFILE={profile}"));
    make.arg(format!("CARGO_TARGET_DIR={}", programs.parent().unwrap().display())).args(arguments);
    make.arg(format!("CARGO={}", cargo().display())).env_remove("MAKEFLAGS").env_remove("DESTDIR");
    succeed(&run(&mut make));
}

fn cargo() -> PathBuf {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()).into()
}

/// The files below a directory, each with its permissions: `755 usr/bin/pipebus`.
fn files(root: &Path) -> Vec<String> {
    let list = run(Command::new("find").arg(root).args(["!", "-type", "d", "-printf", "%m %P\n"]));
    succeed(&list);
    sorted_lines(&list.stdout)
}

#[test]
fn make_install_puts_everything_where_it_belongs_and_uninstall_takes_it_away() {
    if !has(&["make"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let destination = format!("DESTDIR={}", root.path().display());
    make(&["install", &destination, "prefix=/opt/bus"]);
    let found = files(root.path());
    for expected in [
        "755 opt/bus/bin/pipebus",
        "755 opt/bus/bin/pipebusd",
        "644 etc/pipebus/system.toml",
        "644 opt/bus/lib/systemd/system/pipebusd.service",
        "644 opt/bus/lib/systemd/system/pipebusd.socket",
        "644 opt/bus/lib/systemd/user/pipebusd.service",
        "644 opt/bus/lib/systemd/user/pipebusd.socket",
        "644 opt/bus/lib/sysusers.d/pipebus.conf",
        "644 opt/bus/lib/tmpfiles.d/pipebus.conf",
        "644 opt/bus/share/man/man1/pipebus.1",
        "644 opt/bus/share/man/man1/pipebus-policy-check.1",
        "644 opt/bus/share/man/man5/pipebus.toml.5",
        "644 opt/bus/share/man/man8/pipebusd.8",
        "644 opt/bus/share/bash-completion/completions/pipebus",
        "644 opt/bus/share/bash-completion/completions/pipebusd",
        "644 opt/bus/share/zsh/site-functions/_pipebus",
        "644 opt/bus/share/zsh/site-functions/_pipebusd",
        "644 opt/bus/share/fish/vendor_completions.d/pipebus.fish",
        "644 opt/bus/share/fish/vendor_completions.d/pipebusd.fish",
        "644 opt/bus/share/doc/pipebus/LICENSE-MIT",
        "644 opt/bus/share/doc/pipebus/LICENSE-APACHE",
        "644 opt/bus/share/doc/pipebus/PROTOCOL.md",
    ] {
        assert!(found.iter().any(|file| file == expected), "{expected} is missing in {found:#?}");
    }
    let programs = root.path().join("opt/bus/bin");
    for program in ["pipebus", "pipebusd"] {
        succeed(&run(Command::new(programs.join(program)).arg("--version")));
    }
    for unit in ["system/pipebusd.service", "user/pipebusd.service"] {
        let unit = fs::read_to_string(root.path().join("opt/bus/lib/systemd").join(unit)).unwrap();
        assert!(unit.contains("ExecStart=/opt/bus/bin/pipebusd ") && !unit.contains("/usr/bin/pipebusd"), "{unit}");
    }

    // What an administrator has written stays, be it installed again or taken away.
    let config = root.path().join("etc/pipebus/system.toml");
    fs::write(&config, "# mine\n").unwrap();
    make(&["install", &destination, "prefix=/opt/bus"]);
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");
    make(&["uninstall", &destination, "prefix=/opt/bus"]);
    assert_eq!(files(root.path()), ["644 etc/pipebus/system.toml"]);
}

#[test]
fn units_that_are_installed_elsewhere_are_well_formed() {
    if !has(&["make", "systemd-analyze"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (prefix, etc) = (root.path().join("usr"), root.path().join("etc"));
    let places = [format!("prefix={}", prefix.display()), format!("sysconfdir={}", etc.display())];
    make(&["install-programs", "install-units", "install-config", &places[0], &places[1]]);
    for manager in ["system", "user"] {
        let units = prefix.join("lib/systemd").join(manager);
        let mut verify = Command::new("systemd-analyze");
        verify.args([&format!("--{manager}"), "verify", "--man=no"]).env("XDG_RUNTIME_DIR", root.path());
        let output = run(verify.args([units.join("pipebusd.service"), units.join("pipebusd.socket")]));
        assert!(output.status.success() && output.stderr.is_empty(), "{manager}: {output:?}");
    }
}

#[test]
fn the_package_has_the_version_of_the_programs() {
    let changelog = fs::read_to_string(repository().join("packaging/deb/changelog")).unwrap();
    let version = format!("pipebus ({}-", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&version), "packaging/deb/changelog does not begin with {version}");
}

/// Packages of these versions, if cargo-deb is there.
fn packages(versions: [&str; 2]) -> Option<[PathBuf; 2]> {
    let installed = Command::new(cargo()).args(["deb", "--version"]).output();
    let tools = ["make", "dpkg", "dpkg-shlibdeps", "strip", "deb-systemd-helper", "usermod"];
    if !has(&tools) || !installed.is_ok_and(|output| output.status.success()) {
        return pipebus_tests::machine::skip("there is no cargo-deb; cargo install cargo-deb");
    }
    Some(versions.map(|version| {
        make(&["deb", &format!("DEB_VERSION={version}"), "DEB_OPTIONS=--fast"]);
        let (directory, suffix) = (repository().join("target/deb"), format!("_{version}_"));
        let packages = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        packages.filter(|path| path.to_string_lossy().contains(&suffix)).max().unwrap()
    }))
}

/// All that has pipebus in its name, but for what is shown of layers and processes.
fn left_of_pipebus(machine: &Machine) -> Vec<String> {
    let places = ["/usr", "/etc", "/run", "/var"];
    let mut find = vec!["find"];
    find.extend(places);
    find.extend(["-path", "/run/layers", "-prune", "-o", "-name", "*pipebus*", "-print"]);
    sorted_lines(&machine.run(&find).stdout)
}

#[test]
fn the_package_installs_starts_upgrades_under_load_and_leaves_nothing() {
    let Some([first, second]) = packages(["0.1.0-1", "0.1.0-2"]) else { return };
    let Some(machine) = Machine::boot_without_pipebus() else { return };
    let (root, ann, bob) = (machine.user("root"), machine.user("ann"), machine.user("bob"));
    let dpkg = |arguments: &[&str]| {
        // Without those of other packages: to read all manual pages anew takes minutes.
        let output = machine.run(&[&["dpkg", "--no-triggers"], arguments].concat());
        succeed(&output);
        text(&output.stdout)
    };
    assert_eq!(left_of_pipebus(&machine), [""; 0]);
    dpkg(&["--install", first.to_str().unwrap()]);

    // The door is there, also after the next boot, and whoever is let in starts the broker.
    let socket = machine.run(&["systemctl", "is-active", "pipebusd.socket"]);
    assert_eq!(text(&socket.stdout), "active\n");
    let enabled = machine.run(&["systemctl", "is-enabled", "pipebusd.socket"]);
    assert_eq!(text(&enabled.stdout), "enabled\n");
    assert_eq!(root.show("ActiveState"), "inactive");
    machine.run(&["usermod", "--append", "--groups", "pipebus-users", "ann"]);
    ann.deliver("system");
    assert!(!bob.pipebus(&["--bus", "system", "pub", "a", "b"]).status.success());
    succeed(&machine.run(&["test", "-e", "/usr/share/man/man8/pipebusd.8.gz"]));

    // What an administrator has written is kept, and nobody notices the upgrade.
    machine.run(&["sh", "-c", "echo '# mine' >> /etc/pipebus/system.toml"]);
    let before = root.show("MainPID");
    let comers = Comers::start(ann);
    dpkg(&["--install", second.to_str().unwrap()]);
    assert_ne!(root.show("MainPID"), before);
    ann.deliver("system");
    comers.all_were_let_in();
    let version = machine.run(&["dpkg-query", "--show", "--showformat=${Version}", "pipebus"]);
    assert_eq!(text(&version.stdout), "0.1.0-2");
    succeed(&machine.run(&["grep", "--quiet", "# mine", "/etc/pipebus/system.toml"]));

    // Removed, only the configuration stays; purged, nothing but the user and the groups.
    dpkg(&["--remove", "pipebus"]);
    assert!(!ann.pipebus(&["--bus", "system", "pub", "a", "b"]).status.success());
    assert!(text(&machine.run(&["cat", "/etc/pipebus/system.toml"]).stdout).contains("# mine"));
    dpkg(&["--purge", "pipebus"]);
    assert_eq!(left_of_pipebus(&machine), [""; 0]);
    let groups = machine.run(&["getent", "group", "pipebus", "pipebus-users", "pipebus-admins"]);
    assert_eq!(text(&groups.stdout).lines().count(), 3);
    let units = machine.run(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "pipebusd*"]);
    assert_eq!(text(&units.stdout), "");
}

#[test]
fn scripts_of_the_package_can_be_run() {
    for script in ["postinst", "prerm", "postrm"] {
        let path = repository().join("packaging/deb").join(script);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0o111, "{script}");
        succeed(&run(Command::new("sh").arg("-n").arg(&path)));
    }
}
