//! The arguments of all commands. What they do is in the commands' own files.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, value_parser};
use pipebus_client::{Overflow, Topic};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::place::{Address, AddressError};
use pipebus_proto::topic::TopicError;

use crate::bench::args::{BENCH_EXAMPLES, Work};
use crate::bench::part::Part;

/// Publish, subscribe, ask, and look at a message bus of this machine.
///
/// A topic is a name such as sensors/kitchen/temp. In a pattern, * stands for one segment of a topic and ** for any
/// number of them.
#[derive(Debug, Parser)]
#[command(name = "pipebus", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Which bus: session, system, or a directory
    #[arg(long, global = true, env = "PIPEBUS_BUS", default_value = "session", value_name = "ADDRESS")]
    #[arg(value_parser = address)]
    pub(crate) bus: Address,
    /// Whether the bus was named on the command line.
    #[arg(skip)]
    bus_flag: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Those of this process, which ends here if they are wrong.
    pub(crate) fn of_process() -> Arguments {
        Arguments::of(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn of(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Arguments, clap::Error> {
        let mut command = Arguments::command();
        let matches = command.try_get_matches_from_mut(words)?;
        let arguments = Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        let bus_flag = matches.value_source("bus") == Some(ValueSource::CommandLine);
        Ok(Arguments { bus_flag, ..arguments })
    }

    /// The bus, if it was named on the command line: what is done by default may be done to a bus of one's own.
    pub(crate) fn bus_flag(&self) -> Option<&Address> {
        self.bus_flag.then_some(&self.bus)
    }
}

const EXAMPLES: &str = "\
Examples:
  pipebus demo                                     see what a bus does, with a broker of its own
  pipebus sub 'sensors/**'                         show what is published
  pipebus pub sensors/kitchen/temp 21.5            publish a message
  pipebus request host/uptime                      ask whoever serves host/uptime
  pipebus status                                   look at the broker

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no broker, 4 refused, 5 took too long.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish a message, a file, or every line of the input
    Pub(Publish),
    /// Show what is published to the topics that match
    Sub(Subscribe),
    /// Ask whoever serves a topic, and show the answer
    Request(Request),
    /// Answer requests with the output of a command
    Reply(Reply),
    /// Show how the broker is
    Status(Look),
    /// List the clients that are connected
    Instances(Look),
    /// List the topics that clients publish to or ask on
    Topics(Look),
    /// List the users who are connected, and what they hold
    Users(Look),
    /// Tell who may do what
    Policy {
        #[command(subcommand)]
        question: Policy,
    },
    /// Show within seconds what a bus does, with a broker of its own
    #[command(after_help = DEMO_EXAMPLES)]
    Demo,
    /// Measure what a bus carries on this machine
    #[command(after_help = BENCH_EXAMPLES)]
    Bench {
        #[command(subcommand)]
        work: Work,
    },
    /// What a process of `bench` does
    #[command(hide = true)]
    BenchPart {
        #[arg(value_parser = part)]
        part: Box<Part>,
    },
    /// Run a command that is asked to end when who has started this does
    #[command(hide = true)]
    Tether {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Tell whether a user may do something, and which rule of the broker's policy decides
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Who: a user's name or number
    #[arg(long, value_name = "USER")]
    pub(crate) user: String,
    /// What
    #[arg(long, value_enum, value_name = "ACTION")]
    pub(crate) action: Act,
    /// Where: a topic, or a pattern that asks whether on any topic that it means
    #[arg(value_parser = pattern, required_if_eq_any = TOPICAL)]
    pub(crate) topic: Option<Pattern>,
    /// Show JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

const CHECK_EXAMPLES: &str = "\
Exit codes: 0 it is allowed, 4 it is denied, or you may not ask.

Examples:
  pipebus policy check --user ann --action publish sensors/kitchen/temp
  pipebus --bus system policy check --user 1000 --action connect
  pipebus policy check --user ann --action subscribe 'sensors/**' --json";

/// The actions that need a topic.
const TOPICAL: [(&str, &str); 7] = [
    ("action", "publish"),
    ("action", "subscribe"),
    ("action", "request"),
    ("action", "serve"),
    ("action", "block"),
    ("action", "monitor"),
    ("action", "admin"),
];

/// What the policy speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Act {
    /// Be let in; no topic is needed
    Connect,
    /// Send messages to a topic
    Publish,
    /// Get a topic's messages
    Subscribe,
    /// Ask on a topic
    Request,
    /// Answer what is asked on a topic
    Serve,
    /// Make a topic's publishers wait with a subscription that blocks
    Block,
    /// Watch what others send to a topic
    Monitor,
    /// Ask the broker on one of its own topics
    Admin,
}

const DEMO_EXAMPLES: &str = "\
Starts a pipebusd on a temporary directory, has programs publish, subscribe, ask and be too slow, \
and removes all of it again. Needs pipebusd beside pipebus or in PATH.

Examples:
  pipebus demo
  NO_COLOR=1 pipebus demo | less";

#[derive(Debug, Args)]
#[command(after_help = PUBLISH_EXAMPLES)]
pub(crate) struct Publish {
    /// Where to publish, such as sensors/kitchen/temp
    #[arg(value_parser = topic)]
    pub(crate) topic: Topic,
    /// The message; without one, or with -, all of the standard input
    #[arg(conflicts_with_all = ["lines", "file"])]
    pub(crate) message: Option<OsString>,
    /// Publish each line as a message, as soon as it comes
    #[arg(long)]
    pub(crate) lines: bool,
    /// Read this file instead of the standard input
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// Add a header to the message, or to each; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
}

const PUBLISH_EXAMPLES: &str = "\
When it has ended with exit code 0, the broker has passed all messages on.

Examples:
  pipebus pub sensors/kitchen/temp 21.5
  pipebus pub backup/done --header host=web1 --file report.json
  tail -f app.log | pipebus pub logs/app --lines";

#[derive(Debug, Args)]
#[command(after_help = SUBSCRIBE_EXAMPLES)]
pub(crate) struct Subscribe {
    /// Which topics, such as 'sensors/*/temp' or 'sensors/**'
    #[arg(required = true, value_name = "PATTERN", value_parser = pattern)]
    pub(crate) patterns: Vec<Pattern>,
    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after this long, such as 500ms or 5s; with --count, exit code 5 says that fewer came
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// How to show messages
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// What is to happen when messages come faster than they are taken
    #[arg(long, value_enum, default_value_t = OnOverflow::Block)]
    pub(crate) overflow: OnOverflow,
}

const SUBSCRIBE_EXAMPLES: &str = "\
Lost messages are always reported: on standard error, and with --format json as an object \"gap\" in their place.

Examples:
  pipebus sub 'sensors/**' 'logs/app'
  pipebus sub 'sensors/**' --format json | jq .payload
  pipebus sub backup/done --count 1 --timeout 1h --format raw > report.json
  pipebus sub 'logs/**' --overflow drop-oldest";

/// How messages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Topic and payload, for people
    Text,
    /// The payloads and nothing else
    Raw,
    /// Each payload and a newline
    Line,
    /// An object a line, with topic, sender and payload
    Json,
}

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnswerFormat {
    /// The payload and nothing else
    Raw,
    /// The payload and a newline
    Line,
    /// An object, with topic, sender and payload
    Json,
}

/// [`Overflow`], as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOverflow {
    /// The publishers wait
    Block,
    /// The oldest waiting messages are dropped
    DropOldest,
    /// New messages are dropped
    DropNewest,
    /// The newest message of each topic is kept
    Latest,
    /// The connection is ended, and made again
    Disconnect,
}

impl From<OnOverflow> for Overflow {
    fn from(on: OnOverflow) -> Overflow {
        match on {
            OnOverflow::Block => Overflow::Block,
            OnOverflow::DropOldest => Overflow::DropOldest,
            OnOverflow::DropNewest => Overflow::DropNewest,
            OnOverflow::Latest => Overflow::Latest,
            OnOverflow::Disconnect => Overflow::Disconnect,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = REQUEST_EXAMPLES)]
pub(crate) struct Request {
    /// Whom to ask
    #[arg(value_parser = topic)]
    pub(crate) topic: Topic,
    /// What to ask: nothing if left out, all of the standard input if -
    pub(crate) message: Option<OsString>,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// How to show the answer [default: line on a terminal, raw elsewhere]
    #[arg(long, value_enum)]
    pub(crate) format: Option<AnswerFormat>,
}

const REQUEST_EXAMPLES: &str = "\
Examples:
  pipebus request host/uptime
  pipebus request math/sum '[1, 2, 3]' --timeout 500ms
  pipebus request image/shrink - < photo.jpg > small.jpg";

#[derive(Debug, Args)]
#[command(after_help = REPLY_EXAMPLES)]
pub(crate) struct Reply {
    /// Which requests to answer: a topic or a pattern
    #[arg(value_name = "TOPIC", value_parser = pattern)]
    pub(crate) pattern: Pattern,
    /// What to run for each request
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// How many requests to answer at the same time [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1024))]
    pub(crate) jobs: Option<u32>,
    /// End after this many requests
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

const REPLY_EXAMPLES: &str = "\
The request is the command's standard input, and its standard output the answer. A command that fails answers with \
its exit status and the last line of its standard error. It finds who asks for what in PIPEBUS_TOPIC, PIPEBUS_SENDER \
(a client's number) and PIPEBUS_UID.

Examples:
  pipebus reply host/uptime -- uptime
  pipebus reply 'text/upper' --jobs 4 -- tr a-z A-Z
  pipebus reply 'files/*' -- sh -c 'cat \"/srv/files/${PIPEBUS_TOPIC#files/}\"'";

#[derive(Debug, Args)]
#[command(after_help = LOOK_EXAMPLES)]
pub(crate) struct Look {
    /// Print what the broker says, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const LOOK_EXAMPLES: &str = "\
Examples:
  pipebus status
  pipebus instances --bus system
  pipebus topics --json | jq -r '.[].name'";

fn address(text: &str) -> Result<Address, AddressError> {
    text.parse()
}

fn part(text: &str) -> serde_json::Result<Box<Part>> {
    serde_json::from_str(text)
}

fn topic(text: &str) -> Result<Topic, TopicError> {
    Topic::new(text)
}

fn pattern(text: &str) -> Result<Pattern, TopicError> {
    Pattern::new(text)
}

fn header(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, such as host=web1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    fn refused(arguments: &[&str]) -> clap::Error {
        let all = ["pipebus"].iter().chain(arguments);
        Arguments::try_parse_from(all).expect_err("these are wrong")
    }

    #[test]
    fn a_bus_that_is_named_is_told_from_the_default() {
        for (words, flag) in [(&["status"][..], None), (&["--bus", "/x", "status"], Some("/x"))] {
            let arguments = Arguments::of(["pipebus"].iter().chain(words)).unwrap();
            assert_eq!(arguments.bus_flag().map(Address::to_string).as_deref(), flag);
        }
        let after = Arguments::of(["pipebus", "bench", "throughput", "--bus", "/x"]).unwrap();
        assert!(after.bus_flag().is_some());
    }

    #[test]
    fn a_malformed_name_is_wrong_usage_and_the_message_says_where() {
        for arguments in
            [&["pub", "a//b", "x"][..], &["sub", "ok", "a//b"], &["request", "a//b"], &["reply", "a//b", "--", "x"]]
        {
            let error = refused(arguments);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("empty segment at byte 2"), "{error}");
        }
        assert!(refused(&["pub", "a/*", "x"]).to_string().contains("only patterns may have wildcards"));
    }

    #[test]
    fn what_cannot_be_together_is_refused() {
        assert_eq!(refused(&["pub", "a", "x", "--lines"]).kind(), ErrorKind::ArgumentConflict);
        assert_eq!(refused(&["pub", "a", "x", "--file", "y"]).kind(), ErrorKind::ArgumentConflict);
        assert_eq!(refused(&["sub", "a", "--count", "0"]).kind(), ErrorKind::ValueValidation);
        assert_eq!(refused(&["reply", "a", "--"]).kind(), ErrorKind::MissingRequiredArgument);
        assert!(refused(&["pub", "a", "--header", "x"]).to_string().contains("NAME=VALUE"));
        assert!(refused(&["--bus", "sesion", "status"]).to_string().contains("./sesion"));
    }

    #[test]
    fn a_header_keeps_what_follows_the_first_equals_sign() {
        assert_eq!(header("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(header("a="), Ok(("a".into(), String::new())));
        assert!(header("=b").is_err());
    }
}
