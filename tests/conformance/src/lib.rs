//! What the stories share that are told of every kind of pipe: the real programs, a bus of their own, and a client that
//! obeys no rules. What differs between systems is in [`system`].

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a failing fixture fails its test, which is its job"
)]

pub mod raw;
pub mod system;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use pipebus_client::{Client, Delivery, Message, Subscription};
use pipebus_proto::admin;

/// How long a story waits for what must happen. Far more than it takes, for busy machines.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives something.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = tokio::time::Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same, in async code.
pub async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fails instead of waiting for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// The next message.
pub async fn next(subscription: &mut Subscription) -> Message {
    match soon("a message", subscription.next()).await {
        Some(Delivery::Message(message)) => message,
        other => panic!("no message but {other:?}"),
    }
}

/// A command for one of the project's programs, with nothing of the caller's surroundings that it would heed.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(system::program(name));
    for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("PIPEBUS")) {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    child.wait_with_output().unwrap()
}

/// Runs to the end with this on standard input.
pub fn run_with(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Fails unless it ends with this exit code, and says this on standard error.
#[track_caller]
pub fn check(command: &mut Command, code: i32, says: &str) {
    let output = run_with(command, b"");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {stderr}");
    assert!(stderr.contains(says) && !stderr.contains("panicked"), "{command:?}: {stderr}");
}

/// What a process with piped output has written, once it has ended.
pub fn output(mut process: Process) -> Output {
    let status = process.wait();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    std::io::copy(&mut process.0.stdout.take().unwrap(), &mut stdout).unwrap();
    std::io::copy(&mut process.0.stderr.take().unwrap(), &mut stderr).unwrap();
    Output { status, stdout, stderr }
}

/// What a command has written, with the line ends of Unix.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n")
}

/// A child that is killed when dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> Process {
        Process(command.spawn().unwrap())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("a process to end", || self.0.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real broker on a bus of its own. Dropped, all is gone.
#[derive(Debug)]
pub struct Bus {
    scratch: tempfile::TempDir,
    address: String,
    settings: Vec<String>,
    broker: Option<Process>,
}

impl Bus {
    /// A broker with the default configuration.
    pub fn start() -> Bus {
        Bus::start_with(&[])
    }

    /// A broker with some keys set: `queue.bytes_max=65536`.
    pub fn start_with(settings: &[&str]) -> Bus {
        let mut bus = Bus::without_broker(settings);
        bus.start_broker();
        bus
    }

    /// The place for a bus, and nobody who serves it.
    pub fn without_broker(settings: &[&str]) -> Bus {
        let scratch = tempfile::tempdir().unwrap();
        let address = system::fresh_address(scratch.path());
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        Bus { scratch, address, settings, broker: None }
    }

    /// The command that starts a broker here.
    pub fn broker_command(&self) -> Command {
        let mut command = command("pipebusd");
        command.args(["--bus", &self.address, "--log", "debug"]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.stderr(File::options().create(true).append(true).open(self.log_path()).unwrap());
        command
    }

    /// Starts the broker, and waits until it listens.
    pub fn start_broker(&mut self) {
        self.start_broker_with(&[]);
    }

    /// The same, with more arguments.
    pub fn start_broker_with(&mut self, arguments: &[&str]) {
        let before = self.log().matches("listening").count();
        let mut broker = Process::start(self.broker_command().args(arguments));
        wait_for("the broker to listen", || {
            if let Some(status) = broker.0.try_wait().unwrap() {
                panic!("the broker ended with {status}: {}", self.log());
            }
            (self.log().matches("listening").count() > before).then_some(())
        });
        self.broker = Some(broker);
    }

    /// Kills the broker, which has no time for anything.
    pub fn kill_broker(&mut self) {
        let mut broker = self.broker.take().unwrap();
        broker.0.kill().unwrap();
        broker.0.wait().unwrap();
    }

    /// Orders the broker to end. Returns at once.
    pub async fn drain_broker(&mut self) -> Process {
        let broker = self.broker.take().unwrap();
        let client = self.client().await;
        client.request(admin::DRAIN, br#"{"timeout_ms":0}"#.to_vec(), DEADLINE).await.unwrap();
        broker
    }

    /// The bus's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A directory for what else a story needs.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// What the broker has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    /// A client of this bus.
    pub async fn client(&self) -> Client {
        self.named_client("story").await
    }

    /// A client of this bus, with a name.
    pub async fn named_client(&self, name: &str) -> Client {
        soon("a connection", Client::builder().name(name).timeout(DEADLINE).connect(&self.address)).await.unwrap()
    }

    /// `pipebus` with this bus.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = command("pipebus");
        command.args(["--bus", &self.address]).args(arguments);
        command
    }

    /// What the broker says of itself.
    pub async fn status(&self, client: &Client) -> serde_json::Value {
        client.request(admin::STATUS, "", DEADLINE).await.unwrap().json().unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the broker's log ---\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}
