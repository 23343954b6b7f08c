//! The units in `systemd/`, as shipped, under a real systemd: it holds the door, and a knock starts the broker.
//!
//! Where this is root, a whole machine is booted for it in namespaces of its own: see [`Machine`].

#![allow(clippy::unwrap_used, reason = "a failing fixture fails its test, which is its job")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

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

/// A machine of its own, booted by systemd in namespaces, with the pipebus package installed and two users: `ann`, who
/// is in the group `pipebus-users`, and `bob`, who is not.
///
/// Its `/usr` and `/etc` are layers over the real ones, and its `/run`, `/var` and `/tmp` are in memory: nothing on the
/// real machine is changed. All its processes end with the thread that booted it, however that ends.
struct Machine {
    init: Process,
    cgroup: PathBuf,
    errors: tempfile::NamedTempFile,
}

/// Run as process 1 of the machine: `sh -c INSTALL_AND_BOOT sh REPOSITORY PROGRAMS`.
const INSTALL_AND_BOOT: &str = r#"
set -eu
repository=$1 programs=$2
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
for place in usr etc; do
    mkdir -p /run/layers/$place /run/layers/$place.work
    mount -t overlay -o lowerdir=/$place,upperdir=/run/layers/$place,workdir=/run/layers/$place.work overlay /$place
done
touch /usr/bin/pipebusd /usr/bin/pipebus
mount --bind "$programs/pipebusd" /usr/bin/pipebusd
mount --bind "$programs/pipebus" /usr/bin/pipebus
cd "$repository"
install -m 644 -t /usr/lib/systemd/system systemd/pipebusd.*
install -m 644 -t /usr/lib/systemd/user systemd/user/pipebusd.*
install -D -m 644 systemd/pipebus.sysusers.conf /usr/lib/sysusers.d/pipebus.conf
install -D -m 644 systemd/pipebus.tmpfiles.conf /usr/lib/tmpfiles.d/pipebus.conf
install -D -m 644 config/system.toml /etc/pipebus/system.toml
cd /
mount -t tmpfs -o mode=755 tmpfs /var
mount -t tmpfs tmpfs /tmp
mkdir -m 1777 /var/tmp

# Nothing that the real machine would start, mount or set.
for directory in /etc/systemd/system /etc/systemd/user /usr/lib/systemd/system-generators \
    /usr/lib/systemd/system/sysinit.target.wants; do
    mkdir -p $directory
    mount -t tmpfs tmpfs $directory
done
cd /etc/systemd/system
printf '[Unit]\nDefaultDependencies=no\n' > sysinit.target
printf '[Unit]\nDefaultDependencies=no\nRequires=systemd-journald.service\n' > machine.target
ln -s /dev/null systemd-journald-dev-log.socket
ln -s /dev/null systemd-journald-audit.socket
mkdir -p /etc/systemd/journald.conf.d /etc/systemd/user/pipebusd.service.d
printf '[Journal]\nStorage=volatile\nReadKMsg=no\n' > /etc/systemd/journald.conf.d/machine.conf
printf '[Service]\nWatchdogSec=1s\n' > /etc/systemd/user/pipebusd.service.d/impatient.conf
cd /

systemd-sysusers pipebus.conf
printf 'u ann -\nu bob -\nm ann pipebus-users\n' | systemd-sysusers -
systemd-tmpfiles --create pipebus.conf
export container=pipebus-tests
exec /lib/systemd/systemd --system --unit=machine.target --log-target=journal --show-status=no
"#;

impl Machine {
    /// `None`, with the reason printed, where that can't be done.
    fn boot() -> Option<Machine> {
        if !has(&[
            "unshare",
            "nsenter",
            "setpriv",
            "systemctl",
            "journalctl",
            "systemd-sysusers",
            "/lib/systemd/systemd",
        ]) {
            return None;
        }
        let programs = binary("pipebusd").parent().unwrap().to_owned();
        let cgroup = match make_cgroup() {
            Ok(cgroup) => cgroup,
            Err(reason) => return skip(&reason),
        };
        let namespaces = ["--mount", "--pid", "--cgroup", "--net", "--ipc", "--uts", "--fork", "--kill-child"];
        let mut unshare = Command::new("sh");
        unshare.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec setpriv --pdeathsig KILL unshare "$@""#]);
        unshare.arg(&cgroup).args(namespaces).args(["--mount-proc", "sh", "-c", INSTALL_AND_BOOT, "sh"]);
        unshare.arg(repository()).arg(programs);
        let errors = tempfile::NamedTempFile::new().unwrap();
        unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors.reopen().unwrap());
        let mut machine = Machine { init: Process::start(&mut unshare), cgroup, errors };
        wait_for("the machine to boot", || {
            let ended = machine.init.0.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(machine.errors.path()).unwrap());
            let state = machine.run(&["systemctl", "is-active", "machine.target"]);
            (state.stdout == b"active\n").then_some(())
        });
        Some(machine)
    }

    /// A command within the machine.
    fn command(&self, arguments: &[&str]) -> Command {
        let namespaces = format!("/proc/{}/ns", self.init.0.id());
        let mut command = Command::new("nsenter");
        command.args([format!("--mount={namespaces}/mnt"), format!("--pid={namespaces}/pid_for_children")]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments))
    }

    /// Somebody who deals with the system's manager.
    fn user<'machine>(&'machine self, name: &'machine str) -> User<'machine> {
        User { machine: self, name, manager: "--system" }
    }

    /// Somebody who deals with a manager of their own, as after a login.
    fn user_manager<'machine>(&'machine self, name: &'machine str) -> User<'machine> {
        let directory = runtime_directory(name);
        succeed(&self.run(&["install", "-d", "-m", "700", "-o", name, &directory]));
        let environment = format!("--setenv=XDG_RUNTIME_DIR={directory}");
        let user = format!("--uid={name}");
        let service = ["systemd-run", "--service-type=notify", "--property=Delegate=yes", &user, &environment];
        succeed(&self.run(&[&service[..], &["/lib/systemd/systemd", "--user"]].concat()));
        User { machine: self, name, manager: "--user" }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.run(&["journalctl", "--no-pager", "--lines=60"]);
            eprintln!("--- the machine's log ---\n{}", text(&log.stdout));
        }
        let _ = self.init.0.kill();
        let _ = self.init.0.wait();
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let mut remove = Command::new("find");
        remove.arg(&self.cgroup).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
        wait_for("the machine to end", || {
            let _ = run(&mut remove);
            (!self.cgroup.exists()).then_some(())
        });
    }
}

/// Somebody on the machine, and the manager of services that they speak to.
struct User<'machine> {
    machine: &'machine Machine,
    name: &'machine str,
    manager: &'static str,
}

impl User<'_> {
    /// A command that ends with the [`Process`] that it is.
    fn command(&self, arguments: &[&str]) -> Command {
        let directory = format!("XDG_RUNTIME_DIR={}", runtime_directory(self.name));
        let become_user = ["setpriv", "--reuid", self.name, "--regid", self.name, "--init-groups"];
        let surroundings = ["--pdeathsig", "KILL", "env", &directory];
        self.machine.command(&[&become_user[..], &surroundings, arguments].concat())
    }

    fn systemctl(&self, arguments: &[&str]) {
        succeed(&run(&mut self.command(&[&["systemctl", self.manager], arguments].concat())));
    }

    /// A property of the broker's service.
    fn show(&self, property: &str) -> String {
        let show = ["systemctl", self.manager, "show", "--value", "--property", property, "pipebusd.service"];
        text(&run(&mut self.command(&show)).stdout).trim().to_owned()
    }

    fn pipebus(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(&[&["pipebus"], arguments].concat()))
    }

    /// Publishes, for which the broker must let the client in.
    fn publish(&self, bus: &str) {
        succeed(&self.pipebus(&["--bus", bus, "pub", "greetings/world", "hello"]));
    }

    /// Publishes until a subscriber has it.
    fn deliver(&self, bus: &str) {
        let subscribe = ["pipebus", "--bus", bus, "sub", "greetings/*", "--count", "1", "--timeout", "20s"];
        let mut subscribe = self.command(&[&subscribe[..], &["--format", "line"]].concat());
        let mut subscriber = Process::start(subscribe.stdout(Stdio::piped()));
        let status = wait_for("a message", || {
            self.publish(bus);
            subscriber.0.try_wait().unwrap()
        });
        let mut received = String::new();
        subscriber.0.stdout.take().unwrap().read_to_string(&mut received).unwrap();
        assert!(status.success() && received.contains("hello"), "{status}: {received}");
    }
}

fn runtime_directory(user: &str) -> String {
    format!("/run/user/{user}")
}

/// A control group for a machine, in whichever place the real one has version 2 of them.
fn make_cgroup() -> Result<PathBuf, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if !rustix::process::geteuid().is_root() {
        return Err("only root can boot a machine".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let hierarchy = fields.find(|fields| fields.get(2) == Some(&"cgroup2")).ok_or("there are no version 2 cgroups")?;
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let cgroup = Path::new(hierarchy[1]).join(format!("pipebus-tests-{}-{number}", std::process::id()));
    fs::create_dir(&cgroup).map_err(|error| format!("cannot make the cgroup {}: {error}", cgroup.display()))?;
    Ok(cgroup)
}

/// Whether these programs are there; says so where they are not.
fn has(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &&&str| std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    match programs.iter().find(|program| !there(program)) {
        None => true,
        Some(missing) => skip::<()>(&format!("there is no {missing}")).is_some(),
    }
}

fn skip<T>(reason: &str) -> Option<T> {
    eprintln!("skipped: {reason}");
    None
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn succeed(output: &Output) {
    assert!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn sorted_lines(bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = text(bytes).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}
