//! PROTOCOL.md against the code: its test vectors in both directions, its numbers and its limits.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use pipebus_proto::control::{
    Control, Failure, Farewell, Identity, NAME_BYTES_MAX, Overflow, Purpose, Reason, Regarding, Role, Welcome,
};
use pipebus_proto::frame::{
    BODY_BYTES_MAX, CONTROL_BYTES_MAX, Call, FRAME_BYTES_MAX, Flags, HEAD_BYTES, Head, Kind, METADATA_BYTES_MAX,
    Metadata, PROTOCOL_VERSION,
};
use pipebus_proto::knock::{KNOCK_BYTES, Knock, KnockFinder, KnockId};
use pipebus_proto::record::{CAPTURE_BYTES_MAX, Kinds, RecordHead, Watch};
use pipebus_proto::splitter::next_span;
use pipebus_proto::topic::{InstanceId, TOPIC_BYTES_MAX, TopicId};
use pipebus_proto::wire;

const PROTOCOL: &str = include_str!("../PROTOCOL.md");

/// More than there are variants in any enum, and more bytes than any of them needs.
const TAGS: u32 = 64;
const ZEROS: usize = 128;

#[test]
fn every_vector_has_a_value_and_every_value_a_vector() {
    let names: Vec<String> = values().into_iter().map(|(name, _)| name.to_owned()).collect();
    let unique: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(unique.len(), names.len(), "a name is there twice");
    assert_eq!(unique, vectors().into_keys().collect::<BTreeSet<String>>());
}

#[test]
fn every_value_encodes_to_its_vector() {
    let vectors = vectors();
    for (name, value) in values() {
        assert_eq!(hex(&value.encode()), hex(&vectors[name]), "{name}");
    }
}

#[test]
fn every_vector_decodes_to_its_value() {
    let vectors = vectors();
    for (name, value) in values() {
        value.check_decoded(name, &vectors[name]);
    }
}

#[test]
fn every_control_variant_has_a_vector_and_a_section() {
    let vectors = vectors();
    let mut known = 0;
    for tag in 0..TAGS {
        let Some(control) = control_with(tag) else { continue };
        let (vector, title) = names(&control);
        assert!(vectors.contains_key(vector), "there is no vector {vector}");
        assert!(PROTOCOL.contains(&format!("\n### {tag}: {title}\n")), "there is no section on {tag}: {title}");
        known += 1;
    }
    let tags: BTreeSet<[u8; 4]> = values()
        .iter()
        .filter_map(|(_, value)| match value {
            Value::Control(control) => Some(wire::encode_control(control)[HEAD_BYTES..][..4].try_into().unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(tags.len(), known);
}

/// The vector and the section of a variant. Whoever adds a variant adds both, and its value to [`values`].
fn names(control: &Control) -> (&'static str, &'static str) {
    match control {
        Control::Hello { .. } => ("hello", "Hello"),
        Control::Welcome(_) => ("welcome", "Welcome"),
        Control::Refused { .. } => ("refused-connection", "Refused"),
        Control::Goodbye { .. } => ("goodbye", "Goodbye"),
        Control::Declare { .. } => ("declare", "Declare"),
        Control::Declared { .. } => ("declared", "Declared"),
        Control::Retract { .. } => ("retract", "Retract"),
        Control::Subscribe { .. } => ("subscribe", "Subscribe"),
        Control::Subscribed { .. } => ("subscribed", "Subscribed"),
        Control::Unsubscribe { .. } => ("unsubscribe", "Unsubscribe"),
        Control::Unsubscribed { .. } => ("unsubscribed", "Unsubscribed"),
        Control::TopicInfo { .. } => ("topic-info", "TopicInfo"),
        Control::TopicGone { .. } => ("topic-gone", "TopicGone"),
        Control::SenderInfo { .. } => ("sender-info-unix", "SenderInfo"),
        Control::SenderGone { .. } => ("sender-gone", "SenderGone"),
        Control::Gap { .. } => ("gap", "Gap"),
        Control::Abort { .. } => ("abort", "Abort"),
        Control::Ping { .. } => ("ping", "Ping"),
        Control::Pong { .. } => ("pong", "Pong"),
        Control::RequestFailed { .. } => ("request-failed", "RequestFailed"),
        Control::Cancel { .. } => ("cancel", "Cancel"),
        Control::Consumed { .. } => ("consumed", "Consumed"),
        Control::Released { .. } => ("released", "Released"),
        Control::Revoked { .. } => ("revoked", "Revoked"),
        Control::Visit { .. } => ("visit", "Visit"),
        Control::LastCall => ("last-call", "LastCall"),
    }
}

#[test]
fn every_enum_is_documented_with_its_numbers() {
    let tail = |zeros: usize| vec![0; zeros];
    check_enum::<Regarding>("Regarding", tail(4));
    check_enum::<Reason>("Reason", tail(0));
    check_enum::<Farewell>("Farewell", tail(0));
    check_enum::<Purpose>("Purpose", tail(0));
    check_enum::<Role>("Role", tail(14));
    check_enum::<Overflow>("Overflow", tail(0));
    check_enum::<Identity>("Identity", tail(8));
    check_enum::<Failure>("Failure", tail(0));
}

/// The rows of the section named `title` are the variants of `T`, which need no more bytes than `tail`.
fn check_enum<T: serde::de::DeserializeOwned + Debug>(title: &str, tail: Vec<u8>) {
    let (_, section) = PROTOCOL.split_once(&format!("\n### {title}\n")).expect(title);
    let section = section.split("\n#").next().unwrap();
    let rows: Vec<(u32, &str)> = section.lines().filter_map(row).collect();
    for (index, (number, name)) in rows.iter().enumerate() {
        assert_eq!(*number as usize, index, "{title}");
        let debug = format!("{:?}", zeroed::<T>(*number, tail.len()).expect(name));
        let variant = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        assert_eq!(variant, *name, "{title}");
    }
    for number in rows.len()..TAGS as usize {
        let found = zeroed::<T>(u32::try_from(number).unwrap(), tail.len());
        assert!(found.is_none(), "{title}: {found:?} is not documented");
    }
}

/// `| 3 | Name | ...`
fn row(line: &str) -> Option<(u32, &str)> {
    let mut cells = line.split('|').map(str::trim);
    Some((cells.nth(1)?.parse().ok()?, cells.next()?))
}

/// The variant with this number whose fields are all zero bytes, of which there are at most `zeros`.
fn zeroed<T: serde::de::DeserializeOwned>(tag: u32, zeros: usize) -> Option<T> {
    (0..=zeros).find_map(|zeros| wire::decode_value(&tagged(tag, zeros)).ok())
}

fn control_with(tag: u32) -> Option<Control> {
    (0..ZEROS).find_map(|zeros| wire::decode_control(&tagged(tag, zeros)).ok())
}

fn tagged(tag: u32, zeros: usize) -> Vec<u8> {
    let mut bytes = tag.to_le_bytes().to_vec();
    bytes.resize(4 + zeros, 0);
    bytes
}

#[test]
fn the_limits_are_those_of_the_code() {
    let check = |what: &str, bytes: usize| {
        let row = format!("\n| {what} | {} bytes", grouped(bytes));
        assert!(PROTOCOL.contains(&row), "there is no row {row:?}");
    };
    check("Knock", KNOCK_BYTES);
    check("Head", HEAD_BYTES);
    check("Body of a frame", BODY_BYTES_MAX);
    check("Frame", FRAME_BYTES_MAX);
    check("Body of a control frame", CONTROL_BYTES_MAX);
    check("Metadata", METADATA_BYTES_MAX);
    check("Captured of a body", CAPTURE_BYTES_MAX);
    check("Name of a client", NAME_BYTES_MAX);
    check("Topic or pattern", TOPIC_BYTES_MAX);
    assert!(PROTOCOL.starts_with(&format!("# The pipebus protocol, version {PROTOCOL_VERSION}\n")));
}

/// 262144 as "262,144".
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// What a vector stands for.
enum Value {
    Knock(Knock),
    Head(Head),
    Metadata(Metadata),
    Control(Control),
    /// The frames of one message: heads without lengths, metadata, and the piece of payload in each.
    Message(Vec<(Head, Option<Metadata>, &'static str)>),
    /// The head without its length, and what was captured.
    Record(Head, RecordHead, Vec<u8>),
    Payload(Payload),
}

type Payload = (bool, i16, Option<String>, Option<u8>, Vec<u16>, char, f64);

impl Value {
    fn encode(&self) -> Vec<u8> {
        match self {
            Value::Knock(knock) => knock.encode().to_vec(),
            Value::Head(head) => wire::encode_head(head).to_vec(),
            Value::Metadata(metadata) => wire::encode_metadata(metadata).unwrap(),
            Value::Control(control) => wire::encode_control(control).to_vec(),
            Value::Message(frames) => frames.iter().flat_map(encode_frame).collect(),
            Value::Record(head, record, captured) => {
                let body = [&record.encode()[..], captured].concat();
                let head = Head { body: u32::try_from(body.len()).unwrap(), ..*head };
                [&wire::encode_head(&head)[..], &body].concat()
            }
            Value::Payload(payload) => wire::encode_value(payload).unwrap(),
        }
    }

    fn check_decoded(&self, name: &str, bytes: &[u8]) {
        match self {
            Value::Knock(knock) => {
                assert_eq!(Knock::decode(bytes.try_into().expect(name)), Some(*knock), "{name}");
                let mut finder = KnockFinder::default();
                finder.push(bytes);
                assert_eq!(finder.next_knock(), Some(*knock), "{name}");
            }
            Value::Head(head) => {
                assert_eq!(bytes.len(), HEAD_BYTES, "{name}");
                assert_eq!(wire::decode_head(bytes), Ok(Some(*head)), "{name}");
            }
            Value::Metadata(metadata) => assert_eq!(wire::decode_metadata(bytes), Ok(metadata.clone()), "{name}"),
            Value::Control(control) => {
                let head = wire::decode_head(bytes).expect(name).expect(name);
                assert_eq!((head.kind, head.frame_bytes()), (Kind::Control, bytes.len()), "{name}");
                assert_eq!(wire::decode_control(&bytes[HEAD_BYTES..]), Ok(control.clone()), "{name}");
            }
            Value::Message(frames) => check_frames(name, frames, bytes),
            Value::Record(head, record, captured) => {
                let span = next_span(&mut BytesMut::from(bytes)).expect(name).expect(name);
                let (found, body) = span.look().next().expect(name);
                assert_eq!((Head { body: 0, ..found }, span.bytes.len()), (*head, bytes.len()), "{name}");
                assert_eq!(RecordHead::decode(body), Ok((*record, &captured[..])), "{name}");
            }
            Value::Payload(payload) => assert_eq!(wire::decode_value(bytes), Ok(payload.clone()), "{name}"),
        }
    }
}

fn encode_frame((head, metadata, piece): &(Head, Option<Metadata>, &'static str)) -> Vec<u8> {
    let metadata = metadata.as_ref().map(|metadata| wire::encode_metadata(metadata).unwrap()).unwrap_or_default();
    let mut head = *head;
    head.metadata = u16::try_from(metadata.len()).unwrap();
    head.body = u32::try_from(metadata.len() + piece.len()).unwrap();
    if head.part().ends() && head.part().begins() {
        let mut cut = Vec::new();
        wire::for_each_frame(head, &metadata, &Bytes::from(*piece), |head, metadata, piece| {
            cut = [&head[..], metadata, &piece[..]].concat();
        });
        return cut;
    }
    [&wire::encode_head(&head)[..], &metadata, piece.as_bytes()].concat()
}

fn check_frames(name: &str, frames: &[(Head, Option<Metadata>, &'static str)], bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    for (head, metadata, piece) in frames {
        let span = next_span(&mut buffer).expect(name).expect(name);
        assert_eq!(span.frames, 1, "{name}");
        let frame = span.iter().next().expect(name);
        let found = Head { body: 0, metadata: 0, ..frame.head };
        assert_eq!(found, *head, "{name}");
        let found = (!frame.metadata().is_empty()).then(|| wire::decode_metadata(frame.metadata()).expect(name));
        assert_eq!(found, *metadata, "{name}");
        assert_eq!(frame.payload(), piece.as_bytes(), "{name}");
    }
    assert!(buffer.is_empty(), "{name}");
}

fn values() -> Vec<(&'static str, Value)> {
    let mut values = plain_values();
    values.extend(controls_of_connections().map(|(name, control)| (name, Value::Control(control))));
    values.extend(controls_of_messages().map(|(name, control)| (name, Value::Control(control))));
    values.extend(messages());
    values.extend(records());
    values
}

fn records() -> [(&'static str, Value); 3] {
    let record = |body, kind, metadata| RecordHead {
        time: 1_700_000_000_123_456_789,
        body,
        kind,
        flags: Flags::NONE,
        metadata,
        subscribers: 0,
        waiting: 0,
        dropped: 0,
        to: InstanceId(0),
    };
    let head = |topic, sender, sequence| head(Kind::Record, Flags::NONE, topic, sender, sequence);
    let message = RecordHead { subscribers: 2, waiting: 1, ..record(4, Kind::Message, 0) };
    let reply = RecordHead { subscribers: 1, dropped: 3, to: InstanceId(3), ..record(23, Kind::Reply, 21) };
    let ping = wire::encode_control(&Control::Ping { token: 0x1122_3344_5566_7788 })[HEAD_BYTES..].to_vec();
    [
        ("record", Value::Record(head(7, 3, 1), message, b"21".to_vec())),
        ("record-of-control", Value::Record(head(2, 3, 0), record(12, Kind::Control, 0), ping)),
        ("record-of-reply", Value::Record(head(8, 4, 1), reply, Vec::new())),
    ]
}

fn plain_values() -> Vec<(&'static str, Value)> {
    let id = KnockId(std::array::from_fn(|index| u8::try_from(index).unwrap()));
    let large = 0x0102_0304_0506_0708;
    let fragment = |flags, body, metadata| Head { body, metadata, ..head(Kind::Message, flags, 7, 3, large) };
    let more = Flags::MORE;
    let full = u32::try_from(BODY_BYTES_MAX).unwrap();
    let request = Head { body: 21, metadata: 21, ..head(Kind::Request, Flags::NONE, 8, 3, 2) };
    let failed = Head { body: 30, metadata: 21, ..head(Kind::Reply, Flags::FAILED, 8, 4, 9) };
    let control = Head { body: 12, ..head(Kind::Control, Flags::NONE, 0, 0, 0) };
    vec![
        ("knock", Value::Knock(Knock { version: 1, id })),
        ("head-message", Value::Head(Head { body: 5, ..head(Kind::Message, Flags::NONE, 7, 3, 1) })),
        ("head-message-first-fragment", Value::Head(fragment(more, full, 21))),
        ("head-message-middle-fragment", Value::Head(fragment(more.with(Flags::CONTINUED), full, 0))),
        ("head-message-last-fragment", Value::Head(fragment(Flags::CONTINUED, 1, 0))),
        ("head-message-loaned", Value::Head(Head { body: 65_536, ..head(Kind::Message, Flags::LOANED, 7, 3, 9) })),
        ("head-request", Value::Head(request)),
        ("head-reply-failed", Value::Head(failed)),
        ("head-control", Value::Head(control)),
        ("metadata-none", Value::Metadata(Metadata::default())),
        ("metadata-call", Value::Metadata(call(3, 42))),
        ("metadata-headers", Value::Metadata(headers(&[("content-type", "text/plain"), ("ü", "")]))),
        (
            "metadata-call-and-header",
            Value::Metadata(Metadata { call: call(3, u64::MAX).call, ..headers(&[("a", "b")]) }),
        ),
        ("value", Value::Payload((true, -2, Some("hi".to_owned()), None, vec![1, 2], 'ß', 1.5))),
    ]
}

fn controls_of_connections() -> impl Iterator<Item = (&'static str, Control)> {
    let refused = |regarding, reason, text: &str| Control::Refused { regarding, reason, text: text.to_owned() };
    let welcome = Welcome { client: InstanceId(3), broker_version: "0.1.0".to_owned(), message_bytes_max: 16_777_216 };
    [
        ("hello", Control::Hello { version: 1, name: "thermometer".to_owned() }),
        ("welcome", Control::Welcome(welcome)),
        ("refused-connection", refused(Regarding::Connection, Reason::Protocol, "no")),
        ("refused-declare", refused(Regarding::Declare(5), Reason::Forbidden, "no")),
        ("refused-subscription", refused(Regarding::Subscription(6), Reason::Name, "")),
        ("goodbye", Control::Goodbye { cause: Farewell::Leaving }),
        ("declare", Control::Declare { token: 5, topic: "sensors/kitchen/temp".to_owned(), purpose: Purpose::Publish }),
        ("declared", Control::Declared { token: 5, topic: TopicId(7) }),
        ("retract", Control::Retract { topic: TopicId(7) }),
        (
            "subscribe",
            Control::Subscribe {
                subscription: 6,
                pattern: "sensors/*/temp".to_owned(),
                role: Role::Subscribe,
                overflow: Overflow::Latest,
            },
        ),
        (
            "subscribe-monitor",
            Control::Subscribe {
                subscription: 6,
                pattern: "sensors/**".to_owned(),
                role: Role::Monitor(Watch {
                    capture_bytes: 64,
                    sender: Some(InstanceId(3)),
                    bytes_min: 1,
                    bytes_max: 4096,
                    kinds: Kinds::NONE.with(Kind::Message).with(Kind::Request),
                }),
                overflow: Overflow::DropOldest,
            },
        ),
        ("subscribed", Control::Subscribed { subscription: 6 }),
        ("unsubscribe", Control::Unsubscribe { subscription: 6 }),
        ("unsubscribed", Control::Unsubscribed { subscription: 6 }),
    ]
    .into_iter()
}

fn controls_of_messages() -> impl Iterator<Item = (&'static str, Control)> {
    let sender = InstanceId(3);
    let unix = Identity::Unix { uid: 1000 };
    let windows = Identity::Windows { sid: "S-1-5-18".to_owned() };
    let token = 0x1122_3344_5566_7788;
    [
        ("topic-info", Control::TopicInfo { topic: TopicId(7), name: "sensors/kitchen/temp".to_owned() }),
        ("topic-gone", Control::TopicGone { topic: TopicId(7) }),
        ("sender-info-unix", Control::SenderInfo { sender, identity: unix, name: "thermometer".to_owned() }),
        ("sender-info-windows", Control::SenderInfo { sender, identity: windows, name: String::new() }),
        ("sender-gone", Control::SenderGone { sender }),
        ("gap", Control::Gap { topic: TopicId(7), messages: 1000 }),
        ("abort", Control::Abort { sender }),
        ("ping", Control::Ping { token }),
        ("pong", Control::Pong { token }),
        ("request-failed", Control::RequestFailed { correlation: 42, failure: Failure::ServerGone }),
        ("cancel", Control::Cancel { correlation: 42 }),
        ("consumed", Control::Consumed { sender, sequence: 9 }),
        ("released", Control::Released { sequences: vec![9, 10] }),
        ("revoked", Control::Revoked { topic: TopicId(7), purpose: Purpose::Publish, text: "rule 3".to_owned() }),
        ("visit", Control::Visit { version: 1, name: "status".to_owned() }),
        ("last-call", Control::LastCall),
    ]
    .into_iter()
}

fn messages() -> [(&'static str, Value); 6] {
    let one = |head: Head, metadata: Option<Metadata>, text| Value::Message(vec![(head, metadata, text)]);
    let message = |flags, sequence| head(Kind::Message, flags, 7, 3, sequence);
    let fragments = vec![
        (message(Flags::MORE, 3), Some(Metadata::default()), "abc"),
        (message(Flags::MORE.with(Flags::CONTINUED), 3), None, "defg"),
        (message(Flags::CONTINUED, 3), None, "h"),
    ];
    let request = head(Kind::Request, Flags::NONE, 8, 3, 4);
    let reply = |flags, sequence| head(Kind::Reply, flags, 8, 4, sequence);
    [
        ("message", one(message(Flags::NONE, 1), None, "21.5")),
        ("message-with-headers", one(message(Flags::NONE, 2), Some(headers(&[("unit", "C")])), "21.5")),
        ("message-in-fragments", Value::Message(fragments)),
        ("request", one(request, Some(call(3, 42)), "on")),
        ("reply", one(reply(Flags::NONE, 1), Some(call(3, 42)), "ok")),
        ("reply-failed", one(reply(Flags::FAILED, 2), Some(call(3, 43)), "the lamp is broken")),
    ]
}

/// A head without lengths.
fn head(kind: Kind, flags: Flags, topic: u32, sender: u32, sequence: u64) -> Head {
    Head { body: 0, kind, flags, metadata: 0, topic: TopicId(topic), sender: InstanceId(sender), sequence }
}

fn call(requester: u32, correlation: u64) -> Metadata {
    Metadata { call: Some(Call { requester: InstanceId(requester), correlation }), headers: Vec::new() }
}

fn headers(headers: &[(&str, &str)]) -> Metadata {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Metadata { call: None, headers }
}

/// The lines `name: hex bytes` of all blocks marked `vectors`.
fn vectors() -> BTreeMap<String, Vec<u8>> {
    let mut vectors = BTreeMap::new();
    for block in PROTOCOL.split("\n```vectors\n").skip(1) {
        let (block, _) = block.split_once("\n```").expect("a block ends");
        for line in block.lines() {
            let (name, bytes) = line.split_once(':').expect(line);
            let before = vectors.insert(name.to_owned(), unhex(bytes));
            assert!(before.is_none(), "{name} is there twice");
        }
    }
    assert!(!vectors.is_empty(), "PROTOCOL.md has no vectors");
    vectors
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter(|c| *c != ' ').map(|c| digit(c, text)).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text}");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn digit(character: char, text: &str) -> u8 {
    let digit = character.to_digit(16).unwrap_or_else(|| panic!("{character:?} is no digit in {text}"));
    u8::try_from(digit).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
