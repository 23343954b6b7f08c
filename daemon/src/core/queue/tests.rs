use std::ops::RangeInclusive;

use bytes::BytesMut;
use pipebus_proto::control::Identity;
use pipebus_proto::frame::{Flags, HEAD_BYTES, Head};
use pipebus_proto::splitter::next_span;
use pipebus_proto::wire::{decode_control, encode_head};

use Overflow::{Block, Disconnect, DropNewest, DropOldest, Latest};
use Part::{First, Last, Middle};

use super::*;
use crate::core::account::Total;
use crate::core::limits::Limits;

mod account;
mod direct;
mod timed;

const STALL_TIMEOUT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_nanos(1);

/// Bytes of the frames that [`messages`] makes.
const FRAME: usize = 100;

/// A queue, its reader, and a clock held by hand.
struct Subscriber {
    queue: Queue,
    now: Instant,
}

impl Subscriber {
    /// Knows nobody yet.
    fn stranger(bytes_max: usize) -> Subscriber {
        let now = start();
        let account = Arc::new(Account::new(Arc::new(Total::new(&Limits::none())), &Limits::none(), now));
        Subscriber { queue: Queue::new(bytes_max, account, STALL_TIMEOUT, now), now }
    }

    /// Knows topics up to 40 and senders up to 3, so that a queue has room for messages and nothing else.
    fn new(bytes_max: usize) -> Subscriber {
        let mut subscriber = Subscriber::stranger(1 << 20);
        for topic in 1..=40 {
            for sender in 1..=3 {
                assert_eq!(subscriber.push(Overflow::Block, message(1, FRAME).on(topic).from(sender)), Pushed::Queued);
            }
        }
        subscriber.read_all();
        subscriber.queue.bytes_max = bytes_max;
        subscriber
    }

    fn push(&mut self, overflow: Overflow, span: impl Into<Span>) -> Pushed {
        let span = span.into();
        let topic = encode_control(&Control::TopicInfo { topic: span.topic, name: "a".to_owned() });
        let identity = Identity::Unix { uid: 1 };
        let sender = encode_control(&Control::SenderInfo { sender: span.sender, identity, name: "b".to_owned() });
        let names = Introductions { topic: &topic, sender: &sender };
        self.queue.push(span, overflow, names, self.now)
    }

    /// Pushes what must be taken whole.
    #[track_caller]
    fn queue(&mut self, overflow: Overflow, span: impl Into<Span>) {
        assert_eq!(self.push(overflow, span), Pushed::Queued);
    }

    /// Pushes what must cost so many messages.
    #[track_caller]
    fn lose(&mut self, overflow: Overflow, span: impl Into<Span>, messages: u64) {
        assert_eq!(self.push(overflow, span), Pushed::Dropped { messages });
    }

    /// Takes at least one frame into flight; nothing is read yet.
    fn take(&mut self, bytes_max: usize) -> String {
        let mut batch = Vec::new();
        self.queue.take(bytes_max, &mut batch);
        describe(&batch.concat())
    }

    fn read(&mut self, bytes: usize) {
        self.queue.written(bytes, self.now);
    }

    fn read_all(&mut self) -> String {
        let read = self.take(usize::MAX);
        self.read(usize::MAX);
        assert_eq!((self.queue.queued_bytes(), self.queue.droppable_bytes), (0, 0));
        read
    }

    #[track_caller]
    fn reads(&mut self, expected: &str) {
        assert_eq!(self.read_all(), expected);
    }

    /// Begins to write a span past the queue; `None` if it may not.
    fn begin_direct(&mut self, span: impl Into<Span>) -> Option<Span> {
        let span = span.into();
        self.queue.begin_direct(&span, span.bytes.len()).then_some(span)
    }

    /// Writes so many bytes of it. Returns the whole frames that are left.
    fn end_direct(&mut self, span: &Span, written: usize) -> Option<Span> {
        let (rest, behind) = match written {
            0 => (Bytes::new(), Some(span.clone())),
            _ => span.clone().rest_from(written),
        };
        self.queue.end_direct(span, span.bytes.len(), written, rest, self.now);
        behind
    }

    /// What is read, if `begun` has been read before; all of it.
    fn read_behind(&mut self, begun: &[u8]) -> String {
        let mut batch = vec![Bytes::copy_from_slice(begun)];
        self.queue.take(usize::MAX, &mut batch);
        self.read(usize::MAX);
        assert_eq!((self.queue.queued_bytes(), self.queue.droppable_bytes), (0, 0));
        describe(&batch.concat())
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}

#[expect(clippy::disallowed_methods, reason = "an Instant can't be made otherwise; from here the tests hold the clock")]
fn start() -> Instant {
    Instant::now()
}

/// Frames as words: `m3` is message 3, `f3`, `c3` and `l3` its first, continued and last fragments, each with `@` and
/// its topic unless that is 1, and `*` and its sender unless that is 1.
fn describe(bytes: &[u8]) -> String {
    let mut buffer = BytesMut::from(bytes);
    let spans = std::iter::from_fn(|| next_span(&mut buffer).unwrap());
    let words: Vec<String> =
        spans.flat_map(|span| span.iter().map(|frame| word(&frame.head, &frame.body)).collect::<Vec<_>>()).collect();
    words.join(" ")
}

fn word(head: &Head, body: &[u8]) -> String {
    if head.kind != Kind::Control {
        let part = match head.part() {
            Part::Whole => 'm',
            Part::First => 'f',
            Part::Middle => 'c',
            Part::Last => 'l',
        };
        let topic = if head.topic.0 == 1 { String::new() } else { format!("@{}", head.topic.0) };
        let sender = if head.sender.0 == 1 { String::new() } else { format!("*{}", head.sender.0) };
        return format!("{part}{}{topic}{sender}", head.sequence);
    }
    match decode_control(body).unwrap() {
        Control::Gap { topic, messages } => format!("gap{messages}@{}", topic.0),
        Control::Abort { sender } => format!("abort*{sender}"),
        Control::TopicInfo { topic, .. } => format!("topic@{}", topic.0),
        Control::TopicGone { topic } => format!("gone@{}", topic.0),
        Control::SenderInfo { sender, .. } => format!("sender*{sender}"),
        Control::SenderGone { sender } => format!("gone*{sender}"),
        Control::Pong { token } => format!("pong{token}"),
        other => format!("{other:?}"),
    }
}

/// Frames to make a span of.
#[derive(Clone)]
struct Frames {
    kind: Kind,
    part: Part,
    topic: u32,
    sender: u32,
    sequences: RangeInclusive<u64>,
    bytes: usize,
}

impl Frames {
    fn on(self, topic: u32) -> Frames {
        Frames { topic, ..self }
    }

    fn from(self, sender: u32) -> Frames {
        Frames { sender, ..self }
    }

    fn kind(self, kind: Kind) -> Frames {
        Frames { kind, ..self }
    }
}

impl From<Frames> for Span {
    fn from(frames: Frames) -> Span {
        let flags = match frames.part {
            Part::Whole => Flags::NONE,
            Part::First => Flags::MORE,
            Part::Middle => Flags::MORE.with(Flags::CONTINUED),
            Part::Last => Flags::CONTINUED,
        };
        let mut bytes = BytesMut::new();
        for sequence in frames.sequences {
            bytes.extend_from_slice(&encode_head(&Head {
                body: u32::try_from(frames.bytes - HEAD_BYTES).unwrap(),
                kind: frames.kind,
                flags,
                metadata: u16::from(matches!(frames.kind, Kind::Request | Kind::Reply) && frames.part.begins()),
                topic: TopicId(frames.topic),
                sender: InstanceId(frames.sender),
                sequence,
            }));
            bytes.resize(bytes.len() + frames.bytes - HEAD_BYTES, 0);
        }
        next_span(&mut bytes).unwrap().unwrap()
    }
}

fn messages(sequences: RangeInclusive<u64>) -> Frames {
    Frames { kind: Kind::Message, part: Part::Whole, topic: 1, sender: 1, sequences, bytes: FRAME }
}

fn message(sequence: u64, bytes: usize) -> Frames {
    Frames { bytes, ..messages(sequence..=sequence) }
}

fn fragment(part: Part, sequence: u64) -> Frames {
    Frames { part, ..message(sequence, FRAME) }
}

#[test]
fn queue_takes_its_bound_and_no_byte_more() {
    for (bytes_max, expected) in [(3 * FRAME, "m1 m2 m3"), (3 * FRAME - 1, "m1 m2")] {
        let mut subscriber = Subscriber::new(bytes_max);
        assert!(matches!(subscriber.push(Block, messages(1..=5)), Pushed::Full(_)));
        assert!(subscriber.queue.queued_bytes() <= bytes_max);
        subscriber.reads(expected);
    }
}

#[test]
fn publisher_of_a_blocking_subscriber_gets_back_what_does_not_fit() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    assert_eq!(subscriber.push(Block, messages(1..=5)), Pushed::Full(messages(4..=5).into()));
    assert_eq!(subscriber.push(Block, messages(4..=5)), Pushed::Full(messages(4..=5).into()));
    subscriber.reads("m1 m2 m3");
    subscriber.queue(Block, messages(4..=5));
    subscriber.reads("m4 m5");
}

#[test]
fn room_is_there_when_bytes_are_written_and_not_when_they_are_taken() {
    let mut subscriber = Subscriber::new(2 * FRAME);
    subscriber.queue(Block, messages(1..=2));
    assert_eq!(subscriber.take(usize::MAX), "m1 m2");
    assert_eq!(subscriber.push(Block, messages(3..=3)), Pushed::Full(messages(3..=3).into()));
    subscriber.read(FRAME);
    subscriber.queue(Block, messages(3..=3));
}

#[test]
fn idle_queue_takes_one_frame_whatever_its_bound() {
    for overflow in [Block, DropOldest, DropNewest, Latest, Disconnect] {
        let mut subscriber = Subscriber::new(1);
        subscriber.queue(overflow, message(1, 1000));
        subscriber.reads("m1");
    }
    let mut subscriber = Subscriber::new(1);
    assert_eq!(subscriber.push(Block, messages(1..=3)), Pushed::Full(messages(2..=3).into()));
    subscriber.reads("m1");
}

#[test]
fn stalled_subscriber_loses_new_messages_until_it_moves_again() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    assert!(matches!(subscriber.push(Block, messages(1..=4)), Pushed::Full(_)));
    subscriber.wait(STALL_TIMEOUT - TICK);
    assert!(matches!(subscriber.push(Block, messages(4..=5)), Pushed::Full(_)));
    assert!(!subscriber.queue.stalled());
    subscriber.wait(TICK);
    subscriber.lose(Block, messages(4..=5), 2);
    subscriber.lose(Block, messages(6..=6), 1);
    assert!(subscriber.queue.stalled());
    assert_eq!(subscriber.take(3 * FRAME), "m1 m2 m3");
    subscriber.read(1);
    assert!(!subscriber.queue.stalled());
    assert!(matches!(subscriber.push(Block, messages(7..=7)), Pushed::Full(_)));
    subscriber.reads("gap3@1");
}

#[test]
fn what_is_taken_is_no_more_than_asked_unless_a_single_frame_is() {
    let mut subscriber = Subscriber::new(9 * FRAME);
    subscriber.queue(Block, messages(1..=4));
    subscriber.queue(Block, messages(5..=5).on(2));
    assert_eq!(subscriber.take(3 * FRAME), "m1 m2 m3");
    assert_eq!(subscriber.take(FRAME - 1), "m4");
    assert_eq!(subscriber.take(FRAME), "m5@2");
}

#[test]
fn one_large_message_to_a_slow_reader_is_no_stall() {
    let mut subscriber = Subscriber::new(FRAME);
    subscriber.queue(Block, message(1, 1000));
    subscriber.take(1);
    for _ in 0..10 {
        subscriber.wait(STALL_TIMEOUT - TICK);
        assert!(matches!(subscriber.push(Block, messages(2..=2)), Pushed::Full(_)));
        subscriber.read(1);
    }
}

#[test]
fn time_in_which_nobody_waited_any_more_is_no_stall() {
    let now = start();
    let (none, total) = (Limits::none(), Arc::new(Total::new(&Limits::none())));
    let account = Arc::new(Account::new(total, &Limits { queued_bytes_per_user_max: FRAME, ..none }, now));
    let queue = Queue::new(10 * FRAME, account.clone(), STALL_TIMEOUT, now);
    let mut subscriber = Subscriber { queue, now };
    // Others of its user hold all that there is.
    account.charge_queued(0, FRAME);
    assert!(matches!(subscriber.push(Block, message(1, FRAME).from(1)), Pushed::Full(_)));
    subscriber.queue.forget_sender(InstanceId(1));
    subscriber.wait(10 * STALL_TIMEOUT);
    assert!(matches!(subscriber.push(Block, message(1, FRAME).from(2)), Pushed::Full(_)));
    subscriber.wait(STALL_TIMEOUT);
    subscriber.lose(Block, message(1, FRAME).from(2), 1);
    account.charge_queued(FRAME, 0);
}

#[test]
fn time_in_which_there_was_nothing_to_take_is_no_stall() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.wait(10 * STALL_TIMEOUT);
    assert!(matches!(subscriber.push(Block, messages(1..=4)), Pushed::Full(_)));
    subscriber.read_all();
    subscriber.wait(10 * STALL_TIMEOUT);
    subscriber.queue(Block, fragment(Middle, 9));
    subscriber.wait(10 * STALL_TIMEOUT);
    assert!(matches!(subscriber.push(Block, messages(4..=7)), Pushed::Full(_)));
}

#[test]
fn an_answer_just_on_its_way_does_not_make_a_quiet_subscriber_stalled() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.wait(10 * STALL_TIMEOUT);
    subscriber.queue.push_control(encode_control(&Control::Pong { token: 1 })).unwrap();
    assert_eq!(subscriber.take(usize::MAX), "pong1");
    subscriber.read(1);
    subscriber.wait(10 * STALL_TIMEOUT);
    assert!(matches!(subscriber.push(Block, messages(1..=4)), Pushed::Full(_)));
    subscriber.wait(STALL_TIMEOUT);
    subscriber.lose(Block, messages(3..=4), 2);
}

#[test]
fn time_in_which_the_broker_was_stopped_is_forgiven() {
    let mut subscriber = Subscriber::new(FRAME);
    subscriber.queue(Block, messages(1..=1));
    subscriber.wait(STALL_TIMEOUT);
    subscriber.queue.forgive(subscriber.now);
    assert_eq!(subscriber.queue.stall_deadline(), subscriber.now + STALL_TIMEOUT);
    assert!(matches!(subscriber.push(Block, messages(2..=2)), Pushed::Full(_)));
}

#[test]
fn slow_subscriber_loses_its_oldest_message() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.queue(DropOldest, messages(1..=3));
    subscriber.lose(DropOldest, messages(4..=4), 1);
    subscriber.lose(DropOldest, messages(5..=5), 1);
    assert_eq!(subscriber.queue.dropped(), 2);
    subscriber.reads("gap2@1 m3 m4 m5");
}

#[test]
fn of_a_span_larger_than_the_queue_the_newest_messages_stay() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.lose(DropOldest, messages(1..=5), 2);
    subscriber.reads("gap2@1 m3 m4 m5");
}

#[test]
fn what_must_not_be_dropped_stays_when_the_oldest_go() {
    let mut subscriber = Subscriber::new(4 * FRAME);
    subscriber.queue(Block, messages(1..=1));
    subscriber.queue(DropOldest, messages(2..=2).on(2));
    subscriber.queue(Block, messages(3..=3));
    subscriber.queue(Latest, messages(4..=4).on(4));
    subscriber.lose(DropOldest, messages(5..=6).on(2), 2);
    subscriber.reads("m1 gap1@2 m3 gap1@4 m5@2 m6@2");
}

#[test]
fn nothing_old_is_dropped_for_a_message_that_fits_in_no_case() {
    for overflow in [DropOldest, Latest] {
        let mut subscriber = Subscriber::new(3 * FRAME);
        subscriber.queue(overflow, messages(1..=3));
        assert_eq!(subscriber.take(3 * FRAME), "m1 m2 m3");
        subscriber.read(2 * FRAME);
        subscriber.queue(overflow, messages(4..=4));
        subscriber.lose(overflow, message(5, 2 * FRAME + 1), 1);
        subscriber.reads("m4 gap1@1");
    }
}

#[test]
fn a_message_larger_than_the_queue_takes_the_place_of_all_that_may_be_dropped() {
    for overflow in [DropOldest, Latest] {
        let mut subscriber = Subscriber::new(3 * FRAME);
        subscriber.queue(overflow, messages(1..=3));
        subscriber.lose(overflow, message(4, 1000), 3);
        subscriber.reads("gap3@1 m4");
    }
}

#[test]
fn subscriber_that_drops_the_newest_keeps_what_it_has() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.lose(DropNewest, messages(1..=5), 2);
    subscriber.lose(DropNewest, messages(6..=6), 1);
    assert_eq!(subscriber.take(3 * FRAME), "m1 m2 m3");
    subscriber.read(FRAME);
    subscriber.queue(DropNewest, messages(7..=7));
    subscriber.reads("gap3@1 m7");
}

#[test]
fn latest_keeps_the_newest_message_of_each_topic() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.queue(Latest, messages(1..=1));
    subscriber.queue(Latest, messages(2..=3).on(2));
    subscriber.lose(Latest, messages(4..=6).on(2), 4);
    subscriber.reads("m1 gap4@2 m6@2");
}

#[test]
fn latest_drops_the_oldest_of_other_topics_if_its_own_are_not_enough() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.queue(Latest, messages(1..=2).on(2));
    subscriber.queue(Latest, messages(3..=3));
    subscriber.lose(Latest, message(4, 2 * FRAME), 2);
    subscriber.reads("gap1@2 m2@2 gap1@1 m4");
}

#[test]
fn latest_overlooks_none_where_gaps_become_one() {
    let mut subscriber = Subscriber::new(36 * FRAME);
    (2..=17).for_each(|topic| subscriber.queue(DropOldest, messages(1..=1).on(topic)));
    (1..=20).for_each(|sequence| subscriber.queue(Latest, messages(sequence..=sequence)));
    subscriber.lose(DropOldest, message(2, 16 * FRAME).on(40), 16);
    subscriber.lose(Latest, messages(21..=21), 20);
    subscriber.reads("gap36@0 m2@40 m21");
}

#[test]
fn subscriber_that_wants_to_is_disconnected_when_its_queue_is_full() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.queue(Disconnect, messages(1..=3));
    assert_eq!(subscriber.push(Disconnect, messages(4..=4)), Pushed::Disconnect);
    subscriber.queue.clear();
    assert_eq!(subscriber.queue.queued_bytes(), 0);
    subscriber.queue(Disconnect, fragment(First, 5));
    subscriber.queue(Disconnect, messages(1..=2).from(2));
    assert_eq!(subscriber.push(Disconnect, fragment(Last, 5)), Pushed::Disconnect);
}

#[test]
fn gap_stands_where_the_messages_would_have_been() {
    let mut subscriber = Subscriber::new(2 * FRAME);
    subscriber.queue(Block, messages(1..=2));
    subscriber.lose(DropNewest, messages(3..=3).on(2), 1);
    assert_eq!(subscriber.take(2 * FRAME), "m1 m2");
    subscriber.read(2 * FRAME);
    subscriber.queue(Block, messages(4..=5));
    subscriber.lose(DropNewest, messages(6..=8).on(2), 3);
    subscriber.reads("gap1@2 m4 m5 gap3@2");
}

#[test]
fn what_was_not_made_for_want_of_room_is_a_gap_where_it_would_have_been() {
    let mut subscriber = Subscriber::new(2 * FRAME);
    subscriber.queue(DropNewest, messages(1..=2).kind(Kind::Record));
    assert_eq!(subscriber.queue.room(), 0);
    subscriber.queue.drop_unmade(TopicId(1), 3);
    subscriber.lose(DropNewest, messages(6..=6).kind(Kind::Record), 1);
    subscriber.queue.drop_unmade(TopicId(2), 1);
    assert_eq!(subscriber.queue.dropped(), 5);
    subscriber.reads("m1 m2 gap4@1 gap1@2");
    subscriber.queue(DropNewest, messages(8..=8).kind(Kind::Record));
    subscriber.queue.drop_unmade(TopicId(50), 7);
    subscriber.reads("m8 gap7@0");
}

#[test]
fn a_record_of_a_reply_introduces_its_topic_too_and_disturbs_no_unfinished_message() {
    let mut subscriber = Subscriber::stranger(1 << 20);
    subscriber.queue(Block, fragment(First, 1));
    subscriber.queue(DropNewest, messages(1..=1).kind(Kind::Record).on(2));
    subscriber.queue(Block, fragment(Last, 1));
    subscriber.reads("topic@1 sender*1 f1 topic@2 m1@2 l1");
}

#[test]
fn gaps_side_by_side_become_one_when_there_are_too_many() {
    let most = u32::try_from(GAPS_SIDE_BY_SIDE_MAX).unwrap();
    let lose_on = |topics: RangeInclusive<u32>| {
        let mut subscriber = Subscriber::new(FRAME);
        subscriber.queue(Block, messages(1..=1));
        for topic in topics.clone().chain(topics) {
            subscriber.lose(DropNewest, messages(1..=2).on(topic), 2);
        }
        subscriber.read_all()
    };
    let apart: Vec<String> = (1..=most).map(|topic| format!("gap4@{topic}")).collect();
    assert_eq!(lose_on(1..=most), format!("m1 {}", apart.join(" ")));
    assert_eq!(lose_on(1..=most + 1), format!("m1 gap{}@0", 4 * (most + 1)));
}

#[test]
fn gap_names_no_topic_that_the_client_was_not_told_of() {
    let mut subscriber = Subscriber::stranger(FRAME);
    subscriber.queue(Block, messages(1..=1));
    subscriber.lose(DropNewest, messages(2..=2), 1);
    subscriber.lose(DropNewest, messages(3..=3).on(2), 1);
    subscriber.reads("topic@1 sender*1 m1 gap1@1 gap1@0");
}

#[test]
fn dropped_message_drops_all_its_fragments() {
    for overflow in [DropNewest, DropOldest, Latest] {
        let mut subscriber = Subscriber::new(3 * FRAME);
        subscriber.queue(Block, messages(1..=3).from(2));
        subscriber.lose(overflow, fragment(First, 1), 1);
        subscriber.read_all();
        subscriber.queue(overflow, fragment(Middle, 1));
        subscriber.queue(overflow, fragment(Last, 1));
        subscriber.queue(overflow, messages(2..=2));
        subscriber.reads("m2");
    }
}

#[test]
fn message_that_outgrows_the_queue_leaves_it_without_a_trace_but_the_gap() {
    for overflow in [DropNewest, DropOldest, Latest] {
        let mut subscriber = Subscriber::new(3 * FRAME);
        subscriber.queue(overflow, fragment(First, 1));
        subscriber.queue(Block, messages(1..=1).from(2));
        subscriber.queue(overflow, fragment(Middle, 1));
        subscriber.lose(overflow, fragment(Middle, 1), 1);
        subscriber.queue(overflow, fragment(Last, 1));
        subscriber.queue(overflow, messages(2..=2));
        let expected = if overflow == DropNewest { "m1*2 gap1@1 m2" } else { "gap1@1 m1*2 m2" };
        subscriber.reads(expected);
    }
}

#[test]
fn reader_of_a_dropped_messages_beginning_is_told_to_forget_it() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.queue(DropNewest, fragment(First, 1));
    assert_eq!(subscriber.take(1), "f1");
    subscriber.queue(DropNewest, fragment(Middle, 1));
    subscriber.queue(DropNewest, fragment(Middle, 1));
    subscriber.lose(DropNewest, fragment(Last, 1), 1);
    subscriber.reads("abort*1 gap1@1");
}

#[test]
fn complete_message_of_which_a_part_was_read_can_still_be_the_oldest() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.queue(DropOldest, fragment(First, 1));
    subscriber.queue(DropOldest, fragment(Middle, 1));
    subscriber.queue(DropOldest, fragment(Last, 1));
    assert_eq!(subscriber.take(1), "f1");
    subscriber.lose(DropOldest, messages(2..=2), 1);
    subscriber.reads("abort*1 gap1@1 m2");
}

#[test]
fn fragments_drop_the_oldest_as_whole_messages_do() {
    for overflow in [DropOldest, Latest] {
        let mut subscriber = Subscriber::new(3 * FRAME);
        subscriber.queue(overflow, messages(1..=3).on(2).from(2));
        subscriber.lose(overflow, fragment(First, 1), 1);
        subscriber.lose(overflow, fragment(Middle, 1), 1);
        subscriber.lose(overflow, fragment(Last, 1), 1);
        subscriber.reads("gap3@2 f1 c1 l1");
    }
}

#[test]
fn fragments_wait_for_a_blocking_subscriber_until_it_is_stalled() {
    let mut subscriber = Subscriber::new(FRAME);
    subscriber.queue(Block, fragment(First, 1));
    subscriber.wait(STALL_TIMEOUT - TICK);
    assert_eq!(subscriber.push(Block, fragment(Last, 1)), Pushed::Full(fragment(Last, 1).into()));
    subscriber.wait(TICK);
    subscriber.lose(Block, fragment(Last, 1), 1);
    subscriber.reads("gap1@1");
}

#[test]
fn subscriber_that_comes_in_mid_message_sees_none_of_it() {
    let mut subscriber = Subscriber::new(FRAME);
    subscriber.queue(Block, fragment(Middle, 1));
    subscriber.queue(Block, fragment(Last, 1));
    subscriber.queue(Block, messages(2..=2));
    subscriber.reads("m2");
}

#[test]
fn fragments_of_two_senders_do_not_mix() {
    let mut subscriber = Subscriber::new(3 * FRAME);
    subscriber.queue(DropNewest, fragment(First, 1));
    subscriber.queue(DropNewest, fragment(First, 1).from(2));
    subscriber.queue(DropNewest, fragment(Middle, 1).from(2));
    subscriber.lose(DropNewest, fragment(Last, 1).from(2), 1);
    subscriber.queue(DropNewest, fragment(Last, 1));
    subscriber.reads("f1 gap1@1 l1");
}

#[test]
fn names_come_before_the_first_message_and_once() {
    let mut subscriber = Subscriber::stranger(1 << 20);
    subscriber.queue(Block, messages(1..=2));
    subscriber.queue(Block, messages(3..=3).on(2));
    subscriber.queue(Block, messages(1..=1).from(2));
    subscriber.queue(Block, fragment(First, 4).on(3));
    subscriber.reads("topic@1 sender*1 m1 m2 topic@2 m3@2 sender*2 m1*2 topic@3 f4@3");
}

#[test]
fn names_still_come_when_the_message_they_came_for_was_dropped() {
    let mut subscriber = Subscriber::stranger(1 << 20);
    subscriber.queue(DropOldest, messages(1..=1));
    subscriber.queue.bytes_max = subscriber.queue.queued_bytes();
    subscriber.lose(DropOldest, messages(2..=2), 1);
    subscriber.reads("topic@1 sender*1 gap1@1 m2");
}

#[test]
fn names_put_a_queue_above_its_bound_once_at_most() {
    let mut subscriber = Subscriber::stranger(FRAME);
    subscriber.queue(Block, messages(1..=1));
    let bytes = subscriber.queue.queued_bytes();
    assert!(bytes > FRAME && bytes < 2 * FRAME + 200);
    for topic in 2..=40 {
        assert!(matches!(subscriber.push(Block, messages(2..=2).on(topic)), Pushed::Full(_)));
    }
    assert_eq!(subscriber.queue.queued_bytes(), bytes);
}

#[test]
fn who_was_told_of_a_topic_or_sender_is_told_of_its_end() {
    let mut subscriber = Subscriber::stranger(2 * FRAME);
    subscriber.queue(Block, messages(1..=1));
    subscriber.lose(DropNewest, messages(1..=2).on(2).from(2), 2);
    for _ in 0..2 {
        subscriber.queue.forget_topic(TopicId(1));
        subscriber.queue.forget_topic(TopicId(2));
        subscriber.queue.forget_sender(InstanceId(1));
        subscriber.queue.forget_sender(InstanceId(2));
    }
    subscriber.reads("topic@1 sender*1 m1 gap2@0 gone@1 gone*1");
}

#[test]
fn reply_introduces_its_sender_and_not_its_topic() {
    let mut subscriber = Subscriber::stranger(1 << 20);
    subscriber.queue(Block, messages(1..=1).kind(Kind::Reply));
    subscriber.reads("sender*1 m1");
}

#[test]
fn message_whose_topic_is_retracted_ends_there() {
    let mut subscriber = Subscriber::new(1 << 20);
    subscriber.queue(Block, fragment(First, 1));
    subscriber.queue(Block, fragment(First, 1).from(2).on(2));
    assert_eq!(subscriber.take(1), "f1");
    subscriber.queue(Block, fragment(Middle, 1));
    subscriber.queue.forget_topic(TopicId(1));
    subscriber.queue.forget_topic(TopicId(2));
    subscriber.queue(Block, fragment(Last, 1));
    subscriber.queue(Block, fragment(Last, 1).from(2).on(2));
    subscriber.queue(Block, messages(2..=2).on(3));
    subscriber.reads("abort*1 gone@1 gone@2 m2@3");
}

#[test]
fn message_of_a_sender_that_left_needs_no_other_end() {
    let mut subscriber = Subscriber::new(1 << 20);
    subscriber.queue(Block, fragment(First, 1));
    subscriber.queue.forget_sender(InstanceId(1));
    subscriber.queue.forget_topic(TopicId(1));
    subscriber.reads("f1 gone*1 gone@1");
}

#[test]
fn reply_outlives_the_topic_of_its_request() {
    let mut subscriber = Subscriber::new(1 << 20);
    subscriber.queue(Block, fragment(First, 1).kind(Kind::Reply));
    subscriber.queue.forget_topic(TopicId(1));
    subscriber.queue(Block, fragment(Last, 1).kind(Kind::Reply));
    subscriber.reads("f1 gone@1 l1");
}

#[test]
fn client_that_never_reads_gets_no_more_answers() {
    let mut subscriber = Subscriber::new(1);
    let pong = encode_control(&Control::Pong { token: 1 });
    for _ in 0..ANSWER_BYTES_MAX / pong.len() {
        assert_eq!(subscriber.queue.push_control(pong.clone()), Ok(()));
    }
    assert_eq!(subscriber.queue.push_control(pong.clone()), Err(ControlFull));
    assert_eq!(subscriber.take(1), "pong1");
    assert_eq!(subscriber.queue.push_control(pong), Ok(()));
}

#[test]
fn farewells_take_no_room_from_answers() {
    let mut subscriber = Subscriber::stranger(1 << 20);
    let goners = 1..=u32::try_from(ANSWER_BYTES_MAX / 32).unwrap() + 1;
    for sender in goners.clone() {
        subscriber.queue(Block, messages(1..=1).from(sender));
        subscriber.read_all();
    }
    for sender in goners {
        subscriber.queue.forget_sender(InstanceId(sender));
    }
    assert_eq!(subscriber.queue.push_control(encode_control(&Control::Pong { token: 1 })), Ok(()));
}
