//! `pipebus reply`: requests answered with the output of a command.

use std::collections::VecDeque;
use std::num::NonZero;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pipebus_client::{Identity, Message, Request, Server};
use pipebus_proto::place::Address;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::args::messages::Reply;
use crate::bus::{connect, report_losses};
use crate::failure::Failure;
use crate::format::escape;
use crate::interrupt::Interrupt;
use crate::output::complain;

/// An answer of more than this is not waited for: no broker can be configured to take it.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// So much of the end of a command's standard error is kept, for the reason why it failed.
const TAIL_BYTES_MAX: usize = 4 * 1024;

/// How long commands may go on after an interrupt.
const FINISH_WAIT: Duration = Duration::from_secs(2);

pub(crate) async fn run(bus: &Address, arguments: &Reply) -> Result<(), Failure> {
    let client = connect(bus, "reply").await?;
    let losses = tokio::spawn(report_losses(client.link()));
    let mut interrupt = Interrupt::listen()?;
    let mut server = client.serve(arguments.pattern.as_str()).await?;
    let mut jobs = JoinSet::new();
    let job = Arc::new(Job { bus: bus.clone(), command: arguments.command.clone() });
    let served = tokio::select! {
        biased;
        () = interrupt.received() => {
            let _ = tokio::time::timeout(FINISH_WAIT, jobs.join_all()).await;
            Ok(())
        }
        served = serve(&mut server, arguments, &job, &mut jobs) => served,
    };
    // Only now, since who still waits for an answer is then told that there will be none.
    drop(server);
    losses.abort();
    served?;
    Ok(client.close().await?)
}

/// Answers until all that were asked for are answered, or the client is closed.
async fn serve(server: &mut Server, arguments: &Reply, job: &Arc<Job>, jobs: &mut JoinSet<()>) -> Result<(), Failure> {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let jobs_max = arguments.jobs.map_or_else(cores, |jobs| jobs as usize);
    let mut left = arguments.count.unwrap_or(u64::MAX);
    while left > 0 {
        while jobs.len() >= jobs_max {
            jobs.join_next().await;
        }
        let Some(request) = server.next().await else { break };
        jobs.spawn(job.clone().answer(request));
        left -= 1;
    }
    while jobs.join_next().await.is_some() {}
    server.error().map_or(Ok(()), |error| Err(error.into()))
}

/// What is done for each request.
struct Job {
    bus: Address,
    command: Vec<std::ffi::OsString>,
}

impl Job {
    async fn answer(self: Arc<Job>, request: Request) {
        let answered = match self.output_for(&request.message).await {
            Ok(output) => request.reply(output).await,
            Err(why) => {
                complain(&format!("{}: {why}", request.message.topic()));
                request.fail(why).await
            }
        };
        if let Err(error) = answered {
            complain(&format!("an answer could not be sent: {error}"));
        }
    }

    /// Runs the command; an error is for the requester.
    async fn output_for(&self, question: &Message) -> Result<Vec<u8>, String> {
        let name = self.command.first().map(|name| name.to_string_lossy()).unwrap_or_default();
        let mut child = self.start(question).map_err(|error| format!("cannot start {name}: {error}"))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A command need not read what it is asked.
                let _ = stdin.write_all(&question.payload).await;
            }
        };
        let mut output = Vec::new();
        let collect = async {
            if let Some(stdout) = stdout {
                let _ = stdout.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut output).await;
            }
        };
        let ((), (), last_line) = tokio::join!(feed, collect, last_line(stderr));
        let ended = child.wait().await.map_err(|error| format!("cannot wait for {name}: {error}"))?;
        match ended {
            _ if output.len() as u64 > ANSWER_BYTES_MAX => {
                Err(format!("{name} gave more than {ANSWER_BYTES_MAX} bytes"))
            }
            status if status.success() => Ok(output),
            status => Err(failure(&name, status, &last_line)),
        }
    }

    fn start(&self, question: &Message) -> std::io::Result<Child> {
        let mut words = self.command.iter();
        let mut command = Command::new(words.next().ok_or(std::io::ErrorKind::InvalidInput)?);
        command.args(words);
        command.env("PIPEBUS_BUS", self.bus.to_string());
        command.env("PIPEBUS_TOPIC", question.topic().as_str());
        command.env("PIPEBUS_SENDER", question.sender().id.to_string());
        command.env_remove("PIPEBUS_UID").env_remove("PIPEBUS_SID");
        match &question.sender().identity {
            Identity::Unix { uid } => command.env("PIPEBUS_UID", uid.to_string()),
            Identity::Windows { sid } => command.env("PIPEBUS_SID", sid),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn()
    }
}

/// Passes what a command says on to this program's standard error, and returns its last line.
async fn last_line(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let mut tail = VecDeque::new();
    let mut some = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut some).await {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), &some[..read]);
        tail.extend(&some[..read]);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES_MAX));
    }
    let text = String::from_utf8_lossy(tail.make_contiguous()).into_owned();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

/// What the requester is told: no more than a line, however the command put it.
fn failure(name: &str, status: ExitStatus, last_line: &str) -> String {
    let mut text = format!("{name} ended with {status}");
    if !last_line.is_empty() {
        text.push_str(": ");
        escape(&mut text, last_line.trim());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::child::status_of;

    async fn check(stderr: &str, expected: &str) {
        assert_eq!(last_line(Some(stderr.as_bytes())).await, expected, "{stderr:?}");
    }

    #[tokio::test]
    async fn the_last_line_that_says_something_is_the_reason() {
        check("", "").await;
        check("one\ntwo\n\n", "two").await;
        check("no newline", "no newline").await;
        let long = format!("{}\nlast\n", "x".repeat(3 * TAIL_BYTES_MAX));
        check(&long, "last").await;
    }

    #[test]
    fn a_failure_says_the_status_and_the_reason() {
        let status = status_of(3);
        assert_eq!(failure("x", status, " no\tsuch file "), format!("x ended with {status}: no\\tsuch file"));
        assert_eq!(failure("x", status, ""), format!("x ended with {status}"));
    }
}
