//! The arguments of `pipebus bench`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, value_parser};
use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Work {
    /// One publisher and one subscriber, as fast as they can
    Throughput(Flow),
    /// One publisher and several subscribers, each of which gets all
    Fanout(Flow),
    /// Several publishers and several subscribers, each of which gets all from all
    Mesh(Flow),
    /// How long a message takes: there and back, or with --rate one way
    Latency(Latency),
    /// What instances cost that do nothing
    Idle(Idle),
    /// Whether a broker keeps anything of clients that came and went, in every way, for a long time
    Soak(Soak),
    /// What FIFOs, sockets and files carry between two processes, without a bus
    Ipc(Ipc),
}

pub(crate) const BENCH_EXAMPLES: &str = "\
Publishers, subscribers and the broker are processes of their own. Unless --bus is given, the broker is one on a \
temporary bus, which is removed again; PIPEBUS_BUS is not heeded. Needs pipebusd beside pipebus or in PATH.

Examples:
  pipebus bench throughput
  pipebus bench fanout --size 65536 --subscribers 4
  pipebus bench latency --yardstick --rounds 5

Figures hold for this machine, as busy as it is. A yardstick, measured in turns with the bus, tells what the machine's \
pipes carry without a bus.";

pub(crate) const FLOW_EXAMPLES: &str = "\
The first tenth of the time is not counted. With --json, messages_per_s and bytes_per_s are what all subscribers get \
together; yardstick has the same figures for the relay, and ratio is the bus's speed by the relay's.

Exit codes: 1 if a message was lost, others as in the help of pipebus.

Examples:
  pipebus bench throughput --size 1024 --seconds 5
  pipebus bench mesh --publishers 2 --subscribers 2 --rounds 3
  pipebus bench throughput --size 65536 --yardstick --relay copy --json | jq .ratio
  pipebus bench throughput --size 1048576 --loan --yardstick --feed vmsplice";

/// Publishers publish as fast as they may.
#[derive(Debug, Args)]
#[command(after_help = FLOW_EXAMPLES)]
pub(crate) struct Flow {
    /// How many publish [default: 1; mesh: 8]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1024))]
    pub(crate) publishers: Option<u32>,
    /// How many subscribe [default: 1; fanout and mesh: 8]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1024))]
    pub(crate) subscribers: Option<u32>,
    /// Have so many instances connected meanwhile that do nothing
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u32).range(0..=INSTANCES_MAX))]
    pub(crate) idle_instances: u32,
    /// Publish from memory that is lent to the pipe, filled anew for each message, instead of publishing a copy
    #[arg(long)]
    pub(crate) loan: bool,
    #[command(flatten)]
    pub(crate) common: Common,
    /// How the yardstick's relay moves bytes [default: copy below 32 KiB, splice from there]
    #[arg(long, value_enum, requires = "yardstick")]
    pub(crate) relay: Option<Relay>,
    /// How the yardstick's publishers fill their pipes
    #[arg(long, value_enum, requires = "yardstick", default_value_t = Feed::Write)]
    pub(crate) feed: Feed,
}

/// What all that have rounds can be told.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The size of each message's payload
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    #[arg(value_parser = value_parser!(u32).range(0..=SIZE_MAX))]
    size: u32,
    /// How long a round takes, such as 0.5, 2 or 500ms
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// How many rounds; of several the median counts
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Measure in turns with a relay that only reads and writes between pipes, and compare
    #[arg(long)]
    pub(crate) yardstick: bool,
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a broker takes, unless it is configured to take more.
const SIZE_MAX: i64 = 16 << 20;

impl Common {
    pub(crate) fn size(&self) -> usize {
        self.size as usize
    }
}

/// A message at a time.
#[derive(Debug, Args)]
#[command(after_help = LATENCY_EXAMPLES)]
pub(crate) struct Latency {
    /// Publish so many messages a second, and measure one way; needs at least 8 bytes in each
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    pub(crate) common: Common,
}

const LATENCY_EXAMPLES: &str = "\
Without --rate, a message is published when the one before has come back from a second program. With it, a message that \
can't be published when it is due is late since then. The yardstick's messages pass through a relay as often. ratio is \
the bus's median by the yardstick's.

Examples:
  pipebus bench latency --yardstick
  pipebus bench latency --rate 10000 --size 1024
  pipebus bench latency --json | jq .p99_us";

/// Instances that are connected.
#[derive(Debug, Args)]
#[command(after_help = IDLE_EXAMPLES)]
pub(crate) struct Idle {
    /// How many; each needs two file descriptors of the broker
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(1..=INSTANCES_MAX))]
    pub(crate) instances: u32,
    /// How long to watch the broker at rest
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// More than a broker can have file descriptors for on most machines.
const INSTANCES_MAX: i64 = 100_000;

const IDLE_EXAMPLES: &str = "\
Memory is what is resident of the broker; the kernel's own, for pipes, is not in it. The broker's limit of open files \
is raised as far as it may be; see ulimit -Hn.

Examples:
  pipebus bench idle
  pipebus bench idle --instances 5000 --seconds 10 --json | jq .broker_bytes_per_instance";

/// Clients that come and go.
#[derive(Debug, Args)]
#[command(after_help = SOAK_EXAMPLES)]
pub(crate) struct Soak {
    /// How long clients come and go, such as 10 or 0.5; a tenth of it more, at most a minute, to warm up
    #[arg(long, value_name = "N", default_value = "10", value_parser = minutes)]
    pub(crate) minutes: Duration,
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const SOAK_EXAMPLES: &str = "\
Clients publish and lend messages of up to 1 MiB, subscribe with every overflow policy, fast and slow, ask and answer, \
declare and retract topics, leave in good order, just go, and are killed. After the warm-up, and in the end, all go. What \
the broker has then must be what it had: open files, threads, files, instances, topics, subscriptions and queues; and at \
most 16 MiB more memory.

Exit codes: 1 if something has not come back, others as in the help of pipebus.

Examples:
  pipebus bench soak --minutes 60
  pipebus bench soak --minutes 0.5 --json | jq .leaks";

/// Means of communication, side by side.
#[derive(Debug, Args)]
#[command(after_help = IPC_EXAMPLES)]
pub(crate) struct Ipc {
    /// How long to measure each means with each size, one way and there and back
    #[arg(long, value_name = "S", default_value = "0.2", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const IPC_EXAMPLES: &str = "\
Each message is one write. Pipes and sockets are as large as the system makes them, and TCP is on 127.0.0.1. A file is \
read when it has been written, at most 256 MiB; there is no answer to wait for.

Examples:
  pipebus bench ipc
  pipebus bench ipc --seconds 1 --json | jq '.cells[] | select(.means == \"fifo\")'";

/// How the yardstick's relay moves bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Relay {
    /// Reads into a buffer and writes from it, once for each subscriber
    Copy,
    /// Has the kernel move pages, or duplicate them for several subscribers
    Splice,
}

/// How the yardstick's publishers fill their pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Feed {
    /// Write batches of messages
    Write,
    /// Fill buffers and lend them to the kernel
    Vmsplice,
}

/// From this size on, moving pages is faster than copying what is in them.
const SPLICED_BYTES_MIN: usize = 32 * 1024;

impl Relay {
    /// The faster one for messages of this size.
    pub(crate) fn suiting(size: usize) -> Relay {
        if size < SPLICED_BYTES_MIN { Relay::Copy } else { Relay::Splice }
    }
}

/// Minutes, with a fraction.
fn minutes(text: &str) -> Result<Duration, String> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| (MINUTES_MIN..=MINUTES_MAX).contains(minutes));
    let minutes = minutes.ok_or_else(|| "expected minutes, 0.01 to 100000, such as 10 or 0.5".to_owned())?;
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

const MINUTES_MIN: f64 = 0.01;

/// Some two months.
const MINUTES_MAX: f64 = 100_000.0;

/// `2`, `0.5`, or a duration with units.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "expected seconds such as 0.5, or a time such as 500ms".to_owned();
    let duration = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?,
        Err(_) => humantime::parse_duration(text).map_err(|_| wrong())?,
    };
    if (SHORTEST..=LONGEST).contains(&duration) {
        Ok(duration)
    } else {
        Err("expected 0.01 to 3600 seconds".to_owned())
    }
}

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_fraction_or_a_unit() {
        for (text, milliseconds) in [("2", 2000), ("0.5", 500), (".25", 250), ("500ms", 500), ("1m 1s", 61_000)] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "x", "-1", "0", "NaN", "inf", "0.001", "2h", "1e300"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn minutes_may_have_a_fraction() {
        assert_eq!(minutes("10"), Ok(Duration::from_secs(600)));
        assert_eq!(minutes("0.05"), Ok(Duration::from_secs(3)));
        for text in ["", "x", "-1", "0", "NaN", "inf", "1m", "1e9"] {
            assert!(minutes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_relay_suits_the_size() {
        assert_eq!((Relay::suiting(32 * 1024 - 1), Relay::suiting(32 * 1024)), (Relay::Copy, Relay::Splice));
    }
}
