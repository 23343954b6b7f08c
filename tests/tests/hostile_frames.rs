//! Clients that send what is no frame, or what they may not: they are told how and sent away, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use pipebus_proto::control::{Control, Farewell, Purpose, Reason, Regarding};
use pipebus_proto::frame::{Call, HEAD_BYTES, Metadata};
use pipebus_proto::topic::InstanceId;
use pipebus_proto::wire::{encode_control, encode_metadata};
use pipebus_tests::attack::{Bounds, Bystanders, as_attacker};
use pipebus_tests::raw::RawClient;
use pipebus_tests::{TestBus, wait_for};

const MIB: u64 = 1024 * 1024;

const CONTROL: u8 = 1;
const MESSAGE: u8 = 2;
const REQUEST: u8 = 3;
const REPLY: u8 = 4;
const RECORD: u8 = 5;

const CONTINUED: u8 = 1;
const MORE: u8 = 2;
const FAILED: u8 = 4;
const LOANED: u8 = 8;

/// A client of which one frame more is expected.
struct Wrong {
    client: RawClient,
    me: u32,
    /// Declared for messages, for requests, and by somebody else.
    topic: u32,
    asked: u32,
    of_another: u32,
    next: u64,
}

impl Wrong {
    fn new(bus: &TestBus, other: &mut RawClient) -> Wrong {
        let (mut client, welcome) = RawClient::connect(&bus.place());
        let topic = client.declare("wrong").0;
        client.say(&Control::Declare { token: 2, topic: "asked".to_owned(), purpose: Purpose::Request });
        let Some(Control::Declared { topic: asked, .. }) = client.hear() else { panic!("not declared") };
        let of_another = other.declare("another's").0;
        Wrong { client, me: welcome.client.0, topic, asked: asked.0, of_another, next: 1 }
    }

    /// Any head, and a body of so many bytes as it says, if that is not absurd.
    fn frame(&self, kind: u8, flags: u8, metadata: u16, body: u32) -> Frame {
        let topic = if kind == REQUEST { self.asked } else { self.topic };
        let (topic, sender, sequence) = if kind == CONTROL { (0, 0, 0) } else { (topic, self.me, self.next) };
        Frame { body, kind, flags, metadata, topic, sender, sequence, bytes: vec![0; body.min(1000) as usize] }
    }

    fn message(&self) -> Frame {
        self.frame(MESSAGE, 0, 0, 10)
    }

    /// A request or a reply with such metadata.
    fn with_metadata(&self, kind: u8, metadata: &[u8]) -> Frame {
        let bytes = u16::try_from(metadata.len()).unwrap();
        Frame { bytes: metadata.to_vec(), ..self.frame(kind, 0, bytes, u32::from(bytes)) }
    }

    fn call(&self, requester: u32) -> Vec<u8> {
        let call = Call { requester: InstanceId(requester), correlation: 7 };
        encode_metadata(&Metadata { call: Some(call), headers: Vec::new() }).unwrap().to_vec()
    }
}

#[derive(Clone)]
struct Frame {
    body: u32,
    kind: u8,
    flags: u8,
    metadata: u16,
    topic: u32,
    sender: u32,
    sequence: u64,
    bytes: Vec<u8>,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.body.to_le_bytes().to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.metadata.to_le_bytes());
        bytes.extend(self.topic.to_le_bytes());
        bytes.extend(self.sender.to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(&self.bytes);
        bytes
    }

    fn of(self, sender: u32) -> Vec<u8> {
        Frame { sender, ..self }.bytes()
    }

    fn on(self, topic: u32) -> Vec<u8> {
        Frame { topic, ..self }.bytes()
    }

    fn numbered(self, sequence: u64) -> Vec<u8> {
        Frame { sequence, ..self }.bytes()
    }
}

/// What is wrong with it, how it is refused, and its bytes.
type Case = (&'static str, &'static str, Vec<u8>);

fn wrong_heads(w: &Wrong) -> Vec<Case> {
    let f = |kind, flags, metadata, body| w.frame(kind, flags, metadata, body).bytes();
    let mut cases = vec![
        ("kind 0", "kind 0", f(0, 0, 0, 0)),
        ("kind 6", "kind 6", f(6, 0, 0, 0)),
        ("a record that is too short", "shorter", f(RECORD, 0, 0, 31)),
        ("a record with metadata", "metadata", f(RECORD, 0, 1, 40)),
        ("a record in fragments", "flags", f(RECORD, MORE, 0, 40)),
        ("kind 255", "kind 255", f(255, 0xff, 0xffff, u32::MAX)),
        ("noise", "kind", vec![0xa5; HEAD_BYTES]),
        ("nothing but zeros", "kind 0", vec![0; HEAD_BYTES]),
        ("a control frame with metadata", "metadata", f(CONTROL, 0, 1, 8)),
        ("more metadata than body", "metadata", f(MESSAGE, 0, 11, 10)),
        ("metadata in a fragment", "metadata", f(MESSAGE, CONTINUED, 1, 10)),
        ("a request without metadata", "metadata", f(REQUEST, 0, 0, 10)),
        ("a request with more metadata than body", "metadata", f(REQUEST, 0, 0xffff, 10)),
        ("metadata in a request's fragment", "metadata", f(REQUEST, CONTINUED, 5, 10)),
        ("a reply without metadata", "metadata", f(REPLY, 0, 0, 10)),
        ("a reply with more metadata than body", "metadata", f(REPLY, 0, 11, 10)),
        ("metadata in a reply's fragment", "metadata", f(REPLY, CONTINUED, 5, 10)),
        ("a control frame on a topic", "control frame", w.frame(CONTROL, 0, 0, 0).on(1)),
        ("a control frame of somebody", "control frame", w.frame(CONTROL, 0, 0, 0).of(w.me)),
        ("a control frame with a number", "control frame", w.frame(CONTROL, 0, 0, 0).numbered(1)),
    ];
    for kind in [CONTROL, MESSAGE, REQUEST, REPLY] {
        let (metadata, max) =
            if kind > MESSAGE { (21, 262_144) } else { (0, if kind == CONTROL { 4096 } else { 262_144 }) };
        cases.push(("a body one byte too long", "longer than the limit", f(kind, 0, metadata, max + 1)));
        cases.push(("a giant body", "longer than the limit", f(kind, 0, metadata, u32::MAX)));
        let allowed = match kind {
            CONTROL => 0,
            MESSAGE => CONTINUED | MORE | LOANED,
            REQUEST => CONTINUED | MORE,
            _ => CONTINUED | MORE | FAILED,
        };
        for bit in (0..8).map(|bit| 1 << bit).filter(|bit| allowed & bit == 0) {
            cases.push(("a flag that is not its kind's", "flags", f(kind, bit, metadata, 100)));
        }
    }
    cases
}

fn wrong_messages(w: &Wrong) -> Vec<Case> {
    let two = |first: &Frame, second: Frame| [first.bytes(), second.bytes()].concat();
    let first = w.frame(MESSAGE, MORE, 0, 10);
    let last = w.frame(MESSAGE, CONTINUED, 0, 10);
    let request = || w.with_metadata(REQUEST, &w.call(w.me));
    let not_declared = "was not declared";
    let mut cases = vec![
        ("a record", "may not send", w.frame(RECORD, 0, 0, 40).bytes()),
        ("a record in a message", "may not send", two(&first, w.frame(RECORD, 0, 0, 40))),
        ("a fragment without a beginning", "out of place", last.bytes()),
        ("a middle without a beginning", "out of place", w.frame(MESSAGE, CONTINUED | MORE, 0, 10).bytes()),
        ("a beginning in a message", "out of place", two(&first, first.clone())),
        ("a message in a message", "out of place", two(&first, w.message())),
        ("a request in a message", "out of place", two(&first, request())),
        ("a fragment of another kind", "out of place", two(&first, w.frame(REPLY, CONTINUED, 0, 10))),
        ("a fragment on another topic", "out of place", two(&first, Frame { topic: w.asked, ..last.clone() })),
        ("a fragment of another message", "out of place", two(&first, Frame { sequence: w.next + 1, ..last.clone() })),
        ("a fragment of another", "claims to be from", two(&first, Frame { sender: w.me + 1, ..last })),
        ("a topic that is none", not_declared, w.message().on(0)),
        ("a topic of nobody", not_declared, w.message().on(u32::MAX)),
        ("another's topic", not_declared, w.message().on(w.of_another)),
        ("a message where it asks", not_declared, w.message().on(w.asked)),
        ("a request where it publishes", not_declared, request().on(w.topic)),
        ("a request on another's topic", not_declared, request().on(w.of_another)),
        ("a request of another", "claims to be from", w.with_metadata(REQUEST, &w.call(w.me + 1)).bytes()),
        ("a request of the broker", "claims to be from", w.with_metadata(REQUEST, &w.call(0)).bytes()),
    ];
    for sequence in [0, w.next - 1, w.next + 1, u64::MAX] {
        cases.push(("a number that does not follow", "does not follow", w.message().numbered(sequence)));
        cases.push(("a request whose number does not follow", "does not follow", request().numbered(sequence)));
    }
    for sender in [0, w.me + 1, u32::MAX] {
        cases.push(("another's message", "claims to be from", w.message().of(sender)));
        cases.push(("another's request", "claims to be from", request().of(sender)));
        let reply = w.with_metadata(REPLY, &w.call(1));
        cases.push(("another's reply", "claims to be from", reply.of(sender)));
    }
    let whole = w.call(w.me);
    let without_call = encode_metadata(&Metadata { call: None, headers: vec![("a".into(), "b".into())] }).unwrap();
    let mut many_headers = whole.clone();
    many_headers[13..21].copy_from_slice(&u64::MAX.to_le_bytes());
    let not_text = [&[0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xff][..], &[0; 8]].concat();
    for kind in [REQUEST, REPLY] {
        let m = |metadata: &[u8]| w.with_metadata(kind, metadata).bytes();
        cases.push(("half a call", "does not decode", m(&whole[..10])));
        cases.push(("bytes behind the metadata", "does not decode", m(&[&whole[..], &[0]].concat())));
        cases.push(("no call", "does not decode", m(&without_call)));
        cases.push(("an option that is neither", "does not decode", m(&[2; 21])));
        cases.push(("more headers than there can be", "does not decode", m(&many_headers)));
        cases.push(("a header that is no text", "does not decode", m(&not_text)));
    }
    cases
}

/// How many cases there are.
fn count(cases: impl Fn(&Wrong) -> Vec<Case>, bus: &TestBus, other: &mut RawClient) -> usize {
    cases(&Wrong::new(bus, other)).len()
}

/// Each on a connection of its own: at once, behind a good message, and byte by byte.
fn check_all(bus: &TestBus, cases: impl Fn(&Wrong) -> Vec<Case>) {
    let (mut other, _) = RawClient::connect(&bus.place());
    for number in 0..count(&cases, bus, &mut other) {
        for way in 0..3 {
            let mut wrong = Wrong::new(bus, &mut other);
            let good = if way == 1 { wrong.message().bytes() } else { Vec::new() };
            wrong.next += u64::from(way == 1);
            let (what, text, bytes) = cases(&wrong).swap_remove(number);
            match way {
                2 => bytes.iter().for_each(|byte| wrong.client.write_if_heard(&[*byte])),
                _ => wrong.client.write(&[good, bytes].concat()),
            }
            is_sent_away(&mut wrong.client, Reason::Protocol, &format!("{what}, {number}"), text);
        }
    }
}

#[track_caller]
fn is_sent_away(client: &mut RawClient, why: Reason, what: &str, text: &str) {
    match client.hear() {
        Some(Control::Refused { regarding: Regarding::Connection, reason, text: said }) => {
            assert!(reason == why && said.contains(text), "{what}: {said}");
        }
        other => panic!("{what}: {other:?}"),
    }
    assert_eq!(client.hear(), Some(Control::Goodbye { cause: Farewell::Protocol }), "{what}");
    assert_eq!(client.hear(), None, "{what}");
    wait_for("the pipe to be closed", || client.is_gone().then_some(()));
}

const SAID_ONCE: &[(&str, usize)] = &[("instance: broke the protocol", 50)];

#[test]
fn every_malformed_head_ends_its_sender_and_nobody_else() {
    let bystanders = Bystanders::start(&[]);
    as_attacker(|| check_all(bystanders.bus(), wrong_heads));
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: SAID_ONCE });
}

#[test]
fn every_message_that_lies_ends_its_sender_and_nobody_else() {
    let bystanders = Bystanders::start(&[]);
    as_attacker(|| check_all(bystanders.bus(), wrong_messages));
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: SAID_ONCE });
}

/// Bodies of control frames that nobody can read, or that a client may not send.
fn odd_controls() -> Vec<Vec<u8>> {
    let body = |control: &Control| encode_control(control)[HEAD_BYTES..].to_vec();
    let topic = pipebus_proto::topic::TopicId(1);
    let (sender, name) = (InstanceId(1), "raw".to_owned());
    let identity = pipebus_proto::control::Identity::Unix { uid: 0 };
    let regarding = Regarding::Connection;
    let welcome =
        pipebus_proto::control::Welcome { client: sender, broker_version: name.clone(), message_bytes_max: 1 };
    let not_a_clients = [
        Control::Hello { version: 1, name: name.clone() },
        Control::Welcome(welcome),
        Control::Refused { regarding, reason: Reason::Protocol, text: "x".repeat(3000) },
        Control::Declared { token: 1, topic },
        Control::Subscribed { subscription: 1 },
        Control::Unsubscribed { subscription: 1 },
        Control::TopicInfo { topic, name: name.clone() },
        Control::TopicGone { topic },
        Control::SenderInfo { sender, identity, name },
        Control::SenderGone { sender },
        Control::Gap { topic, messages: u64::MAX },
        Control::Abort { sender },
        Control::Pong { token: 1 },
        Control::RequestFailed { correlation: 1, failure: pipebus_proto::control::Failure::Busy },
        Control::Released { sequences: vec![1; 500] },
    ];
    let declare = body(&Control::Declare { token: 1, topic: "abc".to_owned(), purpose: Purpose::Publish });
    let with = |at: usize, bytes: &[u8]| {
        let mut declare = declare.clone();
        declare[at..at + bytes.len()].copy_from_slice(bytes);
        declare
    };
    let mut odd: Vec<_> = not_a_clients.iter().map(body).collect();
    odd.extend((0..declare.len()).map(|bytes| declare[..bytes].to_vec()));
    odd.push([&declare[..], &[0]].concat());
    odd.push(vec![0; 4096]);
    odd.extend([23, 24, 1000, u32::MAX].map(|tag| with(0, &tag.to_le_bytes())));
    // The text's length lies, the text is none, the purpose is none.
    odd.extend([0, 2, 4, 4096, 65_535, 1 << 32, u64::MAX].map(|bytes: u64| with(8, &bytes.to_le_bytes())));
    odd.push(with(16, &[0xff, 0xfe]));
    odd.push(with(19, &7u32.to_le_bytes()));
    odd
}

/// Any control frame, be its body one or not.
fn control_frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&length[..], &[CONTROL], &[0; 19], body].concat()
}

#[test]
fn odd_control_frames_are_refused_one_by_one_and_the_stream_goes_on() {
    let bystanders = Bystanders::start(&[]);
    let (mut client, _) = as_attacker(|| RawClient::connect(&bystanders.bus().place()));
    let odd = odd_controls();
    for _ in 0..20 {
        for body in &odd {
            client.write(&control_frame(body));
            match client.hear() {
                Some(Control::Refused { regarding: Regarding::Connection, reason: Reason::Protocol, .. }) => {}
                other => panic!("{body:?}: {other:?}"),
            }
        }
    }
    refused_names(&mut client);
    // What means nothing is not answered, and what is declared twice is the same.
    for control in [
        Control::Retract { topic: pipebus_proto::topic::TopicId(u32::MAX) },
        Control::Cancel { correlation: u64::MAX },
        Control::Consumed { sender: InstanceId(0), sequence: u64::MAX },
        Control::Consumed { sender: InstanceId(u32::MAX), sequence: 0 },
    ] {
        client.say(&control);
    }
    assert_eq!(client.declare("twice"), client.declare("twice"));
    drop(client);
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: &[("connected", 4)] });
}

/// Names that are none, and numbers that are taken or free.
fn refused_names(client: &mut RawClient) {
    let long = "x".repeat(256);
    let longer = "x/".repeat(1900);
    let names =
        ["", "/", "a/", "/a", "a//b", "*", "a/*", "a*", "a\0b", "a\nb", "\u{85}", "$x", "$bus/status", &long, &longer];
    for (token, name) in (1..).zip(names) {
        let topic = name.to_owned();
        client.say(&Control::Declare { token, topic, purpose: Purpose::Publish });
        let answer = client.hear();
        let regarding = Regarding::Declare(token);
        assert!(
            matches!(answer, Some(Control::Refused { regarding: r, .. }) if r == regarding),
            "{name:?}: {answer:?}"
        );
    }
    let subscribe = |subscription, pattern: &str| Control::Subscribe {
        subscription,
        pattern: pattern.to_owned(),
        role: pipebus_proto::control::Role::Subscribe,
        overflow: pipebus_proto::control::Overflow::Block,
    };
    client.subscribe("mine", pipebus_proto::control::Overflow::Block);
    for control in [
        subscribe(1, "other"),
        subscribe(9, "a*"),
        subscribe(9, "***"),
        subscribe(9, &longer),
        Control::Unsubscribe { subscription: 9 },
    ] {
        client.say(&control);
        let answer = client.hear();
        assert!(matches!(answer, Some(Control::Refused { regarding: Regarding::Subscription(_), .. })), "{answer:?}");
    }
}
