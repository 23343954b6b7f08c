//! The arguments of all commands. What they do is in the commands' own files.

pub(crate) mod inspect;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod monitor;
pub(crate) mod orders;
pub(crate) mod policy;
pub(crate) mod shell;

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use pipebus_client::Topic;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::place::{Address, AddressError};
use pipebus_proto::topic::TopicError;

use self::inspect::{Doctor, Scan};
use self::messages::{Publish, Reply, Request, Subscribe};
use self::metrics::Metrics;
use self::monitor::Monitor;
use self::orders::{Disconnect, Drain, Log, Reload};
use self::policy::Policy;
use self::shell::{Complete, Completions, Man};
use crate::bench::args::{BENCH_EXAMPLES, Work};
use crate::bench::part::Part;
use crate::top::args::Top;
use crate::transport::words::{BUS, DEMO_EXAMPLES, SCAN};

/// Publish, subscribe, ask, and look at a message bus of this machine.
///
/// A topic is a name such as sensors/kitchen/temp. In a pattern, * stands for one segment of a topic and ** for any
/// number of them.
#[derive(Debug, Parser)]
#[command(name = "pipebus", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[arg(long, global = true, env = "PIPEBUS_BUS", default_value = "session", value_name = "ADDRESS")]
    #[arg(help = BUS, value_parser = address)]
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
  pipebus top                                      watch who is there and what they do

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no broker, 4 refused, 5 took too long.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish a message, a file, or every line of the input
    Pub(Publish),
    /// Show what is published to the topics that match
    Sub(Subscribe),
    /// Show or capture every frame that passes
    Monitor(Monitor),
    /// Ask whoever serves a topic, and show the answer
    Request(Request),
    /// Answer requests with the output of a command
    Reply(Reply),
    /// Show how the broker is
    Status(Look),
    /// List the clients that are connected
    Instances(Look),
    /// List what the clients subscribe to
    Subscriptions(Look),
    /// List the topics that clients publish to or ask on
    Topics(Look),
    /// List the users who are connected, and what they hold
    Users(Look),
    /// Show what the broker tells monitoring systems
    Metrics(Metrics),
    /// Watch the bus: a live view of instances, topics and users
    Top(Top),
    /// Disconnect a client, which then stays away
    Disconnect(Disconnect),
    /// Let the broker read its policy and its limits anew
    Reload(Reload),
    /// Show or change what the broker logs
    Log(Log),
    /// Let nobody new in, and end the broker once all have left
    Drain(Drain),
    /// Tell who may do what
    Policy {
        #[command(subcommand)]
        question: Policy,
    },
    /// Check a bus, and tell what is wrong and how to mend it
    Doctor(Doctor),
    #[command(about = SCAN)]
    Scan(Scan),
    /// Show within seconds what a bus does, with a broker of its own
    #[command(after_help = DEMO_EXAMPLES)]
    Demo,
    /// Measure what a bus carries on this machine
    #[command(after_help = BENCH_EXAMPLES)]
    Bench {
        #[command(subcommand)]
        work: Work,
    },
    /// Print a script that lets a shell complete commands, topics, patterns and instances
    Completions(Completions),
    /// What those scripts ask
    #[command(hide = true)]
    Complete(Complete),
    /// Write the manual pages
    #[command(hide = true)]
    Man(Man),
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

pub(crate) fn topic(text: &str) -> Result<Topic, TopicError> {
    Topic::new(text)
}

pub(crate) fn pattern(text: &str) -> Result<Pattern, TopicError> {
    Pattern::new(text)
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
}
