//! Loans: who lends its pages to the bus is told when nobody reads them any more, once for each message and not before.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use pipebus_proto::control::{Control, Farewell, Overflow};
use pipebus_proto::frame::Flags;
use pipebus_proto::topic::InstanceId;
use pipebus_tests::TestBus;
use pipebus_tests::traffic::{Calm, Publisher, Subscriber, payload};

const LARGE: usize = 64 * 1024;
const NONE: [u64; 0] = [];

/// Loaned messages that the broker remembers of one receiver, as PROTOCOL.md says.
const LOANS_MAX: u64 = 1024;

/// Says that messages have been read, and waits until the broker has heard it.
fn consume(subscriber: &mut Subscriber, sender: InstanceId, sequence: u64) {
    subscriber.client.say(&Control::Consumed { sender, sequence });
    subscriber.client.say(&Control::Ping { token: u64::MAX });
    loop {
        let frame = subscriber.client.next_frame().unwrap();
        assert_eq!(subscriber.take(&frame), None, "not a message but a pong is next");
        if frame.body[..4] == 18u32.to_le_bytes() {
            return;
        }
    }
}

/// Publishes loaned messages that all subscribers get at once, and at least one message first, so that they know the sender.
fn lend(bus: &TestBus, publisher: &mut Publisher, subscribers: &mut [&mut Subscriber], messages: u64, size: usize) {
    // With room for a whole message each is written at once, so the broker need not wait for the rest of one.
    rustix::pipe::fcntl_setpipe_size(publisher.client.up(), 1 << 20).unwrap();
    // Behind a large message the broker looks for the next, and reads no more than its head.
    publisher.send(&payload(0, LARGE));
    for subscriber in &mut *subscribers {
        subscriber.expect(publisher.sequence, &payload(0, LARGE));
        subscriber.settle(bus);
    }
    for _ in 0..messages {
        let content = payload(publisher.sequence + 1, size);
        publisher.send_loaned(&content);
        for subscriber in &mut *subscribers {
            subscriber.expect(publisher.sequence, &content);
        }
    }
}

#[test]
fn messages_are_released_when_the_last_of_those_who_got_pages_has_consumed_them() {
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let (mut one, mut two) = (Subscriber::new(&bus, "a", Overflow::Block), Subscriber::new(&bus, "a", Overflow::Block));
    let mut publisher = Publisher::new(&bus, "a");
    lend(&bus, &mut publisher, &mut [&mut one, &mut two], 3, LARGE);
    assert_eq!(publisher.released(0), NONE);
    consume(&mut one, publisher.id, 4);
    assert_eq!(publisher.released(0), NONE);
    consume(&mut two, publisher.id, 2);
    assert_eq!(publisher.released(1), [2]);
    // Doubled, and not the last: nothing is released twice.
    consume(&mut two, publisher.id, 2);
    consume(&mut one, publisher.id, 4);
    assert_eq!(publisher.released(0), NONE);
    consume(&mut two, publisher.id, 4);
    assert_eq!(publisher.released(2), [3, 4]);
    assert_eq!(publisher.released(0), NONE);
    drop((one, two, publisher));
    calm.comes_back(&bus);
}

#[test]
fn messages_that_nobody_gets_or_that_are_small_are_released_at_once() {
    let bus = TestBus::start();
    let mut publisher = Publisher::new(&bus, "a");
    for size in [LARGE, 10, 600_000] {
        let number = publisher.send_loaned(&payload(1, size));
        assert_eq!(publisher.released(1), [number]);
    }
    let mut subscriber = Subscriber::new(&bus, "a", Overflow::Block);
    let number = publisher.send_loaned(b"small");
    assert_eq!(publisher.released(1), [number]);
    subscriber.expect(number, b"small");
}

#[test]
fn messages_of_which_a_slow_subscriber_gets_copies_are_released_at_once() {
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let mut slow = Subscriber::new(&bus, "a", overflow);
        let mut publisher = Publisher::new(&bus, "a");
        lend(&bus, &mut publisher, &mut [&mut slow], 1, LARGE);
        consume(&mut slow, publisher.id, publisher.sequence);
        assert_eq!(publisher.released(1), [2]);
        // More than its pipe holds, even at its largest, and less than its queue.
        for number in 0..40 {
            publisher.send_loaned(&payload(number, LARGE));
        }
        // A pipe holds 16 such messages. One may be half here and half there, and with it up to eleven may go together.
        let copies = publisher.released(40 - 17 - 11);
        assert_eq!(copies.last(), Some(&publisher.sequence), "{copies:?}");
        for number in 0..40 {
            slow.expect(number + 3, &payload(number, LARGE));
        }
        consume(&mut slow, publisher.id, publisher.sequence);
        assert_eq!(publisher.released(40 - copies.len()).len(), 40 - copies.len());
        assert_eq!(publisher.released(0), NONE);
    }
    calm.comes_back(&bus);
}

#[test]
fn messages_are_released_when_a_subscriber_leaves_or_dies() {
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut publisher = Publisher::new(&bus, "a");
    for says_goodbye in [true, false] {
        let mut subscriber = Subscriber::new(&bus, "a", Overflow::Block);
        let before = publisher.sequence;
        lend(&bus, &mut publisher, &mut [&mut subscriber], 3, LARGE);
        assert_eq!(publisher.released(0), NONE);
        if says_goodbye {
            subscriber.client.say(&Control::Goodbye { cause: Farewell::Leaving });
            assert_eq!(subscriber.next_message(), None);
        }
        drop(subscriber);
        assert_eq!(publisher.released(3), (before + 2..=before + 4).collect::<Vec<_>>());
    }
    assert_eq!(publisher.released(0), NONE);
    drop(publisher);
    calm.comes_back(&bus);
}

#[test]
fn who_lies_about_what_it_has_consumed_harms_nobody_else() {
    let bus = TestBus::start();
    let (mut liar, mut honest) =
        (Subscriber::new(&bus, "a", Overflow::Block), Subscriber::new(&bus, "a", Overflow::Block));
    let mut publisher = Publisher::new(&bus, "a");
    lend(&bus, &mut publisher, &mut [&mut liar, &mut honest], 1, LARGE);
    let me = publisher.id;
    for (sender, sequence) in [(InstanceId(0), 9), (InstanceId(u32::MAX), u64::MAX), (me, 0), (me, u64::MAX)] {
        consume(&mut liar, sender, sequence);
        assert_eq!(publisher.released(0), NONE, "{sender:?} {sequence}");
    }
    consume(&mut honest, me, 2);
    assert_eq!(publisher.released(1), [2]);
    // What it has said of the future counts for nothing.
    lend(&bus, &mut publisher, &mut [&mut liar, &mut honest], 1, LARGE);
    consume(&mut honest, me, 4);
    assert_eq!(publisher.released(0), NONE);
    // Early: before it has read it.
    consume(&mut liar, me, 4);
    assert_eq!(publisher.released(1), [4]);
}

#[test]
fn a_message_in_fragments_is_released_once_and_not_before_its_end() {
    const FRAGMENT: usize = 64 * 1024;
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let (mut one, mut two) = (Subscriber::new(&bus, "a", Overflow::Block), Subscriber::new(&bus, "a", Overflow::Block));
    let mut publisher = Publisher::new(&bus, "a");
    lend(&bus, &mut publisher, &mut [&mut one, &mut two], 0, 0);
    // The last fragment is copied, since it is small.
    let content = payload(9, 3 * FRAGMENT + 10);
    let bytes = publisher.next_in(Flags::LOANED, &content, FRAGMENT);
    let (before, behind) = bytes.split_at(bytes.len() - 100 - FRAGMENT);
    publisher.client.write(before);
    // Early: when one fragment has come.
    consume(&mut one, publisher.id, 2);
    consume(&mut two, publisher.id, 2);
    one.settle(&bus);
    two.settle(&bus);
    publisher.client.write(behind);
    one.expect(2, &content);
    two.expect(2, &content);
    consume(&mut one, publisher.id, 2);
    assert_eq!(publisher.released(0), NONE);
    consume(&mut two, publisher.id, 2);
    assert_eq!(publisher.released(1), [2]);
    assert_eq!(publisher.released(0), NONE);
    drop((one, two, publisher));
    calm.comes_back(&bus);
}

#[test]
fn who_never_consumes_gets_copies_from_a_number_on_and_loses_nothing() {
    const MORE: u64 = 20;
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut never = Subscriber::new(&bus, "a", Overflow::Block);
    let mut publisher = Publisher::new(&bus, "a");
    lend(&bus, &mut publisher, &mut [&mut never], LOANS_MAX + MORE, 40_000);
    let all = LOANS_MAX + MORE + 1;
    assert_eq!(publisher.released(20), (all - MORE + 1..=all).collect::<Vec<_>>());
    // One place is free again.
    consume(&mut never, publisher.id, 2);
    assert_eq!(publisher.released(1), [2]);
    lend(&bus, &mut publisher, &mut [&mut never], 2, 40_000);
    assert_eq!(publisher.released(1), [publisher.sequence]);
    drop(never);
    assert_eq!(publisher.released(1024).len(), 1024);
    drop(publisher);
    calm.comes_back(&bus);
}

#[test]
fn a_publisher_that_dies_with_loans_out_leaves_nothing_behind() {
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut subscriber = Subscriber::new(&bus, "a", Overflow::Block);
    let mut publisher = Publisher::new(&bus, "a");
    lend(&bus, &mut publisher, &mut [&mut subscriber], 3, LARGE);
    let dead = publisher.id;
    drop(publisher);
    while subscriber.gone.is_empty() {
        let frame = subscriber.client.next_frame().unwrap();
        assert_eq!(subscriber.take(&frame), None);
    }
    consume(&mut subscriber, dead, 4);
    let mut next = Publisher::new(&bus, "a");
    lend(&bus, &mut next, &mut [&mut subscriber], 1, LARGE);
    consume(&mut subscriber, next.id, 2);
    assert_eq!(next.released(1), [2]);
    drop((subscriber, next));
    calm.comes_back(&bus);
}

#[test]
fn who_lends_to_itself_is_told_when_it_has_consumed() {
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut publisher = Publisher::new(&bus, "a");
    publisher.client.subscribe("a", Overflow::Block);
    publisher.send(&payload(0, LARGE));
    publisher.flush();
    let number = publisher.send_loaned(&payload(1, LARGE));
    assert_eq!(publisher.released(0), NONE);
    publisher.client.say(&Control::Consumed { sender: publisher.id, sequence: number });
    assert_eq!(publisher.released(1), [number]);
    // It goes with a loan out.
    publisher.send_loaned(&payload(2, LARGE));
    publisher.flush();
    drop(publisher);
    calm.comes_back(&bus);
}

#[test]
fn who_lends_on_and_never_reads_what_is_released_is_disconnected() {
    const MESSAGES: usize = 60_000;
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut publisher = Publisher::new(&bus, "a");
    let mut sent = 0;
    while sent < MESSAGES {
        let batch: Vec<u8> = (0..1000).flat_map(|_| publisher.next_in(Flags::LOANED, b"x", 1)).collect();
        if !publisher.client.write_while(&batch, || !publisher.client.is_gone()) {
            break;
        }
        sent += 1000;
    }
    assert!(sent < MESSAGES, "it lends on");
    pipebus_tests::wait_for("the log", || bus.log().contains("lends on and reads no answers").then_some(()));
    drop(publisher);
    calm.comes_back(&bus);
}
