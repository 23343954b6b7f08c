//! Arguments of `monitor`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, value_parser};
use pipebus_client::{CAPTURE_BYTES_MAX, CONTROL_TOPIC, InstanceId, Kind, Kinds, Watch};
use pipebus_proto::frame::CONTROL_BYTES_MAX;
use pipebus_proto::pattern::Pattern;

use super::pattern;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Monitor {
    /// Which topics [default: all, and control frames]
    #[arg(value_name = "PATTERN", value_parser = pattern)]
    pub(crate) patterns: Vec<Pattern>,
    /// Only what this client sends; `pipebus instances` has the numbers, 0 is the broker
    #[arg(long, value_name = "ID")]
    pub(crate) sender: Option<u32>,
    /// Only frames of this kind; may be repeated
    #[arg(long = "kind", value_enum)]
    pub(crate) kinds: Vec<FrameKind>,
    /// Only frames whose body has so many bytes or more
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) min_size: u32,
    /// Only frames whose body has so many bytes or fewer
    #[arg(long, value_name = "BYTES", default_value_t = u32::MAX, hide_default_value = true)]
    pub(crate) max_size: u32,
    /// How to show payloads, in text
    #[arg(long, value_enum, default_value_t = Payload::None, conflicts_with_all = ["json", "pcapng"])]
    pub(crate) payload: Payload,
    /// Take only so many bytes of each body [default: 256 in text, all with --json and --pcapng]
    #[arg(long, value_name = "N")]
    pub(crate) bytes: Option<u32>,
    /// Print an object a line
    #[arg(long, conflicts_with = "pcapng")]
    pub(crate) json: bool,
    /// Write a capture for Wireshark to this file, or to the standard output if -
    #[arg(long, value_name = "FILE")]
    pub(crate) pcapng: Option<PathBuf>,
    /// End after this many frames
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after this long, such as 500ms or 5s; with --count, exit code 5 says that fewer came
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

const EXAMPLES: &str = "\
A frame is a message, a fragment of one that has more than 256 KiB, a request, a reply, or a control frame, which is what \
clients and the broker say to each other. Its body is headers and payload. Nobody ever waits for a monitor: what it is too \
slow for is lost to it, and told in its place. An answer can stand before its question; their times tell. Control frames \
of which there is one for each message or sender, such as TopicInfo and Released, are not shown. Monitoring is announced \
to administrators, and needs a rule that allows it.

Examples:
  pipebus monitor
  pipebus monitor 'sensors/**' --payload text
  pipebus monitor --kind control --sender 12
  pipebus monitor --min-size 65536 --json | jq .topic
  pipebus monitor --pcapng bus.pcapng --timeout 1m
  pipebus monitor --pcapng - | wireshark -k -i -

contrib/wireshark has the dissector.";

/// So much of a body is taken where payloads are shown to people.
const SHOWN_BYTES: u32 = 256;

/// So much is taken where they are not: the call of a request.
const UNSHOWN_BYTES: u32 = 64;

/// A kind of frame, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FrameKind {
    /// What is published
    Message,
    /// What is asked
    Request,
    /// What is answered
    Reply,
    /// What clients and the broker say to each other
    Control,
}

/// How a payload is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Payload {
    /// Not at all
    None,
    /// Behind the rest of the line
    Text,
    /// In lines of their own, as numbers and characters
    Hexdump,
}

/// Something to ask of the broker: one pattern, and what is wanted there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) pattern: String,
    pub(crate) watch: Watch,
}

impl Monitor {
    /// All that is to be monitored.
    pub(crate) fn wishes(&self) -> Vec<Wish> {
        let kinds = self.kinds.iter().fold(Kinds::NONE, |kinds, kind| kinds.with((*kind).into()));
        let kinds = if kinds == Kinds::NONE { Kinds::ALL } else { kinds };
        let control = self.kinds.contains(&FrameKind::Control) || self.kinds.is_empty() && self.patterns.is_empty();
        let others = self.kinds.is_empty() || self.kinds.iter().any(|kind| *kind != FrameKind::Control);
        let mut patterns: Vec<String> = self.patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        if patterns.is_empty() {
            patterns.push("**".to_owned());
        }
        if !others {
            patterns.clear();
        }
        if control {
            patterns.push(CONTROL_TOPIC.to_owned());
        }
        patterns.into_iter().map(|pattern| self.wish(pattern, kinds)).collect()
    }

    fn wish(&self, pattern: String, kinds: Kinds) -> Wish {
        // What control frames say can be told only if all of it is there.
        let least = if pattern.starts_with('$') { CONTROL_BYTES_MAX } else { 0 };
        let capture_bytes = self.capture_bytes().max(u32::try_from(least).unwrap_or(u32::MAX));
        let sender = self.sender.map(InstanceId);
        Wish {
            pattern,
            watch: Watch { capture_bytes, sender, bytes_min: self.min_size, bytes_max: self.max_size, kinds },
        }
    }

    fn capture_bytes(&self) -> u32 {
        let all = u32::try_from(CAPTURE_BYTES_MAX).unwrap_or(u32::MAX);
        let is_text = !self.json && self.pcapng.is_none();
        match self.bytes {
            Some(bytes) => bytes.min(all),
            None if !is_text => all,
            None if self.payload == Payload::None => UNSHOWN_BYTES,
            None => SHOWN_BYTES,
        }
    }
}

impl From<FrameKind> for Kind {
    fn from(kind: FrameKind) -> Kind {
        match kind {
            FrameKind::Message => Kind::Message,
            FrameKind::Request => Kind::Request,
            FrameKind::Reply => Kind::Reply,
            FrameKind::Control => Kind::Control,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        monitor: Monitor,
    }

    fn parse(arguments: &[&str]) -> Result<Monitor, clap::Error> {
        Only::try_parse_from(["monitor"].iter().chain(arguments)).map(|only| only.monitor)
    }

    fn check(arguments: &[&str], patterns: &[&str]) {
        let wishes = parse(arguments).unwrap().wishes();
        let found: Vec<&str> = wishes.iter().map(|wish| wish.pattern.as_str()).collect();
        assert_eq!(found, patterns, "{arguments:?}");
    }

    #[test]
    fn control_frames_are_shown_by_default_and_when_asked_for() {
        check(&[], &["**", "$bus/control"]);
        check(&["a/*", "b"], &["a/*", "b"]);
        check(&["--kind", "message"], &["**"]);
        check(&["--kind", "control"], &["$bus/control"]);
        check(&["a", "--kind", "control"], &["$bus/control"]);
        check(&["a", "--kind", "control", "--kind", "reply"], &["a", "$bus/control"]);
    }

    #[test]
    fn so_much_of_a_body_is_taken_as_is_shown() {
        let taken = |arguments: &[&str]| -> Vec<u32> {
            parse(arguments).unwrap().wishes().iter().map(|wish| wish.watch.capture_bytes).collect()
        };
        assert_eq!(taken(&[]), [64, 4096]);
        assert_eq!(taken(&["--payload", "text"]), [256, 4096]);
        assert_eq!(taken(&["--json"]), [262_112, 262_112]);
        assert_eq!(taken(&["--pcapng", "-", "--bytes", "10"]), [10, 4096]);
        assert_eq!(taken(&["--payload", "hexdump", "--bytes", "5000", "a"]), [5000]);
        assert_eq!(taken(&["--json", "--bytes", "4000000000", "a"]), [262_112]);
    }

    #[test]
    fn what_is_wanted_is_told_to_the_broker() {
        let all = ["a", "--sender", "0", "--min-size", "5", "--max-size", "9", "--kind", "reply", "--kind", "request"];
        let wish = parse(&all).unwrap().wishes().remove(0);
        let kinds = Kinds::NONE.with(Kind::Request).with(Kind::Reply);
        let watch = Watch { capture_bytes: 64, sender: Some(InstanceId::BROKER), bytes_min: 5, bytes_max: 9, kinds };
        assert_eq!(wish, Wish { pattern: "a".to_owned(), watch });
    }

    #[test]
    fn outputs_exclude_each_other() {
        assert!(parse(&["--json", "--pcapng", "-"]).is_err());
        assert!(parse(&["--json", "--payload", "text"]).is_err());
        assert!(parse(&["--pcapng", "-", "--payload", "hexdump"]).is_err());
    }
}
