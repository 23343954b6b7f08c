//! How long messages are on their way, as the queue tells it.

use super::*;
use crate::core::latency::Latency;

/// A subscriber, and what is told of its messages.
struct Watch {
    subscriber: Subscriber,
    latency: Arc<Latency>,
}

impl Watch {
    fn new(bytes_max: usize) -> Watch {
        Watch { subscriber: Subscriber::new(bytes_max), latency: Arc::default() }
    }

    /// Times the last message of a span that has been read now.
    fn time(&mut self, span: impl Into<Span>) -> Span {
        let span = span.into();
        self.subscriber.queue.time(&span, self.subscriber.now, &self.latency);
        span
    }

    fn second(&mut self) {
        self.subscriber.wait(Duration::from_secs(1));
    }

    /// How many have been told of, and how many seconds they took together.
    #[track_caller]
    fn has_told(&self, count: u64, seconds: u64) {
        let told = self.latency.read();
        assert_eq!((told.count, told.sum), (count, Duration::from_secs(seconds)));
    }

    /// Nothing is timed any more: the next message is.
    #[track_caller]
    fn is_over(&mut self) {
        assert!(!self.subscriber.queue.is_timing());
    }
}

#[test]
fn a_message_that_waits_is_timed_until_its_last_byte_is_written() {
    let mut watch = Watch::new(1 << 20);
    watch.subscriber.queue(Block, messages(1..=2));
    let span = watch.time(messages(3..=5));
    watch.subscriber.queue(Block, span);
    watch.subscriber.queue(Block, messages(6..=6));
    watch.second();
    assert_eq!(watch.subscriber.take(4 * FRAME), "m1 m2");
    watch.subscriber.read(2 * FRAME);
    assert_eq!(watch.subscriber.take(2 * FRAME), "m3 m4");
    watch.subscriber.read(2 * FRAME);
    watch.second();
    assert_eq!(watch.subscriber.take(2 * FRAME), "m5 m6");
    watch.subscriber.read(FRAME - 1);
    watch.has_told(0, 0);
    watch.second();
    watch.subscriber.read(1);
    watch.has_told(1, 3);
    watch.second();
    watch.subscriber.read(FRAME);
    watch.has_told(1, 3);
    watch.is_over();
}

#[test]
fn a_message_that_waits_for_room_is_timed_from_when_it_was_read() {
    let mut watch = Watch::new(2 * FRAME);
    let span = watch.time(messages(1..=3));
    let Pushed::Full(rest) = watch.subscriber.push(Block, span) else { panic!("there is no room for three") };
    watch.second();
    watch.subscriber.reads("m1 m2");
    watch.has_told(0, 0);
    watch.second();
    watch.subscriber.queue(Block, rest);
    watch.subscriber.reads("m3");
    watch.has_told(1, 2);
}

#[test]
fn one_message_is_timed_at_a_time() {
    let mut watch = Watch::new(1 << 20);
    for sequence in 1..=3 {
        let span = watch.time(messages(sequence..=sequence));
        watch.subscriber.queue(Block, span);
        watch.second();
    }
    watch.subscriber.reads("m1 m2 m3");
    watch.has_told(1, 3);
    let span = watch.time(messages(4..=4));
    watch.subscriber.queue(Block, span);
    watch.subscriber.reads("m4");
    watch.has_told(2, 3);
}

#[test]
fn a_message_written_past_the_queue_is_timed_to_the_end_of_the_frame() {
    let mut watch = Watch::new(1 << 20);
    for (first, written, told) in [(1, 2 * FRAME, 1), (3, FRAME + 1, 1), (5, FRAME, 1), (7, 0, 1)] {
        let before = watch.latency.read().count;
        let span = watch.time(messages(first..=first + 1));
        watch.second();
        let span = watch.subscriber.begin_direct(span).unwrap();
        let behind = watch.subscriber.end_direct(&span, written);
        assert_eq!(watch.latency.read().count - before, u64::from(written == 2 * FRAME));
        if let Some(behind) = behind {
            watch.subscriber.queue(Block, behind);
        }
        watch.subscriber.read_behind(&span.bytes[..written]);
        assert_eq!(watch.latency.read().count - before, told, "{written} bytes were written at once");
        watch.is_over();
    }
    watch.has_told(4, 4);
}

#[test]
fn of_a_message_in_fragments_the_last_is_timed() {
    let mut watch = Watch::new(1 << 20);
    for part in [First, Middle, Last] {
        let span = watch.time(fragment(part, 1));
        watch.subscriber.queue(Block, span);
        watch.second();
    }
    assert_eq!(watch.subscriber.take(2 * FRAME), "f1 c1");
    watch.subscriber.read(2 * FRAME);
    watch.has_told(0, 0);
    watch.subscriber.reads("l1");
    watch.has_told(1, 1);
}

/// A message that is dropped is not told of, and another is timed after it.
#[track_caller]
fn check_dropped(overflow: Overflow, drop: impl FnOnce(&mut Subscriber, Span)) {
    let mut watch = Watch::new(2 * FRAME);
    let span = watch.time(messages(7..=7));
    drop(&mut watch.subscriber, span);
    watch.is_over();
    watch.second();
    watch.subscriber.read_all();
    watch.has_told(0, 0);
    let span = watch.time(messages(10..=10));
    watch.subscriber.queue(overflow, span);
    watch.subscriber.read_all();
    watch.has_told(1, 0);
}

#[test]
fn what_is_dropped_is_forgotten_wherever_it_is() {
    check_dropped(DropNewest, |subscriber, span| {
        subscriber.queue(DropNewest, messages(5..=6));
        subscriber.lose(DropNewest, span, 1);
    });
    check_dropped(DropOldest, |subscriber, span| {
        subscriber.queue(DropOldest, span);
        subscriber.lose(DropOldest, messages(1..=2).from(2), 1);
    });
    check_dropped(Latest, |subscriber, span| {
        subscriber.queue(Latest, span);
        subscriber.lose(Latest, messages(8..=9), 2);
    });
    check_dropped(Disconnect, |subscriber, span| {
        subscriber.queue(Disconnect, messages(5..=6));
        assert_eq!(subscriber.push(Disconnect, span), Pushed::Disconnect);
    });
    check_dropped(Block, |subscriber, span| {
        subscriber.queue(Block, span);
        subscriber.queue.clear();
    });
}

#[test]
fn of_a_span_that_is_dropped_in_part_the_newest_message_is_still_timed() {
    let mut watch = Watch::new(3 * FRAME);
    let span = watch.time(messages(1..=3));
    watch.subscriber.queue(DropOldest, span);
    watch.subscriber.lose(DropOldest, messages(1..=2).from(2), 2);
    watch.second();
    watch.subscriber.reads("gap2@1 m3 m1*2 m2*2");
    watch.has_told(1, 1);
}

#[test]
fn the_last_fragment_of_a_message_that_is_dropped_or_never_was_taken_is_forgotten() {
    let mut watch = Watch::new(2 * FRAME);
    watch.subscriber.queue(DropNewest, fragment(First, 1));
    watch.subscriber.queue(DropNewest, fragment(Middle, 1));
    let last = watch.time(fragment(Last, 1));
    watch.subscriber.lose(DropNewest, last, 1);
    watch.is_over();
    // Of one that began before the instance subscribed.
    let last = watch.time(fragment(Last, 2));
    watch.subscriber.queue(DropNewest, last);
    watch.is_over();
    watch.has_told(0, 0);
}

#[test]
fn who_leaves_takes_along_what_has_not_come_and_leaves_what_waits() {
    let mut watch = Watch::new(FRAME);
    watch.subscriber.queue(Block, message(1, FRAME));
    let span = watch.time(message(2, FRAME));
    assert!(matches!(watch.subscriber.push(Block, span), Pushed::Full(_)));
    watch.subscriber.queue.forget_sender(InstanceId(1));
    watch.is_over();
    watch.subscriber.read_all();

    let span = watch.time(message(1, FRAME).from(2));
    watch.subscriber.queue(Block, span);
    watch.subscriber.queue.forget_sender(InstanceId(2));
    watch.second();
    watch.subscriber.read_all();
    watch.has_told(1, 1);
}

#[test]
fn an_instance_that_ends_is_told_of_no_more() {
    let mut watch = Watch::new(1 << 20);
    let span = watch.time(messages(1..=1));
    watch.subscriber.queue(Block, span);
    watch.subscriber.take(usize::MAX);
    watch.subscriber.queue.end();
    watch.is_over();
    watch.subscriber.read(FRAME);
    watch.has_told(0, 0);
}
