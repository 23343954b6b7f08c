//! A machine of its own, booted by the real systemd in namespaces, and its users.

pub mod comers;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Process, binary, wait_for};

/// A machine of its own, booted by systemd in namespaces, and two users, `ann` and `bob`. Unless it is bare, pipebus is
/// installed, and `ann` is in the group `pipebus-users`.
///
/// Its `/usr`, `/etc` and `/var/lib/dpkg` are layers over the real ones, and its `/run`, `/var` and `/tmp` are in memory: nothing on the
/// real machine is changed. All its processes end with the thread that booted it, however that ends.
#[derive(Debug)]
pub struct Machine {
    init: Process,
    cgroup: PathBuf,
    errors: tempfile::NamedTempFile,
}

/// Run as process 1 of the machine: `sh -c INSTALL_AND_BOOT sh REPOSITORY PROGRAMS`; without `PROGRAMS`, it is bare.
const INSTALL_AND_BOOT: &str = r#"
set -eu
repository=$1 programs=${2:-}
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
layer() {
    mkdir -p /run/layers/$1 /run/layers/$1.work
    mount -t overlay -o lowerdir=$2,upperdir=/run/layers/$1,workdir=/run/layers/$1.work overlay $3
}
layer usr /usr /usr
layer etc /etc /etc
if [ -n "$programs" ]; then
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
fi
packages=/var/lib/dpkg
if [ -d $packages ]; then
    mkdir /run/dpkg
    layer dpkg $packages /run/dpkg
fi
mount -t tmpfs -o mode=755 tmpfs /var
mount -t tmpfs tmpfs /tmp
mkdir -m 1777 /var/tmp
mkdir /var/log
if [ -d /run/dpkg ]; then
    mkdir -p $packages
    mount --bind /run/dpkg $packages
fi

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

# Containers have it, so that packages start nothing.
rm -f /usr/sbin/policy-rc.d
printf 'u ann -\nu bob -\n' | systemd-sysusers -
if [ -n "$programs" ]; then
    systemd-sysusers pipebus.conf
    printf 'm ann pipebus-users\n' | systemd-sysusers -
    systemd-tmpfiles --create pipebus.conf
fi
export container=pipebus-tests
exec /lib/systemd/systemd --system --unit=machine.target --log-target=journal --show-status=no
"#;

impl Machine {
    /// `None`, with the reason printed, where that can't be done.
    pub fn boot() -> Option<Machine> {
        Machine::boot_with(binary("pipebusd").parent())
    }

    /// One on which pipebus is still to be installed.
    pub fn boot_bare() -> Option<Machine> {
        Machine::boot_with(None)
    }

    fn boot_with(programs: Option<&Path>) -> Option<Machine> {
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
        let cgroup = match make_cgroup() {
            Ok(cgroup) => cgroup,
            Err(reason) => return skip(&reason),
        };
        let namespaces = ["--mount", "--pid", "--cgroup", "--net", "--ipc", "--uts", "--fork", "--kill-child"];
        let mut unshare = Command::new("sh");
        unshare.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec setpriv --pdeathsig KILL unshare "$@""#]);
        unshare.arg(&cgroup).args(namespaces).args(["--mount-proc", "sh", "-c", INSTALL_AND_BOOT, "sh"]);
        unshare.arg(repository()).args(programs);
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
    pub fn command(&self, arguments: &[&str]) -> Command {
        let namespaces = format!("/proc/{}/ns", self.init.0.id());
        let mut command = Command::new("nsenter");
        command.args([format!("--mount={namespaces}/mnt"), format!("--pid={namespaces}/pid_for_children")]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command within the machine to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments))
    }

    /// Copies a file to the machine, whose `/tmp` is its own, and returns where it is there.
    pub fn put(&self, file: &Path) -> String {
        let there = format!("/tmp/{}", file.file_name().unwrap().display());
        let mut copy = self.command(&["sh", "-c", r#"cat >"$0""#, &there]);
        succeed(&run(copy.stdin(fs::File::open(file).unwrap())));
        there
    }

    /// Adds to a unit, such as `system/pipebusd.service`.
    pub fn configure(&self, unit: &str, text: &str) {
        let add = r#"mkdir -p "/etc/systemd/$0.d" && printf %s "$1" > "/etc/systemd/$0.d/story.conf""#;
        succeed(&self.run(&["sh", "-c", add, unit, text]));
        succeed(&self.run(&["systemctl", "daemon-reload"]));
    }

    /// Somebody who deals with the system's manager.
    pub fn user<'machine>(&'machine self, name: &'machine str) -> User<'machine> {
        User { machine: self, name, manager: "--system" }
    }

    /// Somebody who deals with a manager of their own, as after a login.
    pub fn user_manager<'machine>(&'machine self, name: &'machine str) -> User<'machine> {
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
#[derive(Clone, Copy, Debug)]
pub struct User<'machine> {
    /// Where they are.
    pub machine: &'machine Machine,
    /// Their name.
    pub name: &'machine str,
    manager: &'static str,
}

impl User<'_> {
    /// A command that ends with the [`Process`] that it is.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let directory = format!("XDG_RUNTIME_DIR={}", runtime_directory(self.name));
        let become_user = ["setpriv", "--reuid", self.name, "--regid", self.name, "--init-groups"];
        let surroundings = ["--pdeathsig", "KILL", "env", &directory];
        self.machine.command(&[&become_user[..], &surroundings, arguments].concat())
    }

    /// Tells the manager something, which must succeed.
    pub fn systemctl(&self, arguments: &[&str]) {
        succeed(&run(&mut self.command(&[&["systemctl", self.manager], arguments].concat())));
    }

    /// A property of the broker's service.
    pub fn show(&self, property: &str) -> String {
        let show = ["systemctl", self.manager, "show", "--value", "--property", property, "pipebusd.service"];
        text(&run(&mut self.command(&show)).stdout).trim().to_owned()
    }

    /// Runs `pipebus` to its end.
    pub fn pipebus(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(&[&["pipebus"], arguments].concat()))
    }

    /// Publishes, for which the broker must let the client in.
    pub fn publish(&self, bus: &str) {
        succeed(&self.pipebus(&["--bus", bus, "pub", "greetings/world", "hello"]));
    }

    /// Publishes until a subscriber has it.
    pub fn deliver(&self, bus: &str) {
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
pub fn has(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &&&str| std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    match programs.iter().find(|program| !there(program)) {
        None => true,
        Some(missing) => skip::<()>(&format!("there is no {missing}")).is_some(),
    }
}

/// Says why a story is not told.
pub fn skip<T>(reason: &str) -> Option<T> {
    eprintln!("skipped: {reason}");
    None
}

/// Where the project is.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Fails the test, with what a command has said, if it failed.
pub fn succeed(output: &Output) {
    assert!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
}

/// What a command has written.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The same, as lines in their order.
pub fn sorted_lines(bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = text(bytes).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}
