//! Arguments of `policy`.

use clap::{Args, Subcommand, ValueEnum};
use pipebus_proto::pattern::Pattern;

use super::pattern;

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
