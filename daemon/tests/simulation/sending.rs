//! Sending: what clients write to their pipes, what they may and what they may not.

use pipebus_proto::control::{Control, Overflow, Purpose, Role};
use pipebus_proto::frame::{Call, Flags, HEAD_BYTES, Head, Kind, Metadata};
use pipebus_proto::record::Watch;
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{encode_control, encode_head, encode_metadata};

use super::choices::Choices;
use super::client::Outgoing;
use super::step::Step;
use super::world::{OWN, World, chosen};

const TOPICS: [&str; 6] = ["a", "a/b", "a/c", "b", "b/c/d", OWN];
const PATTERNS: [&str; 8] = ["**", "a", "a/*", "*", "a/**", "b/c/d", "**/c/**", "$bus/**"];

impl World {
    /// A client says something. An honest one does not send to a topic of which the broker has yet to hear that it is
    /// retracted.
    pub(super) fn say(&mut self, id: u32, step: Step, choices: &mut Choices) {
        match step {
            Step::Declare { topic, purpose, .. } => self.declare(id, topic, purpose, choices),
            Step::Retract { topic, .. } => self.retract(id, topic, choices),
            Step::Subscribe { pattern, role, overflow, .. } => self.subscribe(id, pattern, role, overflow, choices),
            Step::Unsubscribe { subscription, .. } => {
                let numbers: Vec<u32> = self.client(id).subscriptions.keys().copied().collect();
                if let Some(subscription) = chosen(&numbers, subscription) {
                    self.send_control(id, &Control::Unsubscribe { subscription }, choices);
                }
            }
            Step::Publish { topic, messages, .. } => self.publish(id, topic, messages, choices),
            Step::Begin { topic, fragments, .. } => {
                if let Some(topic) = self.topic_to(id, topic, Purpose::Publish) {
                    self.begin(id, Kind::Message, topic, None, fragments, choices);
                }
            }
            Step::Continue { .. } => self.send_fragment(id, choices),
            Step::Ask { topic, fragments, .. } => self.ask(id, topic, fragments, choices),
            Step::Reply { request, fragments, .. } => self.reply(id, request, fragments, choices),
            Step::Cancel { request, .. } => {
                let correlation = u64::from(request) % (self.client(id).correlation + 1);
                self.send_control(id, &Control::Cancel { correlation }, choices);
            }
            Step::Ping { times, .. } => {
                let ping = encode_control(&Control::Ping { token: 1 });
                self.send(id, &ping.repeat(times), choices);
            }
            Step::Attack { .. } => self.attack(id, choices),
            _ => unreachable!("{step:?} is nothing that a client says"),
        }
    }

    fn send_control(&mut self, id: u32, control: &Control, choices: &mut Choices) {
        self.send(id, &encode_control(control), choices);
    }

    /// Mostly the broker reads it at once.
    fn send(&mut self, id: u32, bytes: &[u8], choices: &mut Choices) {
        self.client(id).up.extend_from_slice(bytes);
        if !choices.happens(50) {
            self.take_in(id, usize::MAX, choices);
        }
    }

    fn declare(&mut self, id: u32, topic: u8, purpose: Purpose, choices: &mut Choices) {
        self.client(id).unheard += 1;
        let topic = TOPICS[usize::from(topic) % TOPICS.len()].to_owned();
        self.send_control(id, &Control::Declare { token: 1, topic, purpose }, choices);
    }

    fn retract(&mut self, id: u32, topic: u8, choices: &mut Choices) {
        let client = self.client(id);
        let topics: Vec<TopicId> = client.declared.keys().copied().collect();
        if let Some(topic) = chosen(&topics, topic).filter(|_| client.unheard == 0) {
            client.unheard += 1;
            self.send_control(id, &Control::Retract { topic }, choices);
        }
    }

    fn subscribe(&mut self, id: u32, pattern: u8, role: Role, overflow: Overflow, choices: &mut Choices) {
        let client = self.client(id);
        client.last_subscription += 1;
        let subscription = client.last_subscription;
        let pattern = PATTERNS[usize::from(pattern) % PATTERNS.len()].to_owned();
        self.send_control(id, &Control::Subscribe { subscription, pattern, role, overflow }, choices);
    }

    /// A topic that the client may begin a message to now.
    fn topic_to(&mut self, id: u32, topic: u8, purpose: Purpose) -> Option<TopicId> {
        let client = self.client(id);
        let topics: Vec<TopicId> = client.declared.iter().filter(|(_, d)| d.has(purpose)).map(|(id, _)| *id).collect();
        chosen(&topics, topic).filter(|_| client.unheard == 0 && client.outgoing.is_none())
    }

    fn publish(&mut self, id: u32, topic: u8, messages: usize, choices: &mut Choices) {
        let Some(topic) = self.topic_to(id, topic, Purpose::Publish) else { return };
        let mut bytes = Vec::new();
        for _ in 0..messages {
            let sequence = self.client(id).next_sequence();
            bytes.extend(frame(&head(id, Kind::Message, topic, sequence), &[], choices));
        }
        self.send(id, &bytes, choices);
    }

    fn ask(&mut self, id: u32, topic: u8, fragments: usize, choices: &mut Choices) {
        let Some(topic) = self.topic_to(id, topic, Purpose::Request) else { return };
        let client = self.client(id);
        client.correlation += 1;
        let call = Call { requester: InstanceId(id), correlation: client.correlation };
        self.begin(id, Kind::Request, topic, Some(call), fragments, choices);
    }

    /// Mostly what was asked last is answered, and now and then what was answered before.
    fn reply(&mut self, id: u32, request: u8, fragments: usize, choices: &mut Choices) {
        let client = self.client(id);
        if client.outgoing.is_some() {
            return;
        }
        let requests = &mut client.down.reader.requests;
        let Some((call, topic)) = chosen(requests, request) else { return };
        if !choices.happens(25) {
            requests.retain(|(known, _)| *known != call);
        }
        self.begin(id, Kind::Reply, topic, Some(call), fragments, choices);
    }

    fn begin(
        &mut self,
        id: u32,
        kind: Kind,
        topic: TopicId,
        call: Option<Call>,
        fragments: usize,
        choices: &mut Choices,
    ) {
        let client = self.client(id);
        client.next_sequence();
        client.outgoing = Some(Outgoing { kind, topic, call, fragments, next: 0 });
        self.send_fragment(id, choices);
    }

    fn send_fragment(&mut self, id: u32, choices: &mut Choices) {
        let client = self.client(id);
        let Some(mut message) = client.outgoing.take() else { return };
        let ends = message.next + 1 == message.fragments;
        let continued = if message.next > 0 { Flags::CONTINUED } else { Flags::NONE };
        let mut flags = continued.with(if ends { Flags::NONE } else { Flags::MORE });
        if message.kind == Kind::Reply && choices.happens(60) {
            flags = flags.with(Flags::FAILED);
        }
        let metadata = message
            .call
            .filter(|_| message.next == 0)
            .and_then(|call| encode_metadata(&Metadata { call: Some(call), headers: Vec::new() }));
        message.next += 1;
        let head = Head { flags, ..head(id, message.kind, message.topic, client.sequence) };
        client.outgoing = (!ends).then_some(message);
        let bytes = frame(&head, &metadata.unwrap_or_default(), choices);
        self.send(id, &bytes, choices);
    }

    /// Anything, of which some may be let in all the same.
    fn attack(&mut self, id: u32, choices: &mut Choices) {
        self.client(id).is_hostile = true;
        let mut bytes = self.any_frame(id, choices);
        match choices.byte() % 4 {
            0 => {}
            1 => bytes = (0..choices.below(60)).map(|_| choices.byte()).collect(),
            2 => bytes.truncate(choices.below(bytes.len())),
            _ => {
                for _ in 0..=choices.below(2) {
                    let within = if choices.happens(128) { HEAD_BYTES } else { bytes.len() };
                    let at = choices.below(within);
                    bytes[at] ^= 1 << choices.below(8);
                }
            }
        }
        self.send(id, &bytes, choices);
    }

    /// A frame that is well-formed, with numbers that mostly exist.
    fn any_frame(&mut self, id: u32, choices: &mut Choices) -> Vec<u8> {
        let sender = if choices.happens(40) { 1 + choices.below(6) as u32 } else { id };
        let topic = TopicId(choices.below(8) as u32);
        let sequence = self.client(id).sequence + choices.below(3) as u64;
        let correlation = choices.below(6) as u64;
        let call = Call { requester: InstanceId(1 + choices.below(6) as u32), correlation };
        let kind = choices.one_of(&[Kind::Message, Kind::Request, Kind::Reply, Kind::Control, Kind::Record]);
        if kind == Kind::Control {
            return encode_control(&any_control(topic, correlation, choices)).to_vec();
        }
        let flags = choices.one_of(&[Flags::NONE, Flags::MORE, Flags::CONTINUED, Flags::CONTINUED.with(Flags::MORE)]);
        let begins = !flags.has(Flags::CONTINUED);
        let metadata = if matches!(kind, Kind::Message | Kind::Record) || !begins {
            Vec::new()
        } else {
            encode_metadata(&Metadata { call: Some(call), headers: Vec::new() }).unwrap()
        };
        frame(&Head { flags, ..head(sender, kind, topic, sequence) }, &metadata, choices)
    }
}

fn any_control(topic: TopicId, number: u64, choices: &mut Choices) -> Control {
    let text = choices.one_of(&["a", "", "x/y/z", "**", "a//b", "$bus/other", "c/\n", "a*"]).to_owned();
    let small = number as u32;
    match choices.byte() % 9 {
        0 => Control::Declare { token: small, topic: text, purpose: Purpose::Publish },
        1 => Control::Subscribe {
            subscription: small,
            pattern: text,
            role: choices.one_of(&[Role::Subscribe, Role::Serve, Role::Monitor(Watch::default())]),
            overflow: Overflow::Latest,
        },
        2 => Control::Unsubscribe { subscription: small },
        3 => Control::Retract { topic },
        4 => Control::Cancel { correlation: number },
        5 => Control::SenderGone { sender: InstanceId(small) },
        6 => Control::Declared { token: small, topic },
        7 => Control::Consumed { sender: InstanceId(small), sequence: number },
        _ => Control::Hello { version: 1, name: text },
    }
}

fn head(sender: u32, kind: Kind, topic: TopicId, sequence: u64) -> Head {
    let sender = InstanceId(sender);
    Head { body: 0, kind, flags: Flags::NONE, metadata: 0, topic, sender, sequence }
}

/// With a payload of any length and one byte.
fn frame(head: &Head, metadata: &[u8], choices: &mut Choices) -> Vec<u8> {
    let times = if choices.happens(20) { 20 } else { 1 };
    let payload = usize::from(choices.byte()) * times;
    let metadata_bytes = u16::try_from(metadata.len()).unwrap();
    let body = metadata.len() + payload;
    let head = Head { body: u32::try_from(body).unwrap(), metadata: metadata_bytes, ..*head };
    let mut bytes = [&encode_head(&head)[..], metadata].concat();
    bytes.resize(HEAD_BYTES + body, choices.byte());
    bytes
}
