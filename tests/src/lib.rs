//! What the stories share: the real programs, a bus in a temporary directory, waiting with a deadline, and a client
//! that obeys no rules.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a failing fixture fails its test, which is its job"
)]

pub mod attack;
pub mod machine;
pub mod raw;
pub mod screen;
pub mod traffic;
pub mod wireshark;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pipebus_client::Client;
use pipebus_proto::place::Place;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

pub use pipebus_conformance::system::program as binary;
pub use pipebus_conformance::{DEADLINE, Process, command, soon, wait_for, wait_until};

/// A user that is nobody in particular.
pub const OTHER_UID: u32 = 65534;

/// What lets every user in, to do all but administer.
pub const EVERYONE: [&str; 2] = [
    "door.access=everyone",
    "policy.rules=[{who=['owner','root'],allow=['all']},\
     {who=['any'],allow=['connect','publish','subscribe','request','serve','block']}]",
];

/// Whether this can act as several users; says so where it can't.
pub fn can_change_user() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can act as another user");
    }
    root
}

/// Runs the command as another user, without supplementary groups.
pub fn as_user(command: &mut Command, uid: u32) -> &mut Command {
    // Being root, std also drops the supplementary groups.
    command.uid(uid).gid(uid)
}

/// A real broker on a bus in a temporary directory. Dropped, all is gone.
#[derive(Debug)]
pub struct TestBus {
    root: tempfile::TempDir,
    settings: Vec<String>,
    filter: &'static str,
    broker: Option<Process>,
    /// Held, as systemd does, so that clients may knock whether a broker runs or not.
    door: Option<File>,
}

impl TestBus {
    /// A broker with the default configuration.
    pub fn start() -> TestBus {
        TestBus::start_with(&[])
    }

    /// A broker with some keys set: `queue.bytes_max=65536`.
    pub fn start_with(settings: &[&str]) -> TestBus {
        let mut bus = TestBus::without_broker(settings);
        bus.start_broker();
        bus
    }

    /// The place for a bus, and nobody who serves it.
    pub fn without_broker(settings: &[&str]) -> TestBus {
        TestBus::within(tempfile::tempdir().unwrap(), settings)
    }

    /// The same, in memory where the system has a place for it: as buses are, and fast with very many files.
    pub fn in_memory(settings: &[&str]) -> TestBus {
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        TestBus::within(root.unwrap(), settings)
    }

    /// The same, with a door that is not the broker's: the test holds it, and hands it to every broker.
    pub fn with_held_door() -> TestBus {
        let mut bus = TestBus::without_broker(&[]);
        let place = bus.place();
        for (directory, mode) in [(place.path().to_owned(), 0o700), (place.instances(), 0o3733)] {
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        }
        raw::make_fifo(&place.door(), 0o600);
        bus.door = Some(File::options().read(true).write(true).open(place.door()).unwrap());
        bus
    }

    fn within(root: tempfile::TempDir, settings: &[&str]) -> TestBus {
        // Other users may look, so that what keeps them out is the bus's own permissions.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        TestBus { root, settings, filter: "debug", broker: None, door: None }
    }

    /// Lets brokers from now on log what they log unless told otherwise.
    pub fn log_as_usual(&mut self) {
        self.filter = "info";
    }

    /// The command that starts a broker here.
    pub fn broker_command(&self) -> Command {
        let mut command = command("pipebusd");
        command.args(["--bus", &self.address(), "--log", self.filter]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        command.stderr(log);
        command
    }

    /// Starts the broker, and waits until it listens.
    pub fn start_broker(&mut self) {
        let mut command = self.broker_command();
        if self.door.is_some() {
            command = self.handing_over_door(&command);
        }
        self.adopt_broker(&mut command);
    }

    /// The broker's command, given the door as systemd gives it.
    fn handing_over_door(&self, broker: &Command) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"exec 3<>"$0"; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@""#]).arg(self.place().door());
        shell.arg(broker.get_program()).args(broker.get_args());
        shell.stderr(File::options().append(true).open(self.log_path()).unwrap());
        shell
    }

    /// The test's end of the door that it holds.
    pub fn door(&self) -> &File {
        self.door.as_ref().unwrap()
    }

    /// Starts a broker with a configuration file, which may then be changed.
    pub fn start_with_file(text: &str) -> TestBus {
        let mut bus = TestBus::without_broker(&[]);
        fs::write(bus.config_path(), text).unwrap();
        let mut command = bus.broker_command();
        command.arg("--config").arg(bus.config_path());
        bus.adopt_broker(&mut command);
        bus
    }

    /// Changes that file. The broker does not read it yet.
    pub fn write_config(&self, text: &str) {
        fs::write(self.config_path(), text).unwrap();
    }

    /// Changes that file, and lets the broker read it. Returns once the log says what the broker makes of it.
    pub fn reload(&self, text: &str, said: &str) {
        self.write_config(text);
        let before = self.log().matches(said).count();
        self.broker().signal(Signal::HUP);
        wait_for("the broker to reload", || (self.log().matches(said).count() > before).then_some(()));
    }

    fn config_path(&self) -> PathBuf {
        self.root.path().join("pipebus.toml")
    }

    /// Starts the broker by another command, which must log to where [`TestBus::broker_command`] does.
    pub fn adopt_broker(&mut self, command: &mut Command) {
        let before = self.log().matches("listening").count();
        let mut broker = Process::start(command);
        wait_for("the broker to listen", || {
            if let Some(status) = broker.0.try_wait().unwrap() {
                panic!("the broker ended with {status}: {}", self.log());
            }
            (self.log().matches("listening").count() > before).then_some(())
        });
        self.broker = Some(broker);
    }

    /// `kill -9`.
    pub fn kill_broker(&mut self) {
        let mut broker = self.broker.take().unwrap();
        broker.0.kill().unwrap();
        broker.0.wait().unwrap();
    }

    /// SIGTERM. Returns at once.
    pub fn terminate_broker(&mut self) -> Process {
        let broker = self.broker.take().unwrap();
        broker.signal(Signal::TERM);
        broker
    }

    /// The broker's process, which from now on is the caller's, so that another can be started.
    pub fn hand_over_broker(&mut self) -> Process {
        self.broker.take().unwrap()
    }

    /// The broker's process.
    pub fn broker(&self) -> &Process {
        self.broker.as_ref().unwrap()
    }

    /// The bus's address.
    pub fn address(&self) -> String {
        self.place().path().display().to_string()
    }

    /// The bus's place.
    pub fn place(&self) -> Place {
        Place::new(self.root.path().join("bus"))
    }

    /// A directory for what else a story needs.
    pub fn scratch(&self) -> &Path {
        self.root.path()
    }

    /// What the broker has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// A client of this bus.
    pub async fn client(&self) -> Client {
        self.named_client("story").await
    }

    /// A client of this bus, with a name.
    pub async fn named_client(&self, name: &str) -> Client {
        soon("a connection", Client::builder().name(name).timeout(DEADLINE).connect(&self.address())).await.unwrap()
    }

    /// `pipebus` with this bus.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = command("pipebus");
        command.args(["--bus", &self.address()]).args(arguments);
        command
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the broker's log ---\n{}", tail(&self.log(), 60));
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Opens a FIFO without waiting for anybody.
///
/// # Errors
/// What the system says.
pub fn open(path: &Path, flags: OFlags) -> rustix::io::Result<std::os::fd::OwnedFd> {
    rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}
