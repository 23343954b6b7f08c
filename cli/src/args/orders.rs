//! Arguments of `disconnect`, `reload`, `log` and `drain`.

use std::time::Duration;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = DISCONNECT_EXAMPLES)]
pub(crate) struct Disconnect {
    /// Whom: the number of an instance, as in pipebus instances
    #[arg(value_name = "ID")]
    pub(crate) instance: u32,
    /// Why: told to the client, to the log and in the event
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Show what the broker says of the instance, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const DISCONNECT_EXAMPLES: &str = "\
The client is told why, and its library does not come back by itself. To keep it out, change the policy.

Exit codes: 0 done, 1 there is no such instance, 4 you may not.

Examples:
  pipebus disconnect 12
  pipebus disconnect 12 --reason 'floods logs/**, please mend'";

#[derive(Debug, Args)]
#[command(after_help = RELOAD_EXAMPLES)]
pub(crate) struct Reload {
    /// Show what the broker says, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const RELOAD_EXAMPLES: &str = "\
The same as SIGHUP (on Windows, ParamChange), but it says what came of it: a configuration that is wrong changes nothing. What else has changed \
than the policy and the limits is named, and needs another broker.

Exit codes: 0 done, 1 the configuration is wrong, 4 you may not.

Examples:
  pipebus reload
  pipebus reload --json | jq '.restart_for[]'";

#[derive(Debug, Args)]
#[command(after_help = LOG_EXAMPLES)]
pub(crate) struct Log {
    /// What to log: error, warn, info, debug, trace or off, also for parts; as log.filter in the configuration
    #[arg(value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    /// Show what the broker says, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const LOG_EXAMPLES: &str = "\
A change lasts until the broker ends. To keep it, set log.filter in the configuration.

Exit codes: 0 done, 1 the filter is wrong, 4 you may not.

Examples:
  pipebus log                                      show what is logged
  pipebus log debug
  pipebus log info,pipebusd::transport=debug";

#[derive(Debug, Args)]
#[command(after_help = DRAIN_EXAMPLES)]
pub(crate) struct Drain {
    /// End in any case after this long, such as 30s or 5m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Call it off: let everybody in again
    #[arg(long, conflicts_with_all = ["timeout", "wait"])]
    pub(crate) cancel: bool,
    /// Wait until the broker has ended; interrupted, it drains on
    #[arg(long)]
    pub(crate) wait: bool,
    /// Show what the broker says, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const DRAIN_EXAMPLES: &str = "\
From now on nobody new is let in, and clients that come back wait; who is connected goes on. Once all have left, or the \
time is over, the broker ends with exit code 0. Commands that only look at the broker, as pipebus status does, are let in \
and not waited for. Under systemd the next knock starts another broker, unless pipebusd.socket is stopped.

Exit codes: 0 done, 1 called off or interrupted while it waits, 4 you may not.

Examples:
  pipebus drain --timeout 5m --wait
  pipebus drain --cancel
  pipebus status                                   for whom it waits";
