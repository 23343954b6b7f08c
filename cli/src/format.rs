//! How messages and gaps look: as text for people, as JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write};

use clap::builder::styling::Style;
use pipebus_client::{Gap, GapCause, Identity, Message, Sender};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Map, Value};

use crate::output::grouped;

/// So many bytes of a binary payload are shown.
const HEX_BYTES_MAX: usize = 16;

/// Appends `topic  payload` and a newline.
pub(crate) fn push_text(buffer: &mut Vec<u8>, topic: &str, payload: &[u8], style: Style) {
    if style.is_plain() {
        buffer.extend_from_slice(topic.as_bytes());
    } else {
        push(buffer, format_args!("{style}{topic}{style:#}"));
    }
    buffer.extend_from_slice(b"  ");
    push_printable(buffer, payload);
    buffer.push(b'\n');
}

/// Appends a payload so that it stays on its line and can do a terminal no harm.
pub(crate) fn push_printable(buffer: &mut Vec<u8>, payload: &[u8]) {
    if payload.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return buffer.extend_from_slice(payload);
    }
    match std::str::from_utf8(payload) {
        Ok(text) if !text.chars().any(is_binary) => {
            let mut escaped = String::with_capacity(text.len() + 8);
            escape(&mut escaped, text);
            buffer.extend_from_slice(escaped.as_bytes());
        }
        _ => push_hex(buffer, payload),
    }
}

fn push_hex(buffer: &mut Vec<u8>, payload: &[u8]) {
    push(buffer, format_args!("[{} bytes]", grouped(payload.len() as u64)));
    for byte in &payload[..payload.len().min(HEX_BYTES_MAX)] {
        push(buffer, format_args!(" {byte:02x}"));
    }
    if payload.len() > HEX_BYTES_MAX {
        buffer.extend_from_slice(b" ...");
    }
}

/// Whether a character is in no text: a control character other than those for lines, tabs and terminal colours.
fn is_binary(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{1b}')
}

/// Appends `text` without anything that moves the cursor, ends the line or turns the writing direction around.
pub(crate) fn escape(escaped: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => escaped.extend(c.escape_default()),
            c if is_harmful(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
}

/// Whether a terminal would do something with it, or show what follows in another order.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What [`escape`] makes of a text.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    escape(&mut escaped, text);
    escaped
}

fn push(buffer: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    // Memory takes all that is written to it.
    let _ = buffer.write_fmt(what);
}

/// Appends a message as a JSON object and a newline.
pub(crate) fn push_json(buffer: &mut Vec<u8>, message: &Message) {
    let sender = message.sender();
    let payload = std::str::from_utf8(&message.payload);
    let object = Object {
        topic: message.topic().as_str(),
        sender: sender.id.0,
        uid: sender.uid(),
        sid: sid_of(sender),
        name: &sender.name,
        sequence: message.sequence,
        payload_base64: if payload.is_err() { Some(base64(&message.payload)) } else { None },
        payload: payload.ok(),
        // Whoever puts no headers where headers belong has none.
        headers: headers(message.headers().unwrap_or_default()),
    };
    push_object(buffer, &object);
}

/// Who has sent something, on Windows.
pub(crate) fn sid_of(sender: &Sender) -> Option<&str> {
    match &sender.identity {
        Identity::Windows { sid } => Some(sid),
        Identity::Unix { .. } => None,
    }
}

#[derive(Serialize)]
struct Object<'a> {
    topic: &'a str,
    sender: u32,
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
    name: &'a str,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
}

/// A header that was given several times has a list of values.
pub(crate) fn headers(all: Vec<(String, String)>) -> Map<String, Value> {
    let mut map = Map::new();
    for (name, value) in all {
        let value = match map.remove(&name) {
            None => Value::String(value),
            Some(Value::Array(mut values)) => {
                values.push(Value::String(value));
                Value::Array(values)
            }
            Some(first) => Value::Array(vec![first, Value::String(value)]),
        };
        map.insert(name, value);
    }
    map
}

pub(crate) fn push_object(buffer: &mut Vec<u8>, object: &impl Serialize) {
    // Text and numbers are always JSON, and memory takes all that is written to it.
    let _ = object.serialize(&mut Serializer::with_formatter(&mut *buffer, Harmless));
    buffer.push(b'\n');
}

/// JSON that does a terminal no harm either: of control characters, JSON itself escapes only those of ASCII.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        if !rest.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            while let Some(at) = rest.find(is_harmful) {
                let (before, harmful) = rest.split_at(at);
                writer.write_all(before.as_bytes())?;
                let mut after = harmful.chars();
                // None of them needs more than one unit of UTF-16.
                after.next().map_or(Ok(()), |c| write!(writer, "\\u{:04x}", u32::from(c)))?;
                rest = after.as_str();
            }
        }
        writer.write_all(rest.as_bytes())
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let group = three.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= three.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

/// Appends a gap as a JSON object and a newline.
pub(crate) fn push_gap_json(buffer: &mut Vec<u8>, gap: &Gap) {
    let cause = match gap.cause {
        GapCause::Overflow => "overflow",
        GapCause::Reconnected => "reconnected",
        GapCause::Reassembly => "reassembly",
        _ => "unknown",
    };
    let topic = gap.topic.as_ref().map(|topic| topic.as_str());
    let object = serde_json::json!({ "gap": { "messages": gap.messages, "topic": topic, "cause": cause } });
    push_object(buffer, &object);
}

/// A gap as a sentence.
pub(crate) fn gap_text(gap: &Gap) -> String {
    let mut text = match gap.messages {
        Some(1) => "-- 1 message lost".to_owned(),
        Some(messages) => format!("-- {} messages lost", grouped(messages)),
        None => "-- messages may have been lost".to_owned(),
    };
    if let Some(topic) = &gap.topic {
        let _ = write!(text, " on {topic}");
    }
    text + match gap.cause {
        GapCause::Overflow => ": this subscriber was too slow",
        GapCause::Reconnected => ": the connection to the broker was lost and made again",
        GapCause::Reassembly => ": too large, or too many large ones at once",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::builder::styling::AnsiColor;
    use pipebus_client::Topic;

    fn check_text(payload: &[u8], expected: &str) {
        let mut buffer = Vec::new();
        push_text(&mut buffer, "a/b", payload, Style::new());
        assert_eq!(String::from_utf8(buffer).unwrap(), format!("a/b  {expected}\n"));
    }

    #[test]
    fn json_does_a_terminal_no_harm_and_says_the_same() {
        let text = "a\u{9b}2Jb\u{7f} \u{202e}Käse\u{2066}\u{1b}\n";
        let mut json = Vec::new();
        push_object(&mut json, &text);
        assert_eq!(json, b"\"a\\u009b2Jb\\u007f \\u202eK\xc3\xa4se\\u2066\\u001b\\n\"\n");
        assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
    }

    #[test]
    fn text_stays_on_its_line_and_does_a_terminal_no_harm() {
        check_text(b"21.5", "21.5");
        check_text(b"", "");
        check_text("Käse\n".as_bytes(), "Käse\\n");
        check_text(b"a\tb\r\n", "a\\tb\\r\\n");
        check_text(br#"{"path":"C:\\x"}"#, r#"{"path":"C:\\x"}"#);
        check_text(b"\x1b[31mred", "\\u{1b}[31mred");
        check_text("a\u{202e}b".as_bytes(), "a\\u{202e}b");
    }

    #[test]
    fn binary_is_shown_shortened_with_its_size() {
        check_text(&[0xff, 0x00], "[2 bytes] ff 00");
        check_text(b"ab\0", "[3 bytes] 61 62 00");
        check_text(&[0; 2000], &format!("[2,000 bytes]{} ...", " 00".repeat(16)));
    }

    #[test]
    fn the_topic_alone_is_coloured() {
        let mut buffer = Vec::new();
        push_text(&mut buffer, "a", b"b", AnsiColor::Cyan.on_default());
        assert_eq!(buffer, b"\x1b[36ma\x1b[0m  b\n");
    }

    #[test]
    fn base64_agrees_with_the_vectors_of_rfc_4648() {
        let all: Vec<String> = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|s| base64(s.as_bytes())).into();
        assert_eq!(all, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn a_repeated_header_keeps_all_its_values() {
        let all = [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(Value::Object(headers(all.into())), serde_json::json!({ "a": ["1", "3", "4"], "b": "2" }));
    }

    #[test]
    fn an_object_has_no_keys_for_what_is_not_there() {
        let mut object = Object {
            topic: "a",
            sender: 1,
            uid: Some(0),
            sid: None,
            name: "x",
            sequence: 7,
            payload: Some("p\n"),
            payload_base64: None,
            headers: Map::new(),
        };
        let mut buffer = Vec::new();
        push_object(&mut buffer, &object);
        let expected = r#"{"topic":"a","sender":1,"uid":0,"name":"x","sequence":7,"payload":"p\n"}"#;
        assert_eq!(String::from_utf8(buffer).unwrap(), format!("{expected}\n"));
        (object.uid, object.payload, object.payload_base64) = (None, None, Some("/w==".into()));
        let json = serde_json::to_string(&object).unwrap();
        assert_eq!(json, r#"{"topic":"a","sender":1,"uid":null,"name":"x","sequence":7,"payload_base64":"/w=="}"#);
    }

    #[test]
    fn a_gap_says_how_many_where_and_why() {
        let topic = Topic::new("a/b").ok();
        let gap = Gap { messages: Some(1200), topic, cause: GapCause::Overflow };
        assert_eq!(gap_text(&gap), "-- 1,200 messages lost on a/b: this subscriber was too slow");
        let mut json = Vec::new();
        push_gap_json(&mut json, &gap);
        let expected = r#"{"gap":{"cause":"overflow","messages":1200,"topic":"a/b"}}"#;
        assert_eq!(String::from_utf8(json).unwrap(), format!("{expected}\n"));
        let gap = Gap { messages: None, topic: None, cause: GapCause::Reconnected };
        let expected = "-- messages may have been lost: the connection to the broker was lost and made again";
        assert_eq!(gap_text(&gap), expected);
    }
}
