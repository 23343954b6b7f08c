//! The routing core against a naive model: random clients do random things, and each gets what it should, in order, whole,
//! and is told of what it lost.
//!
//! Around the core is what the shell does: effects are carried out in their order, a publisher of which a span did not fit
//! somewhere does nothing else until it does, and what can be written at once is, past the queue.

#![allow(clippy::unwrap_used, reason = "in a test, what should be there and is not is a failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pipebus_proto::control::{Control, Identity, Overflow, Purpose, Role};
use pipebus_proto::frame::{Flags, HEAD_BYTES, Head, Kind, Part};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::splitter::{Frame, Span, next_span};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{decode_control, encode_control, encode_head};
use pipebusd::core::account::Account;
use pipebusd::core::bus::{Bus, Effect};
use pipebusd::core::limits::Limits;
use pipebusd::core::policy::{Peer, Policy, Who};
use pipebusd::core::queue::{Introductions, Pushed, Queue};
use pipebusd::core::routes::{Route, Routes};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const STALL_TIMEOUT: Duration = Duration::from_secs(5);
const TOPICS: [&str; 5] = ["a", "a/b", "a/c", "b", "b/c/d"];
const PATTERNS: [&str; 7] = ["**", "a", "a/*", "*", "a/**", "b/c/d", "**/c/**"];
const CLIENTS_MAX: usize = 6;

/// What somebody does. Numbers choose among what there is, modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Connect,
    Disconnect { client: u8 },
    Declare { client: u8, topic: u8 },
    Retract { client: u8, topic: u8 },
    Subscribe { client: u8, pattern: u8, overflow: Overflow },
    Unsubscribe { client: u8, subscription: u8 },
    Publish { client: u8, topic: u8, payloads: Vec<u8>, luck: u16 },
    Begin { client: u8, topic: u8, fragments: Vec<u8>, luck: u16 },
    Continue { client: u8, luck: u16 },
    Retry { client: u8, luck: u16 },
    Ping { client: u8 },
    Take { client: u8, bytes_max: usize },
    Read { client: u8, bytes: usize },
    Wait { milliseconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    use Overflow::{Block, Disconnect, DropNewest, DropOldest, Latest};
    let client = || 0..u8::try_from(CLIENTS_MAX).unwrap();
    let overflow = prop_oneof![
        3 => Just(Block), 3 => Just(DropOldest), 3 => Just(DropNewest), 3 => Just(Latest), 1 => Just(Disconnect)
    ];
    let payloads = prop::collection::vec(any::<u8>(), 1..8);
    let fragments = prop::collection::vec(20u8.., 2..6);
    prop_oneof![
        1 => Just(Step::Connect),
        1 => client().prop_map(|client| Step::Disconnect { client }),
        4 => (client(), any::<u8>()).prop_map(|(client, topic)| Step::Declare { client, topic }),
        1 => (client(), any::<u8>()).prop_map(|(client, topic)| Step::Retract { client, topic }),
        4 => (client(), any::<u8>(), overflow)
            .prop_map(|(client, pattern, overflow)| Step::Subscribe { client, pattern, overflow }),
        1 => (client(), any::<u8>()).prop_map(|(client, subscription)| Step::Unsubscribe { client, subscription }),
        12 => (client(), any::<u8>(), payloads, any::<u16>())
            .prop_map(|(client, topic, payloads, luck)| Step::Publish { client, topic, payloads, luck }),
        6 => (client(), any::<u8>(), fragments, any::<u16>())
            .prop_map(|(client, topic, fragments, luck)| Step::Begin { client, topic, fragments, luck }),
        16 => (client(), any::<u16>()).prop_map(|(client, luck)| Step::Continue { client, luck }),
        6 => (client(), any::<u16>()).prop_map(|(client, luck)| Step::Retry { client, luck }),
        1 => client().prop_map(|client| Step::Ping { client }),
        8 => (client(), 1usize..2000).prop_map(|(client, bytes_max)| Step::Take { client, bytes_max }),
        8 => (client(), 1usize..2000).prop_map(|(client, bytes)| Step::Read { client, bytes }),
        2 => (0u64..7000).prop_map(|milliseconds| Step::Wait { milliseconds }),
    ]
}

fn config() -> ProptestConfig {
    let file = FileFailurePersistence::Direct("tests/core_model.regressions");
    ProptestConfig { cases: 5000, failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn everybody_gets_what_it_should_or_is_told(
        bytes_max in prop::sample::select(vec![1, 200, 600, 2000]),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut world = World::new(bytes_max);
        for _ in 0..3 {
            world.connect();
        }
        for step in steps {
            world.take_step(step);
        }
        world.finish();
    }
}

/// The bus, its clients, and a clock held by hand.
struct World {
    bus: Bus<u32>,
    routes: Routes<u32>,
    now: Instant,
    bytes_max: usize,
    clients: BTreeMap<u32, Client>,
    /// What is written past the queues, and how much of it.
    luck: Luck,
    last_client: u32,
    topics_ever: BTreeSet<TopicId>,
}

/// Numbers that follow from one number.
struct Luck(u64);

/// What a publisher does that may write past a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It does not try.
    Queue,
    /// It does so at once.
    Now,
    /// It begins, and others act before it ends.
    Slowly,
}

struct Client {
    // As a publisher:
    introduction: Bytes,
    declared: Vec<TopicId>,
    sequence: u64,
    unfinished: Option<Message>,
    /// What did not fit somewhere.
    waiting: Vec<Rest>,
    // As a subscriber:
    subscriptions: BTreeMap<u32, (Pattern, Overflow)>,
    last_subscription: u32,
    queue: Queue,
    /// Its queue was full, and it wanted to be disconnected then.
    doomed: bool,
    /// Written past the queue, not yet read by the client.
    pipe: BytesMut,
    /// Taken by the writer, not yet read by the client.
    flight: BytesMut,
    /// Somebody writes past the queue, so nobody else writes.
    is_written_to: bool,
    /// Since when the client has read nothing although there was something; `None` if there is nothing.
    unread_since: Option<Instant>,
    has_stalled: bool,
    /// Bytes of answers that wait or are in flight.
    answer_bytes: usize,
    /// What the model says it should get and has not got.
    due: BTreeMap<(InstanceId, u64), Due>,
    reader: Reader,
}

/// A message of which fragments are still to be published. Its way is decided at its beginning.
#[derive(Clone)]
struct Message {
    topic: TopicId,
    route: Arc<Route<u32>>,
    fragments: Vec<u8>,
    next: usize,
}

struct Rest {
    to: u32,
    span: Span,
    overflow: Overflow,
    introduction: Bytes,
    /// It is being written past the queue.
    direct: bool,
}

#[derive(Debug)]
struct Due {
    topic: TopicId,
    overflow: Overflow,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Begun,
    Complete,
    /// Its sender left, or its topic went, before it was complete.
    CutShort,
}

/// What a client knows from what it has read.
#[derive(Default)]
struct Reader {
    buffer: BytesMut,
    topics: BTreeMap<TopicId, String>,
    senders: BTreeSet<InstanceId>,
    /// Of each sender: the last sequence number.
    last: BTreeMap<InstanceId, u64>,
    /// Of each sender: sequence number, topic, fragments in all and fragments read.
    unfinished: BTreeMap<InstanceId, (u64, TopicId, u8, u8)>,
    gaps: BTreeMap<TopicId, u64>,
}

impl World {
    fn new(bytes_max: usize) -> World {
        let limits = Limits {
            instances_max: CLIENTS_MAX,
            instances_per_user_max: CLIENTS_MAX,
            subscriptions_per_instance_max: 4,
            topics_per_instance_max: 4,
            queue_bytes_max: bytes_max,
            stall_timeout: STALL_TIMEOUT,
            ..Limits::none()
        };
        let bus = Bus::new(limits, Policy::allowing(vec![Who::Any]), &[]);
        let routes = bus.routes();
        World {
            bus,
            routes,
            now: start(),
            bytes_max,
            clients: BTreeMap::new(),
            luck: Luck(0),
            last_client: 0,
            topics_ever: BTreeSet::new(),
        }
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Connect => self.connect(),
            Step::Disconnect { client } => self.with(client, World::disconnect),
            Step::Declare { client, topic } => self.with_free(client, |world, id| world.declare(id, topic)),
            Step::Retract { client, topic } => self.with_free(client, |world, id| world.retract(id, topic)),
            Step::Subscribe { client, pattern, overflow } => {
                self.with_free(client, |world, id| world.subscribe(id, pattern, overflow));
            }
            Step::Unsubscribe { client, subscription } => {
                self.with_free(client, |world, id| world.unsubscribe(id, subscription));
            }
            Step::Publish { client, topic, payloads, luck } => {
                self.luck = Luck(luck.into());
                self.with_free(client, |world, id| world.publish(id, topic, &payloads));
            }
            Step::Begin { client, topic, fragments, luck } => {
                self.luck = Luck(luck.into());
                self.with_free(client, |world, id| world.begin(id, topic, fragments));
            }
            Step::Continue { client, luck } => {
                self.luck = Luck(luck.into());
                self.with_free(client, World::go_on);
            }
            Step::Retry { client, luck } => {
                self.luck = Luck(luck.into());
                self.with(client, World::retry);
            }
            Step::Ping { client } => self.with_free(client, |world, id| world.tell(id, Control::Ping { token: 1 })),
            Step::Take { client, bytes_max } => self.with(client, |world, id| world.take(id, bytes_max)),
            Step::Read { client, bytes } => self.with(client, |world, id| world.read(id, bytes)),
            Step::Wait { milliseconds } => self.now += Duration::from_millis(milliseconds),
        }
    }

    fn with(&mut self, client: u8, act: impl FnOnce(&mut World, u32)) {
        if let Some(id) = chosen(self.clients.keys().copied(), client) {
            act(self, id);
        }
    }

    /// The same, unless the client's reader waits for room somewhere.
    fn with_free(&mut self, client: u8, act: impl FnOnce(&mut World, u32)) {
        self.with(client, |world, id| {
            if world.clients[&id].waiting.is_empty() {
                act(world, id);
            }
        });
    }

    fn client(&mut self, id: u32) -> &mut Client {
        self.clients.get_mut(&id).unwrap()
    }

    fn connect(&mut self) {
        let identity = Identity::Unix { uid: 1 };
        let peer = Peer { identity: identity.clone(), pid: None };
        let to = self.last_client + 1;
        let mut account = None;
        let make = |_: &Limits, own: &Arc<Account>| {
            account = Some(own.clone());
            to
        };
        let Ok(id) = self.bus.connect(peer, &[], "client".to_owned(), make, self.now) else {
            assert_eq!(self.clients.len(), CLIENTS_MAX);
            return;
        };
        assert_eq!(id.0, to, "ids are never used again");
        self.last_client = to;
        let introduction = Control::SenderInfo { sender: id, identity, name: "client".to_owned() };
        let queue = Queue::new(self.bytes_max, account.unwrap(), STALL_TIMEOUT, self.now);
        self.clients.insert(id.0, Client::new(encode_control(&introduction), queue));
    }

    fn disconnect(&mut self, id: u32) {
        let gone = self.clients.remove(&id).unwrap();
        for rest in gone.waiting {
            let Some(client) = self.clients.get_mut(&rest.to) else { continue };
            // Who has got the beginning of a frame gets the rest; nobody gets more.
            let unsaid = if rest.direct {
                let written = self.luck.number(rest.span.bytes.len() + 1);
                client.end_direct(rest.span, written, self.now)
            } else {
                Some(rest.span)
            };
            if let Some(span) = unsaid.filter(|span| span.part.begins()) {
                for frame in span.iter() {
                    client.due.remove(&(frame.head.sender, frame.head.sequence));
                }
            }
        }
        self.bus.handle_gone(InstanceId(id));
        self.carry_out();
    }

    fn tell(&mut self, id: u32, control: Control) {
        self.bus.handle_control(InstanceId(id), control);
        self.carry_out();
    }

    fn declare(&mut self, id: u32, topic: u8) {
        let name = TOPICS[usize::from(topic) % TOPICS.len()];
        self.tell(id, Control::Declare { token: 1, topic: name.to_owned(), purpose: Purpose::Publish });
    }

    fn retract(&mut self, id: u32, topic: u8) {
        let Some(topic) = chosen(self.clients[&id].declared.iter().copied(), topic) else { return };
        self.client(id).declared.retain(|declared| *declared != topic);
        self.tell(id, Control::Retract { topic });
    }

    fn subscribe(&mut self, id: u32, pattern: u8, overflow: Overflow) {
        let pattern = PATTERNS[usize::from(pattern) % PATTERNS.len()];
        let client = self.client(id);
        if client.subscriptions.len() < 4 {
            client.last_subscription += 1;
            let number = client.last_subscription;
            client.subscriptions.insert(number, (Pattern::new(pattern).unwrap(), overflow));
            let (subscription, pattern) = (number, pattern.to_owned());
            self.tell(id, Control::Subscribe { subscription, pattern, role: Role::Subscribe, overflow });
        }
    }

    fn unsubscribe(&mut self, id: u32, subscription: u8) {
        let subscriptions = self.clients[&id].subscriptions.keys().copied();
        let Some(subscription) = chosen(subscriptions, subscription) else { return };
        self.client(id).subscriptions.remove(&subscription);
        self.tell(id, Control::Unsubscribe { subscription });
    }

    /// Does what the core says, as the broker does.
    fn carry_out(&mut self) {
        while let Some(effect) = self.bus.poll_effect() {
            match effect {
                Effect::RoutesChanged => self.routes = self.bus.routes(),
                Effect::Send { to, control } => {
                    if let Control::Declared { topic, .. } = control {
                        self.topics_ever.insert(topic);
                        let declared = &mut self.client(to).declared;
                        declared.retain(|known| *known != topic);
                        declared.push(topic);
                    }
                    self.client(to).answer(&control);
                }
                Effect::TopicGone(topic) => {
                    for client in self.clients.values_mut() {
                        client.queue.forget_topic(topic);
                        client.cut_short(|_, due| due.topic == topic);
                    }
                }
                Effect::SenderGone(gone) => {
                    for client in self.clients.values_mut() {
                        client.queue.forget_sender(gone);
                        client.cut_short(|sender, _| sender == gone);
                    }
                }
                Effect::Expel { .. } | Effect::Audit(_) => panic!("the policy lets everybody do everything"),
            }
        }
    }

    fn publish(&mut self, id: u32, topic: u8, payloads: &[u8]) {
        let client = self.client(id);
        let Some(topic) = chosen(client.declared.iter().copied(), topic) else { return };
        if client.unfinished.is_some() {
            return;
        }
        let mut bytes = BytesMut::new();
        for payload in payloads {
            client.sequence += 1;
            let head = head(id, topic, client.sequence, Flags::NONE, usize::from(*payload));
            bytes.extend_from_slice(&frame(&head, 0));
        }
        let route = self.routes.get(topic).unwrap().clone();
        self.fan_out(id, &route, &next_span(&mut bytes).unwrap().unwrap());
    }

    fn begin(&mut self, id: u32, topic: u8, fragments: Vec<u8>) {
        let client = &self.clients[&id];
        let Some(topic) = chosen(client.declared.iter().copied(), topic) else { return };
        if client.unfinished.is_none() {
            let route = self.routes.get(topic).unwrap().clone();
            let client = self.client(id);
            client.sequence += 1;
            client.unfinished = Some(Message { topic, route, fragments, next: 0 });
            self.go_on(id);
        }
    }

    /// Publishes the next fragment.
    fn go_on(&mut self, id: u32) {
        let client = self.client(id);
        let Some(mut message) = client.unfinished.take() else { return };
        let ends = message.next + 1 == message.fragments.len();
        let continued = if message.next > 0 { Flags::CONTINUED } else { Flags::NONE };
        let flags = continued.with(if ends { Flags::NONE } else { Flags::MORE });
        // The first fragment says how many there are, the others which they are.
        let mark = if message.next == 0 { message.fragments.len() } else { message.next };
        let payload = usize::from(message.fragments[message.next]);
        let head = head(id, message.topic, client.sequence, flags, payload);
        let mut bytes = BytesMut::from(&frame(&head, u8::try_from(mark).unwrap())[..]);
        message.next += 1;
        let route = message.route.clone();
        client.unfinished = (!ends).then_some(message);
        self.fan_out(id, &route, &next_span(&mut bytes).unwrap().unwrap());
    }

    fn fan_out(&mut self, id: u32, route: &Route<u32>, span: &Span) {
        if span.part.begins() {
            self.expect(route, span);
        }
        for target in &route.targets {
            let rest = Rest {
                to: target.to,
                span: span.clone(),
                overflow: target.overflow,
                introduction: route.introduction.clone(),
                direct: false,
            };
            self.deliver(id, rest);
        }
        self.bury();
    }

    /// Holds the routes against the subscriptions, and notes what should come.
    fn expect(&mut self, route: &Route<u32>, span: &Span) {
        let wants = |client: &Client| {
            let matching = client.subscriptions.values().filter(|(pattern, _)| pattern.matches(&route.topic));
            matching.map(|(_, overflow)| *overflow).min()
        };
        let expected: BTreeMap<u32, Overflow> =
            self.clients.iter().filter_map(|(id, client)| Some((*id, wants(client)?))).collect();
        let targets = route.targets.iter();
        assert_eq!(targets.map(|target| (target.to, target.overflow)).collect::<BTreeMap<_, _>>(), expected);
        assert_eq!(route.targets.len(), expected.len());
        for (id, overflow) in expected {
            for frame in span.iter() {
                let state = if span.part == Part::Whole { State::Complete } else { State::Begun };
                let due = Due { topic: span.topic, overflow, state };
                self.client(id).due.insert((frame.head.sender, frame.head.sequence), due);
            }
        }
    }

    /// Writes or pushes to one subscriber; what does not fit waits.
    fn deliver(&mut self, from: u32, rest: Rest) {
        let Some(sender) = self.clients.get(&from).map(|client| client.introduction.clone()) else { return };
        // Whoever has left takes nothing, and who is about to no more than it has begun to.
        let Some(client) = self.clients.get_mut(&rest.to).filter(|client| rest.direct || !client.doomed) else {
            return;
        };
        let way = self.luck.way();
        let direct = rest.direct || (way != Way::Queue && client.begin_direct(&rest.span));
        if direct && !rest.direct && way == Way::Slowly {
            self.client(from).waiting.push(Rest { direct, ..rest });
            return;
        }
        let span = if direct {
            let written = self.luck.number(rest.span.bytes.len() + 1);
            client.end_direct(rest.span, written, self.now)
        } else {
            Some(rest.span)
        };
        let Some(span) = span.filter(|_| !client.doomed) else { return };
        let names = Introductions { topic: &rest.introduction, sender: &sender };
        if let Some(span) = client.push(span, rest.overflow, names, self.bytes_max, self.now) {
            self.client(from).waiting.push(Rest { span, direct: false, ..rest });
        }
    }

    fn retry(&mut self, id: u32) {
        for rest in std::mem::take(&mut self.client(id).waiting) {
            self.deliver(id, rest);
        }
        self.bury();
    }

    fn bury(&mut self) {
        let is_ready = |client: &Client| client.doomed && !client.is_written_to;
        let doomed: Vec<u32> = self.clients.iter().filter(|(_, client)| is_ready(client)).map(|(id, _)| *id).collect();
        for id in doomed {
            self.client(id).check_farewell();
            self.disconnect(id);
        }
    }

    fn take(&mut self, id: u32, bytes_max: usize) {
        self.client(id).take(bytes_max);
    }

    fn read(&mut self, id: u32, bytes: usize) {
        let now = self.now;
        self.client(id).read(bytes, now);
    }

    /// Everybody reads all there is, and leaves, one after another.
    fn finish(&mut self) {
        self.settle();
        while let Some(id) = self.clients.keys().next().copied() {
            self.disconnect(id);
            self.settle();
        }
        assert_eq!((self.bus.instances().len(), self.bus.topics().len()), (0, 0));
        assert!(self.topics_ever.iter().all(|topic| self.bus.routes().get(*topic).is_none()));
    }

    /// Everybody reads until nothing waits, which must happen, and the accounts must be right then.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let ids: Vec<u32> = self.clients.keys().copied().collect();
            for id in ids {
                if self.clients.contains_key(&id) {
                    self.take(id, usize::MAX);
                    self.read(id, usize::MAX);
                    self.retry(id);
                }
            }
            if self.clients.values().all(Client::is_settled) {
                for (id, client) in &self.clients {
                    client.check_accounts(*id);
                    self.check_unfinished(*id);
                }
                return;
            }
        }
        panic!("somebody waits for room that never comes");
    }

    /// A message that has begun and not ended is one that its sender is still sending.
    fn check_unfinished(&self, id: u32) {
        for (sender, (sequence, topic, ..)) in &self.clients[&id].reader.unfinished {
            let publisher = self.clients.get(&sender.0);
            let sending = publisher.is_some_and(|p| p.unfinished.is_some() && p.sequence == *sequence);
            assert!(sending, "client {id} waits for the end of message {sequence} of {sender} on {topic:?}");
        }
    }
}

impl Client {
    fn new(introduction: Bytes, queue: Queue) -> Client {
        Client {
            introduction,
            declared: Vec::new(),
            sequence: 0,
            unfinished: None,
            waiting: Vec::new(),
            subscriptions: BTreeMap::new(),
            last_subscription: 0,
            queue,
            doomed: false,
            pipe: BytesMut::new(),
            flight: BytesMut::new(),
            is_written_to: false,
            unread_since: None,
            has_stalled: false,
            answer_bytes: 0,
            due: BTreeMap::new(),
            reader: Reader::default(),
        }
    }

    /// Whether it waits for nobody, and nothing waits for it.
    fn is_settled(&self) -> bool {
        let unread = self.pipe.len() + self.flight.len();
        self.waiting.is_empty() && self.queue.is_empty() && unread == 0
    }

    fn answer(&mut self, control: &Control) {
        let frame = encode_control(control);
        self.answer_bytes += frame.len();
        self.queue.push_control(frame).unwrap();
    }

    fn cut_short(&mut self, ends: impl Fn(InstanceId, &Due) -> bool) {
        for ((sender, _), due) in &mut self.due {
            if due.state == State::Begun && ends(*sender, due) {
                due.state = State::CutShort;
            }
        }
    }

    /// Whether a publisher may write past the queue, which is then being done.
    fn begin_direct(&mut self, span: &Span) -> bool {
        let nobody_writes = self.flight.is_empty() && !self.is_written_to;
        self.is_written_to |= nobody_writes && self.queue.begin_direct(span, span.bytes.len());
        nobody_writes && self.is_written_to
    }

    /// The pipe has taken so many bytes. Returns what is to be pushed.
    fn end_direct(&mut self, span: Span, written: usize, now: Instant) -> Option<Span> {
        assert!(std::mem::take(&mut self.is_written_to));
        self.pipe.extend_from_slice(&span.bytes[..written]);
        let bytes = span.bytes.len();
        if written == 0 {
            self.queue.end_direct(&span, bytes, 0, Bytes::new(), now);
            return Some(span);
        }
        let (of_frame, behind) = span.clone().rest_from(written);
        self.queue.end_direct(&span, bytes, written, of_frame, now);
        self.complete(&span);
        self.unread_since = (!self.queue.is_empty()).then_some(now);
        behind
    }

    /// Whatever ends with this span will come.
    fn complete(&mut self, span: &Span) {
        let due = self.due.get_mut(&(span.sender, span.first));
        if let Some(due) = due.filter(|due| due.state == State::Begun && span.part == Part::Last) {
            due.state = State::Complete;
        }
    }

    /// Returns what has to wait.
    fn push(
        &mut self,
        span: Span,
        overflow: Overflow,
        names: Introductions<'_>,
        bytes_max: usize,
        now: Instant,
    ) -> Option<Span> {
        let unread_since = *self.unread_since.get_or_insert(now);
        let end = span.clone();
        let largest = span.iter().map(|frame| frame.head.frame_bytes()).max().unwrap();
        let before = self.queue.queued_bytes();
        let pushed = self.queue.push(span, overflow, names, now);
        let after = self.queue.queued_bytes();
        // What is pushed fits, but for the names it bears; and a message that is dropped costs an Abort at most.
        let bound = bytes_max.max(largest) + names.topic.len() + names.sender.len() + self.answer_bytes;
        let abort = encode_control(&Control::Abort { sender: end.sender }).len();
        assert!(after <= bound.max(before + abort), "{after} bytes are queued, more than {bound}, after {before}");
        if self.queue.stalled() {
            self.has_stalled = true;
            assert!(now >= unread_since + STALL_TIMEOUT, "called stalled too early");
        }
        match pushed {
            Pushed::Full(rest) => {
                assert_eq!(overflow, Overflow::Block);
                return Some(rest);
            }
            Pushed::Disconnect => {
                assert_eq!(overflow, Overflow::Disconnect);
                self.queue.clear();
                self.doomed = true;
            }
            Pushed::Dropped { messages } => assert!(messages > 0),
            Pushed::Queued => {}
        }
        self.complete(&end);
        None
    }

    /// As the writer does: what was taken is written before more is taken.
    fn take(&mut self, bytes_max: usize) {
        if self.flight.is_empty() && !self.is_written_to {
            let mut batch = Vec::new();
            self.queue.take(bytes_max, &mut batch);
            self.flight.extend_from_slice(&batch.concat());
        }
    }

    fn read(&mut self, bytes: usize, now: Instant) {
        let piped = self.pipe.split_to(bytes.min(self.pipe.len()));
        let read = self.flight.split_to((bytes - piped.len()).min(self.flight.len()));
        self.reader.buffer.extend_from_slice(&piped);
        self.reader.buffer.extend_from_slice(&read);
        while let Some(span) = next_span(&mut self.reader.buffer).unwrap() {
            span.iter().for_each(|frame| self.handle(&frame));
        }
        if read.is_empty() {
            return;
        }
        self.queue.written(read.len(), now);
        self.unread_since = self.unread_since.map(|_| now);
        if self.queue.is_empty() && self.flight.is_empty() {
            assert_eq!(self.queue.queued_bytes(), 0);
            self.unread_since = None;
        }
    }

    fn handle(&mut self, frame: &Frame) {
        if frame.head.kind == Kind::Control {
            match decode_control(&frame.body).unwrap() {
                Control::Declared { .. }
                | Control::Subscribed { .. }
                | Control::Unsubscribed { .. }
                | Control::Refused { .. }
                | Control::Pong { .. } => self.answer_bytes -= frame.head.frame_bytes(),
                remark => self.reader.handle_remark(remark),
            }
        } else if self.reader.handle_message(frame) {
            let got = self.due.remove(&(frame.head.sender, frame.head.sequence));
            let got = got.expect("nobody gets what it should not");
            assert_eq!((got.topic, got.state), (frame.head.topic, State::Complete));
        }
    }

    /// A farewell comes next, so what comes before must end with a frame; the names in it may have been thrown away.
    fn check_farewell(&mut self) {
        let mut batch = Vec::new();
        self.queue.take(usize::MAX, &mut batch);
        let mut stream = std::mem::take(&mut self.reader.buffer);
        for bytes in [&self.pipe[..], &self.flight[..], &batch.concat()[..]] {
            stream.extend_from_slice(bytes);
        }
        while next_span(&mut stream).unwrap().is_some() {}
        assert!(stream.is_empty(), "it is left in the middle of a frame");
    }

    /// What was sent was delivered or is in a gap, and who loses nothing has lost nothing.
    fn check_accounts(&self, id: u32) {
        let count = |topic: Option<TopicId>, state: State| {
            let due =
                self.due.values().filter(|due| due.state == state && topic.is_none_or(|topic| topic == due.topic));
            due.count() as u64
        };
        let gaps: u64 = self.reader.gaps.values().sum();
        assert_eq!(gaps, self.queue.dropped(), "client {id}");
        let lost = count(None, State::Complete);
        // Of a message that its sender never ended, a gap may have told before.
        let most = lost + count(None, State::CutShort) + count(None, State::Begun);
        assert!((lost..=most).contains(&gaps), "client {id} lost {lost} and was told of {gaps}: {:?}", self.due);
        for (topic, gap) in self.reader.gaps.iter().filter(|(topic, _)| topic.0 != 0) {
            let most = [State::Complete, State::CutShort, State::Begun].map(|state| count(Some(*topic), state));
            assert!(*gap <= most.iter().sum(), "client {id} was told of {gap} lost on {topic:?}: {:?}", self.due);
        }
        for due in self.due.values().filter(|due| due.state == State::Complete) {
            match due.overflow {
                Overflow::DropOldest | Overflow::DropNewest | Overflow::Latest => {}
                Overflow::Block => {
                    assert!(self.has_stalled, "client {id} blocks, did not stall, and lost {due:?}")
                }
                Overflow::Disconnect => panic!("client {id} lost {due:?} and is still connected"),
            }
        }
    }
}

impl Reader {
    fn handle_remark(&mut self, remark: Control) {
        match remark {
            Control::TopicInfo { topic, name } => assert_eq!(self.topics.insert(topic, name), None),
            Control::TopicGone { topic } => {
                assert!(self.topics.remove(&topic).is_some());
                assert!(self.unfinished.values().all(|(_, unfinished, ..)| *unfinished != topic));
            }
            Control::SenderInfo { sender, .. } => assert!(self.senders.insert(sender)),
            Control::SenderGone { sender } => {
                assert!(self.senders.remove(&sender));
                self.unfinished.remove(&sender);
            }
            Control::Gap { topic, messages } => {
                assert!(messages > 0 && (topic.0 == 0 || self.topics.contains_key(&topic)));
                *self.gaps.entry(topic).or_default() += messages;
            }
            Control::Abort { sender } => {
                assert!(self.unfinished.remove(&sender).is_some(), "nothing to abort")
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Checks order and wholeness. Returns whether a message ends.
    fn handle_message(&mut self, frame: &Frame) -> bool {
        let Head { sender, topic, sequence, .. } = frame.head;
        assert!(self.topics.contains_key(&topic) && self.senders.contains(&sender), "not announced");
        let part = frame.head.part();
        if part.begins() {
            assert!(!self.unfinished.contains_key(&sender), "the message before has no end");
            let last = self.last.insert(sender, sequence).unwrap_or(0);
            assert!(sequence > last, "message {sequence} of {sender} came after {last}");
            if part == Part::First {
                self.unfinished.insert(sender, (sequence, topic, frame.body[0], 1));
            }
            return part == Part::Whole;
        }
        let message = self.unfinished.get_mut(&sender).expect("a fragment has a beginning");
        assert_eq!((message.0, message.1, message.3), (sequence, topic, frame.body[0]), "a fragment is missing");
        message.3 += 1;
        if part != Part::Last {
            return false;
        }
        assert_eq!(message.2, message.3, "fragments are missing");
        self.unfinished.remove(&sender);
        true
    }
}

impl Luck {
    /// Below `max`. At its ends more often than anywhere else: there are the faults.
    fn number(&mut self, max: usize) -> usize {
        match self.next() % 4 {
            0 => 0,
            1 => max - 1,
            _ => usize::try_from(self.next()).unwrap_or(0) % max,
        }
    }

    fn way(&mut self) -> Way {
        match self.next() % 4 {
            0 => Way::Queue,
            1 => Way::Slowly,
            _ => Way::Now,
        }
    }

    /// 0, which is what a failure shrinks to, gives nothing but 0.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 >> 33
    }
}

fn chosen<T>(among: impl ExactSizeIterator<Item = T>, number: u8) -> Option<T> {
    let mut among = among;
    let count = among.len();
    (count > 0).then(|| among.nth(usize::from(number) % count)).flatten()
}

fn head(sender: u32, topic: TopicId, sequence: u64, flags: Flags, payload: usize) -> Head {
    let sender = InstanceId(sender);
    Head { body: u32::try_from(payload).unwrap(), kind: Kind::Message, flags, metadata: 0, topic, sender, sequence }
}

fn frame(head: &Head, mark: u8) -> Vec<u8> {
    let mut bytes = encode_head(head).to_vec();
    bytes.resize(HEAD_BYTES + head.body as usize, mark);
    bytes
}

#[expect(clippy::disallowed_methods, reason = "an Instant can't be made otherwise; from here the test holds the clock")]
fn start() -> Instant {
    Instant::now()
}
