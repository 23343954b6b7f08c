//! Failure: why a command did not do what it was asked, and the exit code that says so.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use humantime::format_duration;
use pipebus_client::Error;

use crate::system::terminal;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] Error),
    #[error("cannot {doing}: {source}")]
    System { doing: String, source: io::Error },
    /// Whoever read the standard output has left. Not told to anybody.
    #[error("nobody reads the output")]
    OutputClosed,
    #[error(
        "a capture is not for a terminal; name a file, or use a pipe: pipebus monitor --pcapng - | wireshark -k -i -"
    )]
    BinaryOnTerminal,
    /// The policy does not allow what was asked about. The answer says so.
    #[error("the policy does not allow it")]
    Denied,
    #[error("{messages} {} in doubt, lost with a connection; publish again what must not be missing", are(*messages))]
    InDoubt { messages: u64 },
    #[error("only {seen} of {wanted} messages came within {}; check the pattern, or wait longer with --timeout", format_duration(*after))]
    TooFew { seen: u64, wanted: u64, after: Duration },
    #[error("no answer from {topic} within {}; ask again, or wait longer with --timeout", format_duration(*after))]
    NoAnswer { topic: String, after: Duration },
    #[error("the input has a line or message of more than {max} bytes, which no broker takes; cut it")]
    InputTooLarge { max: usize },
    #[error("found no pipebusd beside {} nor in PATH; build it with: cargo build --release --workspace", beside.display())]
    NoDaemon { beside: PathBuf },
    #[error("{what} took longer than {}; is the machine very busy? try again", format_duration(*after))]
    Stuck { what: &'static str, after: Duration },
    #[error("{program} ended with {status} instead of doing its part; what it said is above")]
    Ended { program: String, status: std::process::ExitStatus },
    #[error(
        "{lost} messages were lost and {disordered} came out of order, though nothing may be with `block`; the broker's log may say why"
    )]
    Lossy { lost: u64, disordered: u64 },
    #[error("instances no longer connected: {instances}; see the broker's log")]
    Left { instances: u64 },
    #[error("the bus {address} is not alive: {state}")]
    NotAlive { address: String, state: String },
    #[error("{problems} {}; what mends {} is above", if *problems == 1 { "problem" } else { "problems" }, if *problems == 1 { "it" } else { "them" })]
    Unwell { problems: usize },
    #[error("the broker has kept something of clients that are gone: {what}; please report this")]
    Leaked { what: String },
    #[error(
        "this is no terminal to draw on; for text, use: pipebus instances, with --json for programs, or: pipebus top --once"
    )]
    NoTerminal,
    #[error("interrupted; everything that was started has ended")]
    Interrupted,
    #[error("somebody has called the drain off; the broker goes on")]
    CalledOff,
    #[error("interrupted; the broker drains on, unless you call that off with: pipebus drain --cancel")]
    StillDraining,
}

impl Failure {
    pub(crate) fn system(doing: impl Into<String>, source: impl Into<io::Error>) -> Failure {
        Failure::System { doing: doing.into(), source: source.into() }
    }

    /// Of a write to the standard output.
    pub(crate) fn writing(source: io::Error) -> Failure {
        match terminal::is_closed(&source) {
            true => Failure::OutputClosed,
            false => Failure::system("write the output", source),
        }
    }

    /// What the shell is told; the list in the help of `pipebus` explains.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Client(error) => client_exit_code(error),
            Failure::BinaryOnTerminal => USAGE,
            Failure::Denied => REFUSED,
            Failure::NotAlive { .. } => NO_BROKER,
            Failure::TooFew { .. } | Failure::NoAnswer { .. } | Failure::Stuck { .. } => TIMED_OUT,
            Failure::System { .. }
            | Failure::OutputClosed
            | Failure::InDoubt { .. }
            | Failure::InputTooLarge { .. }
            | Failure::NoDaemon { .. }
            | Failure::Ended { .. }
            | Failure::Lossy { .. }
            | Failure::Left { .. }
            | Failure::Unwell { .. }
            | Failure::Leaked { .. }
            | Failure::NoTerminal
            | Failure::Interrupted
            | Failure::CalledOff
            | Failure::StillDraining => FAILED,
        }
    }
}

fn client_exit_code(error: &Error) -> u8 {
    match error {
        Error::Address(_) | Error::Name(_) => USAGE,
        Error::NoBroker { .. } | Error::NotFifo { .. } => NO_BROKER,
        Error::NoPermission { .. }
        | Error::Distrust(_)
        | Error::Version(_)
        | Error::Full(_)
        | Error::Draining(_)
        | Error::Forbidden(_)
        | Error::TooMany(_)
        | Error::Refused { .. } => REFUSED,
        Error::TimedOut { .. } => TIMED_OUT,
        _ => FAILED,
    }
}

fn are(messages: u64) -> &'static str {
    if messages == 1 { "message is" } else { "messages are" }
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NO_BROKER: u8 = 3;
const REFUSED: u8 = 4;
const TIMED_OUT: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use pipebus_client::{Failure as Unanswered, Topic};

    fn check(error: impl Into<Failure>, code: u8) {
        let failure = error.into();
        assert_eq!(failure.exit_code(), code, "{failure}");
    }

    #[test]
    fn every_kind_of_failure_has_its_exit_code() {
        check(Failure::system("read the input", io::ErrorKind::NotFound), 1);
        check(Failure::InDoubt { messages: 2 }, 1);
        check(Error::Failed("division by zero".into()), 1);
        check(Error::NoServer { topic: "a".into() }, 1);
        check(Error::Unanswered { topic: "a".into(), failure: Unanswered::Busy }, 1);
        check(Error::Name(Topic::new("a//b").unwrap_err()), 2);
        check(Error::NoBroker { path: "/x".into() }, 3);
        check(Error::NoPermission { path: "/x".into() }, 4);
        check(Error::Full("the broker has 5 instances".into()), 4);
        check(Error::Draining("the broker is being drained".into()), 4);
        check(Error::Forbidden("rule 3".into()), 4);
        check(Error::TimedOut { doing: "waiting", after: Duration::from_secs(5) }, 5);
        check(Failure::NotAlive { address: "/x".into(), state: "stale".into() }, 3);
        check(Failure::TooFew { seen: 1, wanted: 2, after: Duration::from_secs(5) }, 5);
    }

    #[test]
    fn a_closed_output_is_told_from_other_failures_to_write() {
        assert!(matches!(Failure::writing(io::ErrorKind::BrokenPipe.into()), Failure::OutputClosed));
        assert!(matches!(Failure::writing(io::ErrorKind::StorageFull.into()), Failure::System { .. }));
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let after = Duration::from_millis(1500);
        let text = Failure::TooFew { seen: 1, wanted: 3, after }.to_string();
        assert_eq!(text, "only 1 of 3 messages came within 1s 500ms; check the pattern, or wait longer with --timeout");
        assert!(Failure::InDoubt { messages: 1 }.to_string().starts_with("1 message is in doubt"));
    }
}
