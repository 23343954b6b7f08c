//! Large messages, whose pages go from pipe to pipe, among small ones: every byte arrives, in order, whatever the pace of
//! those who write and read.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use pipebus_proto::control::{Control, Farewell, Overflow};
use pipebus_proto::frame::{Flags, HEAD_BYTES, PROTOCOL_VERSION};
use pipebus_tests::raw::RawClient;
use pipebus_tests::traffic::{Calm, Chance, Publisher, Subscriber, payload};
use pipebus_tests::{TestBus, wait_for};

const SIZES: [usize; 5] = [64 * 1024, 100_000, 3, 256 * 1024, 40_000];

#[test]
fn a_publisher_that_stalls_in_mid_frame_disturbs_nobody_and_its_message_arrives_whole_when_it_goes_on() {
    for size in [1000, 64 * 1024, 256 * 1024] {
        let bus = TestBus::start();
        let calm = Calm::of(&bus);
        let mut subscriber = Subscriber::new(&bus, "**", Overflow::Block);
        let (mut stalling, mut other) = (Publisher::new(&bus, "a"), Publisher::new(&bus, "a"));
        let whole = payload(1, size);
        let bytes = stalling.next(&whole);
        let (before, behind) = bytes.split_at(HEAD_BYTES + size / 2);
        stalling.client.write(before);
        for (number, size) in (1..).zip(SIZES) {
            other.send(&payload(number, size));
            subscriber.expect(number, &payload(number, size));
        }
        stalling.client.write(behind);
        subscriber.expect(1, &whole);
        drop((subscriber, stalling, other));
        calm.comes_back(&bus);
    }
}

#[test]
fn of_a_publisher_that_dies_in_mid_frame_no_trace_arrives() {
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut subscriber = Subscriber::new(&bus, "**", Overflow::Block);
    let mut other = Publisher::new(&bus, "a");
    for (number, size) in (1..).zip([1000, 64 * 1024, 256 * 1024]) {
        let mut dying = Publisher::new(&bus, "a");
        dying.send(b"last words");
        subscriber.expect(1, b"last words");
        let bytes = dying.next(&payload(number, size));
        dying.client.write(&bytes[..HEAD_BYTES + size / 2]);
        drop(dying);
        while subscriber.gone.len() < usize::try_from(number).unwrap() {
            let frame = subscriber.client.next_frame().unwrap();
            assert_eq!(subscriber.take(&frame), None);
        }
        other.send(&payload(number, size));
        subscriber.expect(number, &payload(number, size));
    }
    drop((subscriber, other));
    calm.comes_back(&bus);
}

#[test]
fn a_subscriber_that_reads_byte_by_byte_gets_every_byte_and_the_others_do_not_wait_for_it() {
    const MESSAGES: u64 = 16;
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut slow = Subscriber::new(&bus, "a", Overflow::Block);
    let mut same = Subscriber::new(&bus, "a", Overflow::Block);
    let mut different = Subscriber::new(&bus, "b", Overflow::Block);
    let mut publisher = Publisher::new(&bus, "a");
    let other_topic = publisher.client.declare("b");
    let a = publisher.topic;
    let content = |number: u64| payload(number, SIZES[usize::try_from(number).unwrap() % SIZES.len()]);
    let is_read = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // More than a head at the least, and not all before the others are done.
            let mut read = 0;
            while read < 2000 || (read < 100_000 && !is_read.load(Ordering::SeqCst)) {
                read += slow.client.read(1);
            }
            for number in 1..=MESSAGES {
                slow.expect(number * 2 - 1, &content(number));
            }
        });
        scope.spawn(|| {
            for number in 1..=MESSAGES {
                publisher.topic = a;
                publisher.send(&content(number));
                publisher.topic = other_topic;
                publisher.send(&content(number));
            }
        });
        scope.spawn(|| (1..=MESSAGES).for_each(|number| different.expect(number * 2, &content(number))));
        (1..=MESSAGES).for_each(|number| same.expect(number * 2 - 1, &content(number)));
        is_read.store(true, Ordering::SeqCst);
    });
    drop((slow, same, different, publisher));
    calm.comes_back(&bus);
}

/// Publishes messages of all sizes to so many subscribers, who pause now and then.
fn everything_arrives(subscribers: usize, messages: u64, settings: &[&str]) {
    let bus = TestBus::start_with(settings);
    let calm = Calm::of(&bus);
    let mut publisher = Publisher::new(&bus, "mixed");
    let sizes = Arc::new(Chance(7).sizes(messages));
    let readers: Vec<_> = (0..subscribers)
        .map(|number| {
            let mut subscriber = Subscriber::new(&bus, "mixed", Overflow::Block);
            let (sizes, mut chance) = (sizes.clone(), Chance(number as u64 + 1));
            thread::spawn(move || {
                for (number, size) in (1..).zip(sizes.iter()) {
                    if chance.below(8) == 0 {
                        thread::sleep(Duration::from_millis(chance.number() % 8));
                    }
                    subscriber.expect(number, &payload(number, *size));
                }
                assert_eq!(subscriber.lost, 0);
            })
        })
        .collect();
    let mut chance = Chance(3);
    for (number, size) in (1..).zip(sizes.iter()) {
        let fragment = [64 * 1024, 100_000, 256 * 1024][chance.below(3)];
        let bytes = publisher.next_in(Flags::NONE, &payload(number, *size), fragment);
        publisher.client.write(&bytes);
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    drop(publisher);
    calm.comes_back(&bus);
}

#[test]
fn messages_of_all_sizes_reach_one_subscriber_in_order_and_byte_for_byte() {
    everything_arrives(1, 400, &[]);
}

#[test]
fn messages_of_all_sizes_reach_eight_subscribers_in_order_and_byte_for_byte() {
    everything_arrives(8, 100, &[]);
}

#[test]
fn messages_larger_than_the_queues_reach_all_subscribers_in_order_and_byte_for_byte() {
    everything_arrives(3, 100, &["queue.bytes_max=65536"]);
}

#[test]
fn who_may_lose_messages_gets_whole_ones_and_is_told_of_every_other() {
    const MESSAGES: u64 = 300;
    let bus = TestBus::start_with(&["queue.bytes_max=524288"]);
    let calm = Calm::of(&bus);
    let mut publisher = Publisher::new(&bus, "mixed");
    let sizes = Chance(11).sizes(MESSAGES);
    let policies = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest];
    let subscribers = policies.map(|policy| Subscriber::new(&bus, "mixed", policy));
    thread::scope(|scope| {
        for (mut subscriber, policy) in subscribers.into_iter().zip(policies) {
            let (sizes, mut chance) = (&sizes, Chance(5));
            scope.spawn(move || {
                let (mut read, mut last) = (0, 0);
                while read + subscriber.lost < MESSAGES {
                    // A gap may be the last that comes.
                    let frame = subscriber.client.next_frame().unwrap();
                    let Some(message) = subscriber.take(&frame) else { continue };
                    let size = sizes[usize::try_from(message.sequence).unwrap() - 1];
                    assert!(message.payload == payload(message.sequence, size), "{policy:?}: {message:?}");
                    assert!(message.sequence > last);
                    (read, last) = (read + 1, message.sequence);
                    if chance.below(3) == 0 {
                        thread::sleep(Duration::from_millis(chance.number() % 16));
                    }
                }
                assert_eq!(read + subscriber.lost, MESSAGES, "{policy:?}");
                assert!(subscriber.lost > 0, "{policy:?} has had no chance to lose anything");
            });
        }
        for (number, size) in (1..).zip(&sizes) {
            publisher.send(&payload(number, *size));
        }
        publisher.flush();
    });
    drop(publisher);
    calm.comes_back(&bus);
}

#[test]
fn pipes_that_are_made_small_again_and_again_break_nothing() {
    const MESSAGES: u64 = 60;
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut publisher = Publisher::new(&bus, "a");
    let mut subscribers = [0, 1].map(|_| Subscriber::new(&bus, "a", Overflow::Block));
    let content = |number: u64| payload(number, SIZES[usize::try_from(number).unwrap() % SIZES.len()]);
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        // Busy while it is too full to be smaller.
        let shrink = |fd: &std::os::fd::OwnedFd| {
            let _ = rustix::pipe::fcntl_setpipe_size(fd, 4096);
        };
        let up = publisher.client.up().try_clone().unwrap();
        let ends = &ends;
        scope.spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                shrink(&up);
                thread::sleep(Duration::from_millis(1));
            }
        });
        scope.spawn(move || (1..=MESSAGES).for_each(|number| publisher.send(&content(number))));
        let readers = subscribers.each_mut().map(|subscriber| {
            scope.spawn(move || {
                for number in 1..=MESSAGES {
                    shrink(subscriber.client.down());
                    subscriber.expect(number, &content(number));
                }
            })
        });
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        ends.store(true, Ordering::SeqCst);
    });
    drop(subscribers);
    calm.comes_back(&bus);
}

#[test]
fn a_subscriber_that_reads_nothing_slows_only_publishers_of_its_topic() {
    let bus = TestBus::start_with(&["queue.bytes_max=65536"]);
    let calm = Calm::of(&bus);
    let stuck = Subscriber::new(&bus, "a", Overflow::Block);
    let mut reading = Subscriber::new(&bus, "b", Overflow::Block);
    let (mut held_up, mut free) = (Publisher::new(&bus, "a"), Publisher::new(&bus, "b"));
    let ends = AtomicBool::new(false);
    let ends = &ends;
    thread::scope(|scope| {
        scope.spawn(move || {
            let goes_on = || !ends.load(Ordering::SeqCst);
            loop {
                let bytes = held_up.next(&payload(1, 50_000));
                if !held_up.client.write_while(&bytes, goes_on) {
                    break;
                }
            }
        });
        for number in 1..=200 {
            let content = payload(number, SIZES[usize::try_from(number).unwrap() % SIZES.len()]);
            free.send(&content);
            reading.expect(number, &content);
        }
        ends.store(true, Ordering::SeqCst);
    });
    drop((stuck, reading, free));
    calm.comes_back(&bus);
}

#[test]
fn two_thousand_idle_instances_disturb_no_traffic() {
    const IDLE: usize = 2000;
    let bus = TestBus::start_with(&["log.filter=info"]);
    let calm = Calm::of(&bus);
    let mut idle = Vec::new();
    while idle.len() < IDLE {
        let mut arriving: Vec<RawClient> = (0..100).map(|_| RawClient::prepare(&bus.place())).collect();
        for client in &arriving {
            client.say(&Control::Hello { version: PROTOCOL_VERSION, name: "idle".to_owned() });
            client.knock();
        }
        for client in &mut arriving {
            assert!(matches!(client.hear(), Some(Control::Welcome(_))));
        }
        idle.extend(arriving);
    }
    let mut publisher = Publisher::new(&bus, "a");
    let mut subscribers = [0, 1].map(|_| Subscriber::new(&bus, "a", Overflow::Block));
    for number in 1..=200 {
        let content = payload(number, SIZES[usize::try_from(number).unwrap() % SIZES.len()]);
        publisher.send(&content);
        subscribers.iter_mut().for_each(|subscriber| subscriber.expect(number, &content));
    }
    drop((idle, publisher, subscribers));
    calm.comes_back(&bus);
}

#[test]
fn a_shutdown_amid_large_messages_leaves_whole_frames_and_a_goodbye() {
    for round in 0..4 {
        let mut bus = TestBus::start();
        let subscribers = [0, 1, 2].map(|_| Subscriber::new(&bus, "a", Overflow::Block));
        let mut publishers = [0, 1].map(|_| Publisher::new(&bus, "a"));
        let (begun, ends) = (AtomicU64::new(0), AtomicBool::new(false));
        let (begun, ends) = (&begun, &ends);
        thread::scope(|scope| {
            for publisher in &mut publishers {
                scope.spawn(move || {
                    let mut chance = Chance(round + 1);
                    let goes_on = || !ends.load(Ordering::SeqCst);
                    while goes_on() {
                        let bytes = publisher.next(&payload(publisher.sequence + 1, 30_000 + chance.below(200_000)));
                        if !publisher.client.write_while(&bytes, goes_on) {
                            break;
                        }
                    }
                });
            }
            let readers = subscribers.map(|mut subscriber| {
                scope.spawn(move || {
                    while let Some(message) = subscriber.next_message() {
                        assert!(message.payload == payload(message.sequence, message.payload.len()), "{message:?}");
                        begun.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(1));
                    }
                    assert_eq!((subscriber.goodbye, subscriber.lost), (Some(Farewell::Shutdown), 0));
                })
            });
            wait_for("traffic", || (begun.load(Ordering::SeqCst) > 50).then_some(()));
            let mut broker = bus.terminate_broker();
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            ends.store(true, Ordering::SeqCst);
            assert!(broker.wait().success());
        });
    }
}
