//! Arguments of `pub`, `sub`, `request` and `reply`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, value_parser};
use pipebus_client::{Overflow, Topic};
use pipebus_proto::pattern::Pattern;

use super::{pattern, topic};

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
  pipebus sub 'logs/**' --overflow drop-oldest
  pipebus sub '$bus/events/**'                     what happens on the bus, as the broker tells it
  pipebus sub '$bus/events/policy' --format line | jq .identity";

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
(a client's number) and PIPEBUS_UID; on Windows, in PIPEBUS_SID.

Examples:
  pipebus reply host/uptime -- uptime
  pipebus reply 'text/upper' --jobs 4 -- tr a-z A-Z
  pipebus reply 'files/*' -- sh -c 'cat \"/srv/files/${PIPEBUS_TOPIC#files/}\"'";

fn header(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, such as host=web1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_keeps_what_follows_the_first_equals_sign() {
        assert_eq!(header("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(header("a="), Ok(("a".into(), String::new())));
        assert!(header("=b").is_err());
    }
}
