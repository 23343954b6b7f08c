//! What passes on the bus as lines for people.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use humantime::format_rfc3339_micros;
use pipebus_client::{Flags, Gap, Kind, Part, Record};

use super::words::{receivers, sender, words};
use crate::args::monitor::Payload;
use crate::format::{escape, push_printable};
use crate::output::{self, grouped};

/// Senders are padded to this, so that what most have sent stands in a column.
const SENDER_WIDTH: usize = 26;

/// So many bytes are in a line of a dump.
const DUMP_BYTES: usize = 16;

/// How lines look.
pub(crate) struct Text {
    payload: Payload,
    topic: Style,
    control: Style,
    loss: Style,
}

impl Text {
    pub(crate) fn new(payload: Payload, coloured: bool) -> Text {
        let style = |colour| output::style(coloured, colour);
        Text {
            payload,
            topic: style(AnsiColor::Cyan),
            control: style(AnsiColor::Magenta),
            loss: style(AnsiColor::Yellow),
        }
    }

    /// Appends a line, and its payload if it is to be shown.
    pub(crate) fn push_record(&self, buffer: &mut Vec<u8>, record: &Record) {
        // Times of records are after 1970 and before 2555, which all have this form: 1970-01-01T00:00:00.000000Z.
        let time = format_rfc3339_micros(record.time).to_string();
        let from = match record.to {
            Some(to) if record.head.kind == Kind::Control => format!("{} -> {to}", sender(&record.sender)),
            _ => sender(&record.sender),
        };
        let mut line = String::with_capacity(160);
        let _ = write!(line, "{}  {from:SENDER_WIDTH$}  ", time.get(11..).unwrap_or(&time));
        let mut escaped = String::with_capacity(line.len());
        escape(&mut escaped, &line);
        match record.head.kind {
            Kind::Control => self.push_control(&mut escaped, record),
            _ => self.push_message(&mut escaped, record),
        }
        buffer.extend_from_slice(escaped.as_bytes());
        if record.head.kind != Kind::Control {
            self.push_payload(buffer, record);
        }
        buffer.push(b'\n');
        if self.payload == Payload::Hexdump && record.head.kind != Kind::Control {
            push_dump(buffer, record.payload());
        }
    }

    /// Appends a line that says what was lost here.
    pub(crate) fn push_gap(&self, buffer: &mut Vec<u8>, gap: &Gap) {
        let loss = self.loss;
        let mut text = String::new();
        escape(&mut text, &gap_text(gap));
        let _ = writeln!(buffer, "{loss}-- {text}{loss:#}");
    }

    fn push_control(&self, line: &mut String, record: &Record) {
        let style = self.control;
        let mut text = String::new();
        match record.control() {
            Some(control) => escape(&mut text, &words(&control)),
            None => text.push_str("what can't be read"),
        }
        let _ = write!(line, "{style}control{style:#}  {text}");
        self.push_losses(line, record);
    }

    fn push_message(&self, line: &mut String, record: &Record) {
        let (head, topic) = (&record.head, self.topic);
        let kind = match head.kind {
            Kind::Request => "request",
            Kind::Reply if head.flags.has(Flags::FAILED) => "failure",
            Kind::Reply => "reply  ",
            _ => "message",
        };
        let mut name = String::new();
        escape(&mut name, record.topic.as_str());
        let _ = write!(line, "{kind}  {topic}{name}{topic:#}  #{}", head.sequence);
        line.push_str(match head.part() {
            Part::Whole => "",
            Part::First => ", first fragment",
            Part::Middle => ", fragment",
            Part::Last => ", last fragment",
        });
        let unit = if head.body == 1 { "byte" } else { "bytes" };
        let _ = write!(line, ", {} {unit} -> {}", grouped(u64::from(head.body)), receivers(record));
        self.push_losses(line, record);
    }

    fn push_losses(&self, line: &mut String, record: &Record) {
        let loss = self.loss;
        if record.waiting > 0 {
            let _ = write!(line, ", {loss}{} without room{loss:#}", record.waiting);
        }
        if record.dropped > 0 {
            let _ = write!(line, ", {loss}{} dropped{loss:#}", record.dropped);
        }
    }

    fn push_payload(&self, buffer: &mut Vec<u8>, record: &Record) {
        if self.payload == Payload::Text && record.head.body > u32::from(record.head.metadata) {
            buffer.extend_from_slice(b"  ");
            push_printable(buffer, record.payload());
            if record.is_cut() && !buffer.ends_with(b"...") {
                buffer.extend_from_slice(b" ...");
            }
        }
    }
}

/// Appends 16 bytes a line: where, as numbers, and as characters.
fn push_dump(buffer: &mut Vec<u8>, payload: &[u8]) {
    for (number, bytes) in payload.chunks(DUMP_BYTES).enumerate() {
        let mut line = format!("    {:06x} ", number * DUMP_BYTES);
        for at in 0..DUMP_BYTES {
            line.push_str(if at == DUMP_BYTES / 2 { "  " } else { " " });
            match bytes.get(at) {
                Some(byte) => _ = write!(line, "{byte:02x}"),
                None => line.push_str("  "),
            }
        }
        line.push_str("  ");
        line.extend(bytes.iter().map(|byte| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' }));
        line.push('\n');
        buffer.extend_from_slice(line.as_bytes());
    }
}

/// What was lost to this monitor, as a sentence.
fn gap_text(gap: &Gap) -> String {
    let mut text = match gap.messages {
        Some(1) => "1 frame lost".to_owned(),
        Some(frames) => format!("{} frames lost", grouped(frames)),
        None => "frames may have been lost".to_owned(),
    };
    if let Some(topic) = &gap.topic {
        let _ = write!(text, " on {topic}");
    }
    text + if gap.messages.is_some() {
        ": this monitor was too slow"
    } else {
        ": the connection to the broker was lost and made again"
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{control, message, sender, with_metadata};
    use super::*;
    use pipebus_client::{Control, GapCause, InstanceId, Metadata, Overflow, Topic};
    use pipebus_proto::control::Role;

    fn check(payload: Payload, record: &Record, expected: &str) {
        let mut buffer = Vec::new();
        Text::new(payload, false).push_record(&mut buffer, record);
        assert_eq!(String::from_utf8(buffer).unwrap(), expected);
    }

    #[test]
    fn a_message_is_a_line() {
        let mut record = message(b"21.5");
        let start = "03:04:05.006007Z  12 thermometer (uid 1000)   message  sensors/kitchen/temp  #17, 4 bytes -> ";
        check(Payload::None, &record, &format!("{start}3 subscribers\n"));
        check(Payload::Text, &record, &format!("{start}3 subscribers  21.5\n"));
        (record.subscribers, record.waiting, record.dropped) = (1, 2, 3);
        check(Payload::None, &record, &format!("{start}1 subscriber, 2 without room, 3 dropped\n"));
        record.subscribers = 0;
        record.body.truncate(2);
        check(Payload::Text, &record, &format!("{start}nobody, 2 without room, 3 dropped  21 ...\n"));
    }

    #[test]
    fn a_request_and_a_reply_say_who_got_them() {
        let mut request = with_metadata(Kind::Request, &Metadata::default(), b"on");
        request.to = Some(InstanceId(13));
        let start = "03:04:05.006007Z  12 thermometer (uid 1000)   ";
        check(Payload::Text, &request, &format!("{start}request  lamp/on  #17, 11 bytes -> 13  on\n"));
        request.head.kind = Kind::Reply;
        check(Payload::None, &request, &format!("{start}reply    lamp/on  #17, 11 bytes -> 13\n"));
        request.head.flags = Flags::FAILED.with(Flags::MORE);
        let expected = format!("{start}failure  lamp/on  #17, first fragment, 11 bytes -> 13\n");
        check(Payload::None, &request, &expected);
    }

    #[test]
    fn a_control_frame_is_in_words() {
        let pattern = "sensors/**".to_owned();
        let subscribe =
            Control::Subscribe { subscription: 1, pattern, role: Role::Subscribe, overflow: Overflow::Block };
        let record = control(&subscribe, None);
        let expected = "03:04:05.006007Z  12 thermometer (uid 1000)   control  subscribe sensors/** (block) as 1\n";
        check(Payload::Hexdump, &record, expected);
        let record = control(&Control::Subscribed { subscription: 1 }, Some(12));
        check(Payload::Text, &record, "03:04:05.006007Z  broker -> 12                control  subscribed 1\n");
        let mut record = control(&Control::Ping { token: 1 }, None);
        record.body.truncate(3);
        let expected = "03:04:05.006007Z  12 thermometer (uid 1000)   control  what can't be read\n";
        check(Payload::None, &record, expected);
    }

    #[test]
    fn a_dump_shows_numbers_and_characters() {
        let record = message(b"0123456789\x1b[31mHello\xff");
        let mut buffer = Vec::new();
        Text::new(Payload::Hexdump, false).push_record(&mut buffer, &record);
        let text = String::from_utf8(buffer).unwrap();
        let dump = "    000000  30 31 32 33 34 35 36 37  38 39 1b 5b 33 31 6d 48  0123456789.[31mH\n    \
                    000010  65 6c 6c 6f ff                                    ello.\n";
        assert_eq!(text.split_once('\n').unwrap().1, dump);
    }

    #[test]
    fn nothing_that_a_client_sends_can_harm_a_terminal() {
        let evil = "a\u{1b}[2J\n\u{202e}\u{9b}b";
        let mut record = message(evil.as_bytes());
        record.sender = sender(12, evil);
        record.topic = Topic::new("a\u{202e}b").unwrap();
        let hello = Control::Hello { version: 1, name: evil.to_owned() };
        for payload in [Payload::None, Payload::Text, Payload::Hexdump] {
            for record in [&record, &control(&hello, None)] {
                let mut buffer = Vec::new();
                Text::new(payload, false).push_record(&mut buffer, record);
                let text = String::from_utf8(buffer).unwrap();
                let harmful = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
                assert!(!text.contains(harmful), "{text:?}");
                assert_eq!(
                    text.lines().count(),
                    if payload == Payload::Hexdump && record.subscribers > 0 { 2 } else { 1 }
                );
            }
        }
    }

    #[test]
    fn colour_is_only_where_it_is_welcome() {
        let mut buffer = Vec::new();
        Text::new(Payload::None, true).push_record(&mut buffer, &message(b""));
        assert!(String::from_utf8(buffer).unwrap().contains("\x1b[36msensors/kitchen/temp\x1b[0m"));
    }

    #[test]
    fn a_gap_says_how_many_where_and_why() {
        let push = |messages, topic: Option<&str>, cause| {
            let topic = topic.map(|topic| Topic::new(topic).unwrap());
            let mut buffer = Vec::new();
            Text::new(Payload::None, false).push_gap(&mut buffer, &Gap { messages, topic, cause });
            String::from_utf8(buffer).unwrap()
        };
        let slow = push(Some(1200), Some("a/b"), GapCause::Overflow);
        assert_eq!(slow, "-- 1,200 frames lost on a/b: this monitor was too slow\n");
        let lost = push(None, None, GapCause::Reconnected);
        assert_eq!(lost, "-- frames may have been lost: the connection to the broker was lost and made again\n");
    }
}
