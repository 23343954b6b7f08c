//! Stage: a broker and processes of a command's own, where its bus is, and that none of them is left behind.
//!
//! What is played there is in [`crate::demo`] and [`crate::bench`].

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pipebus_client::{Client, Error};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::system::child::{Family, set_apart, terminate, terminate_broker};
use crate::transport::TemporaryBus;

/// The longest that anything that is started here may take to start, to end, or to answer.
const DEADLINE: Duration = Duration::from_secs(15);

/// How long to wait between two attempts to reach the broker that has just been started.
const CONNECT_INTERVAL: Duration = Duration::from_millis(10);

/// Processes and tasks of a command. Dropped, it ends them, too, but does not wait for them: see [`Stage::clear`].
pub(crate) struct Stage {
    /// The command whose stage it is, as part of names.
    command: &'static str,
    bus: TemporaryBus,
    pipebus: PathBuf,
    family: Family,
    broker: Option<Child>,
    programs: Vec<Child>,
    tasks: JoinSet<()>,
}

impl Stage {
    /// Finds this program and a place for a bus.
    pub(crate) fn set(command: &'static str) -> Result<Stage, Failure> {
        let pipebus = env::current_exe().map_err(|error| Failure::system("find this program's file", error))?;
        let (bus, family) = (TemporaryBus::of(command)?, Family::found()?);
        Ok(Stage { command, bus, pipebus, family, broker: None, programs: Vec::new(), tasks: JoinSet::new() })
    }

    /// The address of the bus that the stage's own broker serves.
    pub(crate) fn bus(&self) -> String {
        self.bus.address()
    }

    pub(crate) fn start_broker(&mut self, arguments: &[&str]) -> Result<(), Failure> {
        let pipebusd = find_pipebusd(&self.pipebus)?;
        let mut command = self.family.broker(&self.pipebus, &pipebusd);
        command.args(["--bus", &self.bus()]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.broker = Some(start(command, "pipebusd")?);
        Ok(())
    }

    /// Connects to the broker as soon as it listens.
    pub(crate) async fn connect(&mut self) -> Result<Client, Failure> {
        let bus = self.bus();
        let connected = async {
            loop {
                match Client::builder().name(format!("pipebus {}", self.command)).connect(&bus).await {
                    Err(Error::NoBroker { .. }) => tokio::time::sleep(CONNECT_INTERVAL).await,
                    connected => return Ok(connected?),
                }
                if let Some(broker) = &mut self.broker
                    && let Ok(Some(status)) = broker.try_wait()
                {
                    return Err(Failure::Ended { program: "pipebusd".to_owned(), status });
                }
            }
        };
        within("the broker's start", connected).await?
    }

    /// Starts `pipebus` and forgets about its output.
    pub(crate) fn start(&mut self, arguments: &[&str]) -> Result<(), Failure> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.programs.push(start(command, arguments[0])?);
        Ok(())
    }

    /// Starts `pipebus` and returns its output.
    pub(crate) fn start_reader(&mut self, arguments: &[&str]) -> Result<Lines<BufReader<ChildStdout>>, Failure> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = start(command, arguments[0])?;
        let output = child.stdout.take().expect("the output was made a pipe");
        self.programs.push(child);
        Ok(BufReader::new(output).lines())
    }

    /// Starts `pipebus` and returns its input.
    pub(crate) fn start_writer(&mut self, arguments: &[&str]) -> Result<ChildStdin, Failure> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = start(command, arguments[0])?;
        let input = child.stdin.take().expect("the input was made a pipe");
        self.programs.push(child);
        Ok(input)
    }

    /// Runs `pipebus` with this input until it ends, which is to be a success.
    pub(crate) async fn run_with_input(&mut self, arguments: &[&str], input: Vec<u8>) -> Result<(), Failure> {
        let mut pipe = self.start_writer(arguments)?;
        let program = self.programs.last_mut().expect("it was just added");
        // If it ends early, its status says so.
        let _ = pipe.write_all(&input).await;
        drop(pipe);
        let status = program.wait().await.map_err(|error| Failure::system("wait for pipebus", error))?;
        judge(arguments[0], status)
    }

    /// Runs `pipebus` until it ends, which is to be a success, and returns what it shows.
    pub(crate) async fn output_of(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let output = within("a command", command.output()).await?;
        let output = output.map_err(|error| Failure::system("run pipebus", error))?;
        judge(arguments[0], output.status)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs beside the command until it ends.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(&self.bus());
        command.args(arguments);
        command
    }

    /// `pipebus` with some bus.
    fn program(&self, bus: &str) -> Command {
        let mut command = Command::new(&self.pipebus);
        command.args(["--bus", bus]);
        command
    }

    /// Starts `pipebus` with some bus and both its ends. Nobody ends it but the caller, or its own end of file.
    pub(crate) fn start_partner(&self, bus: &str, arguments: &[&str]) -> Result<Child, Failure> {
        let mut command = self.program(bus);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        start(command, arguments[0])
    }

    /// Ends all processes, the broker last, and removes what is left of the bus. Does all of it whatever fails on the way.
    pub(crate) async fn clear(mut self) -> Result<(), Failure> {
        self.tasks.shutdown().await;
        for program in &mut self.programs {
            terminate(program);
        }
        for program in &mut self.programs {
            end(program).await;
        }
        let status = match &mut self.broker {
            Some(broker) => {
                terminate_broker(broker, &self.bus.address()).await;
                end(broker).await
            }
            None => None,
        };
        self.bus.close()?;
        status.map_or(Ok(()), |status| judge("pipebusd", status))
    }
}

/// Fails unless a program has ended with success.
pub(crate) fn judge(program: &str, status: std::process::ExitStatus) -> Result<(), Failure> {
    if status.success() { Ok(()) } else { Err(Failure::Ended { program: program.to_owned(), status }) }
}

pub(crate) fn find_pipebusd(pipebus: &Path) -> Result<PathBuf, Failure> {
    let name = format!("pipebusd{}", env::consts::EXE_SUFFIX);
    let beside = pipebus.with_file_name(&name);
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|directory| directory.join(&name));
    let found = std::iter::once(beside).chain(in_path).find(|candidate| candidate.is_file());
    found.ok_or_else(|| Failure::NoDaemon { beside: pipebus.to_owned() })
}

fn start(mut command: Command, name: impl AsRef<OsStr>) -> Result<Child, Failure> {
    command.kill_on_drop(true);
    set_apart(&mut command);
    let name = name.as_ref().display();
    command.spawn().map_err(|error| Failure::system(format!("start {name}"), error))
}

/// Waits for a process that was asked to end, and kills it if it does not.
async fn end(child: &mut Child) -> Option<std::process::ExitStatus> {
    match tokio::time::timeout(DEADLINE, child.wait()).await {
        Ok(status) => status.ok(),
        Err(_) => {
            let _ = child.kill().await;
            None
        }
    }
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(what: &'static str, future: impl Future<Output = T>) -> Result<T, Failure> {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.map_err(|_| Failure::Stuck { what, after: DEADLINE })
}
