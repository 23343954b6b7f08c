//! Traffic: raw clients that publish and subscribe by the rules, and check every byte.

use std::collections::BTreeMap;

use pipebus_proto::control::{Control, Farewell, Overflow, Welcome};
use pipebus_proto::frame::{BODY_BYTES_MAX, Flags, Kind, Part};
use pipebus_proto::splitter::Frame;
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::decode_control;

use crate::raw::{RawClient, frames, message};
use crate::{TestBus, wait_for};

/// A payload like no other: no byte of it is where it would be in another of the same length.
pub fn payload(seed: u64, bytes: usize) -> Vec<u8> {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut payload = Vec::with_capacity(bytes + 8);
    while payload.len() < bytes {
        payload.extend_from_slice(&chance.number().to_le_bytes());
    }
    payload.truncate(bytes);
    payload
}

/// Numbers that look random and are always the same.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// The next one.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `max`.
    pub fn below(&mut self, max: usize) -> usize {
        usize::try_from(self.number() >> 16).unwrap() % max
    }

    /// From 1 byte to 1 MiB, of each order of magnitude as many.
    pub fn size(&mut self) -> usize {
        let bits = self.below(21);
        (1 << bits) + self.below(1 << bits).min((1 << 20) - (1 << bits))
    }

    /// So many of them. Most are as the one before: what is of one size goes together.
    pub fn sizes(&mut self, count: u64) -> Vec<usize> {
        let mut size = self.size();
        let mut next = || {
            if self.below(4) == 0 {
                size = self.size();
            }
            size
        };
        (0..count).map(|_| next()).collect()
    }
}

/// A client with a topic.
#[derive(Debug)]
pub struct Publisher {
    /// What it does it with.
    pub client: RawClient,
    /// Its client id.
    pub id: InstanceId,
    /// Its topic.
    pub topic: TopicId,
    /// Of its last message.
    pub sequence: u64,
    /// What has been released.
    pub released: Vec<u64>,
}

impl Publisher {
    /// One that is connected, and has declared its topic.
    pub fn new(bus: &TestBus, topic: &str) -> Publisher {
        Publisher::with(RawClient::connect(&bus.place()), topic)
    }

    /// The same, with a client that is connected already.
    pub fn with((mut client, welcome): (RawClient, Welcome), topic: &str) -> Publisher {
        let topic = client.declare(topic);
        Publisher { client, id: welcome.client, topic, sequence: 0, released: Vec::new() }
    }

    /// The bytes of the next message, in fragments if they must be.
    pub fn next(&mut self, payload: &[u8]) -> Vec<u8> {
        self.next_in(Flags::NONE, payload, BODY_BYTES_MAX)
    }

    /// The same, with flags and fragments of at most so many bytes.
    pub fn next_in(&mut self, flags: Flags, payload: &[u8], fragment: usize) -> Vec<u8> {
        self.sequence += 1;
        frames(self.id, self.topic, self.sequence, flags, payload, fragment)
    }

    /// Publishes.
    pub fn send(&mut self, payload: &[u8]) {
        let bytes = self.next(payload);
        self.client.write(&bytes);
    }

    /// Publishes a message that it wants to be told of when it has been read. Returns its number.
    pub fn send_loaned(&mut self, payload: &[u8]) -> u64 {
        let bytes = self.next_in(Flags::LOANED, payload, BODY_BYTES_MAX);
        self.client.write(&bytes);
        self.sequence
    }

    /// Waits until all that it has sent is in the queues. Messages that come meanwhile are passed over.
    pub fn flush(&mut self) {
        self.client.say(&Control::Ping { token: self.sequence });
        loop {
            match self.client.hear() {
                Some(Control::Pong { token }) if token == self.sequence => return,
                Some(Control::Released { sequences }) => self.released.extend(sequences),
                Some(Control::Pong { .. } | Control::SenderInfo { .. } | Control::TopicInfo { .. }) => {}
                other => panic!("no pong but {other:?}"),
            }
        }
    }

    /// What is released by now, in order, once as many are as expected.
    pub fn released(&mut self, expected: usize) -> Vec<u64> {
        wait_for("messages to be released", || {
            self.flush();
            (self.released.len() >= expected).then_some(())
        });
        // What is released may be said after the pong, but not after the next.
        self.flush();
        let mut released = std::mem::take(&mut self.released);
        released.sort_unstable();
        released
    }
}

/// A client that subscribes, and checks that what it gets is well formed.
#[derive(Debug)]
pub struct Subscriber {
    /// What it does it with.
    pub client: RawClient,
    /// Its client id.
    pub id: InstanceId,
    /// Of its own last message.
    sequence: u64,
    /// Of each sender: sequence number and beginning of the unfinished message.
    unfinished: BTreeMap<InstanceId, (u64, Vec<u8>)>,
    /// Of each sender: the last sequence number.
    last: BTreeMap<InstanceId, u64>,
    /// Messages lost, as it was told.
    pub lost: u64,
    /// Senders that have gone.
    pub gone: Vec<InstanceId>,
    /// Why the broker has said goodbye, if it has.
    pub goodbye: Option<Farewell>,
}

/// A message, put together.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub sender: InstanceId,
    /// Its topic.
    pub topic: TopicId,
    /// Its number.
    pub sequence: u64,
    /// All of it.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message {} of {:?}, {} bytes", self.sequence, self.sender, self.payload.len())
    }
}

impl Subscriber {
    /// One that is connected, and subscribed.
    pub fn new(bus: &TestBus, pattern: &str, overflow: Overflow) -> Subscriber {
        Subscriber::with(RawClient::connect(&bus.place()), pattern, overflow)
    }

    /// The same, with a client that is connected already.
    pub fn with((mut client, welcome): (RawClient, Welcome), pattern: &str, overflow: Overflow) -> Subscriber {
        client.subscribe(pattern, overflow);
        Subscriber {
            client,
            id: welcome.client,
            sequence: 0,
            unfinished: BTreeMap::new(),
            last: BTreeMap::new(),
            lost: 0,
            gone: Vec::new(),
            goodbye: None,
        }
    }

    /// The next message; `None` at the end, which must not be within a frame.
    pub fn next_message(&mut self) -> Option<Message> {
        loop {
            let Some(frame) = self.client.next_frame() else {
                assert!(self.client.is_between_frames(), "the stream ends in the middle of a frame");
                return None;
            };
            if let Some(message) = self.take(&frame) {
                return Some(message);
            }
        }
    }

    /// Waits until the broker's writer for this client is at rest: what comes next can be written past it. Nothing may be
    /// under way to the client.
    ///
    /// That its bytes have arrived does not say so. But one task writes to a client and reads from it, so when a message of
    /// its own has arrived somewhere, all that was written before is done with.
    pub fn settle(&mut self, bus: &TestBus) {
        let mut witness = Subscriber::new(bus, "settled", Overflow::Block);
        let topic = self.client.declare("settled");
        self.sequence += 1;
        self.client.write(&message(self.id, topic, self.sequence, b""));
        witness.expect(self.sequence, b"");
    }

    /// A message of which the end has been read; if there is none, reads at most so many bytes.
    pub fn read_piece(&mut self, bytes_max: usize) -> Option<Message> {
        while let Some(frame) = self.client.whole_frame() {
            if let Some(message) = self.take(&frame) {
                return Some(message);
            }
        }
        assert!(self.client.read(bytes_max) > 0, "the end");
        None
    }

    /// The next message, which must be this one.
    #[track_caller]
    pub fn expect(&mut self, sequence: u64, payload: &[u8]) {
        let message = self.next_message().expect("no message but the end");
        assert_eq!((message.sequence, message.payload.len()), (sequence, payload.len()));
        assert!(message.payload == payload, "bytes of message {sequence} are others than were sent");
    }

    /// Handles a frame. Returns a message that ends with it.
    pub fn take(&mut self, frame: &Frame) -> Option<Message> {
        let head = frame.head;
        if head.kind == Kind::Control {
            match decode_control(&frame.body).unwrap() {
                Control::Gap { messages, .. } => self.lost += messages,
                Control::Goodbye { cause } => self.goodbye = Some(cause),
                Control::Abort { sender } => assert!(self.unfinished.remove(&sender).is_some(), "nothing to abort"),
                Control::SenderGone { sender } => {
                    self.unfinished.remove(&sender);
                    self.gone.push(sender);
                }
                _ => {}
            }
            return None;
        }
        if head.part().begins() {
            let last = self.last.insert(head.sender, head.sequence).unwrap_or(0);
            assert!(head.sequence > last, "message {} came after {last}", head.sequence);
            assert!(self.unfinished.insert(head.sender, (head.sequence, Vec::new())).is_none(), "a message has no end");
        }
        let (sequence, begun) = self.unfinished.get_mut(&head.sender).expect("a fragment has a beginning");
        assert_eq!(*sequence, head.sequence, "a fragment of another message");
        begun.extend_from_slice(&frame.payload());
        if !matches!(head.part(), Part::Whole | Part::Last) {
            return None;
        }
        let (sequence, payload) = self.unfinished.remove(&head.sender)?;
        Some(Message { sender: head.sender, topic: head.topic, sequence, payload })
    }
}

/// What a broker has before a story, to be held against what it has behind it.
#[derive(Debug)]
pub struct Calm {
    fds: usize,
}

impl Calm {
    /// Before anybody has connected.
    pub fn of(bus: &TestBus) -> Calm {
        Calm { fds: fds(bus).len() }
    }

    /// Once all clients are gone: the broker lives, nothing waits, and it has no more files open than before, but for what
    /// each of its threads keeps.
    pub fn comes_back(&self, bus: &TestBus) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = bus.client().await;
            crate::wait_until("all others to be gone and nothing to wait", async || {
                let status = client.request("$bus/status", "", crate::DEADLINE).await.unwrap();
                let status: serde_json::Value = status.json().unwrap();
                status["instances"] == 1 && status["queued_bytes"] == 0
            })
            .await;
        });
        // And with it the client.
        drop(runtime);
        // Two scratch pipes for each, and one /dev/null.
        let kept = 1 + 4 * std::thread::available_parallelism().unwrap().get();
        let start = tokio::time::Instant::now();
        loop {
            let now = fds(bus);
            if now.len() <= self.fds + kept {
                return;
            }
            assert!(
                start.elapsed() < crate::DEADLINE,
                "the broker keeps open {now:#?}; before there were {}",
                self.fds
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// What files the broker has open.
fn fds(bus: &TestBus) -> Vec<std::path::PathBuf> {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", bus.broker().0.id())).unwrap();
    fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()).collect()
}
