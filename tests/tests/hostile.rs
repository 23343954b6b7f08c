//! Publishers that do with their pipes what they should not: nobody else's stream suffers.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use pipebus_proto::control::{Control, Overflow};
use pipebus_proto::frame::{Flags, HEAD_BYTES};
use pipebus_proto::wire::encode_control;
use pipebus_tests::raw::{RawClient, frame};
use pipebus_tests::traffic::{Calm, Publisher, Subscriber, payload};
use pipebus_tests::{DEADLINE, EVERYONE, OTHER_UID, TestBus, can_change_user, open, wait_for};
use rustix::fs::OFlags;
use rustix::process::Signal;

const LARGE: usize = 200_000;

/// Makes a client's pipe hold as much as one can.
fn grow(publisher: &Publisher) {
    rustix::pipe::fcntl_setpipe_size(publisher.client.up(), 1 << 20).unwrap();
}

/// Does something while the broker stands still.
fn while_stopped(bus: &TestBus, act: impl FnOnce()) {
    bus.broker().signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", bus.broker().0.id());
    wait_for("the broker to stop", || std::fs::read_to_string(&stat).unwrap().contains(") T ").then_some(()));
    act();
    bus.broker().signal(Signal::CONT);
}

#[test]
fn who_steals_from_its_own_pipe_harms_only_its_own_messages() {
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut subscribers = [0, 1, 2].map(|_| Subscriber::new(&bus, "a", Overflow::Block));
    let mut honest = Publisher::new(&bus, "a");
    for round in 1..=20 {
        let mut thief = Publisher::new(&bus, "a");
        grow(&thief);
        let stolen = open(format!("/proc/self/fd/{}", thief.client.up().as_raw_fd()).as_ref(), OFlags::RDONLY).unwrap();
        let messages: Vec<u8> = (0..4).flat_map(|number| thief.next(&payload(number, LARGE))).collect();
        let is_written = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = thief.client.write_while(&messages, || !thief.client.is_gone());
                is_written.store(true, Ordering::SeqCst);
            });
            let mut bytes = vec![0; 10_000 * usize::try_from(round).unwrap()];
            while !is_written.load(Ordering::SeqCst) {
                let _ = rustix::io::read(&stolen, &mut bytes);
            }
        });
        drop((stolen, thief));
        honest.send(&payload(round, LARGE));
        for subscriber in &mut subscribers {
            let message = loop {
                let message = subscriber.next_message().unwrap();
                if message.sender == honest.id {
                    break message;
                }
            };
            assert_eq!(message.sequence, round);
            assert!(message.payload == payload(round, LARGE), "an honest message is damaged");
        }
    }
    drop((subscribers, honest));
    calm.comes_back(&bus);
}

#[test]
fn who_stops_reading_its_pipe_for_a_moment_has_left_and_holds_up_nobody() {
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let (mut client, _) = RawClient::connect(&bus.place());
    // On every thread of the broker, and by their answers all of them have looked around.
    let threads = std::thread::available_parallelism().unwrap().get();
    let mut others: Vec<_> = (0..2 * threads).map(|_| Publisher::new(&bus, "a")).collect();
    let pings = encode_control(&Control::Ping { token: 1 }).repeat(3000);
    // More answers than the pipe holds, so that the broker waits for room, and the client is not gone yet.
    client.write(&pings);
    let held = || rustix::io::ioctl_fionread(client.down()).unwrap();
    wait_for("a full pipe", || (held() > 50_000).then_some(()));
    others.iter_mut().for_each(Publisher::flush);
    (0..3000).for_each(|_| assert!(matches!(client.hear(), Some(Control::Pong { .. }))));
    client.away_from_down(|| others.iter_mut().for_each(Publisher::flush));
    let _ = client.write_while(&pings, || true);
    others.iter_mut().for_each(Publisher::flush);
    wait_for("the broker to let go of the client", || client.is_gone().then_some(()));
    others.iter_mut().for_each(Publisher::flush);
    drop((client, others));
    calm.comes_back(&bus);
}

#[test]
fn pages_that_are_changed_after_they_were_sent_change_payloads_and_nothing_else() {
    const MESSAGES: u64 = 10;
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let mut subscribers = [0, 1].map(|_| Subscriber::new(&bus, "a", Overflow::Block));
    let (mut careless, mut other) = (Publisher::new(&bus, "a"), Publisher::new(&bus, "a"));
    // With a head in it: whole messages, one after another.
    let messages: Vec<u8> = (1..=MESSAGES).flat_map(|_| careless.next(&payload(1, 60_000))).collect();
    let pages: &'static [AtomicU8] = messages.into_iter().map(AtomicU8::new).collect::<Vec<_>>().leak();
    std::thread::scope(|scope| {
        scope.spawn(|| careless.client.lend(pages));
        for number in 1..=MESSAGES {
            other.send(&payload(number, 60_000));
        }
    });
    careless.flush();
    other.flush();
    pages.iter().for_each(|byte| byte.store(0xff, Ordering::SeqCst));
    for subscriber in &mut subscribers {
        let (mut careless_ones, mut others) = (0, 0);
        while (careless_ones, others) != (MESSAGES, MESSAGES) {
            let message = subscriber.next_message().unwrap();
            assert_eq!(message.payload.len(), 60_000);
            if message.sender == other.id {
                others += 1;
                assert_eq!(message.sequence, others);
                assert!(message.payload == payload(others, 60_000), "another's message is damaged");
            } else {
                careless_ones += 1;
                assert_eq!(message.sequence, careless_ones);
                let original = payload(1, 60_000);
                let mut bytes = message.payload.iter().zip(&original);
                assert!(bytes.all(|(byte, sent)| byte == sent || *byte == 0xff), "bytes of nobody");
            }
        }
    }
    drop((subscribers, careless, other));
    calm.comes_back(&bus);
}

#[test]
fn who_writes_in_packets_can_not_make_other_users_lose_bytes() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with(&EVERYONE);
    let calm = Calm::of(&bus);
    let mut subscriber = Subscriber::new(&bus, "a", Overflow::Block);
    let mut packets = Publisher::with(RawClient::connect_as(&bus.place(), OTHER_UID), "a");
    let mut other = Publisher::new(&bus, "a");
    for number in 1..=3 {
        packets.send(&payload(number, 100));
        other.send(&payload(number, 100));
        for _ in 0..2 {
            assert_eq!(subscriber.next_message().unwrap().sequence, number);
        }
    }
    grow(&packets);
    let bytes = packets.next(&payload(4, LARGE));
    packets.client.write(&bytes[..HEAD_BYTES]);
    // pipe(7): what is left of a packet when it is read in part is thrown away.
    rustix::fs::fcntl_setfl(packets.client.up(), OFlags::NONBLOCK | OFlags::DIRECT).unwrap();
    // No Ping behind it: tokio takes a short read for an empty pipe, and packets are read one by one.
    packets.client.write(&bytes[HEAD_BYTES..]);
    other.send(&payload(4, LARGE));
    let mut from = Vec::new();
    while from.len() < 2 {
        // As a client may that reads small pieces.
        if let Some(message) = subscriber.read_piece(1000) {
            assert!(message.payload == payload(4, LARGE), "{message:?} is damaged");
            from.push(message.sender);
        }
    }
    from.sort_unstable();
    assert_eq!(from, [packets.id, other.id]);
    drop((subscriber, packets, other));
    calm.comes_back(&bus);
}

#[test]
fn a_publisher_that_is_disconnected_while_its_message_is_moved_leaves_the_subscriber_whole() {
    let bus = TestBus::start_with(&["queue.bytes_max=65536", "queue.stall_timeout_ms=20000"]);
    let calm = Calm::of(&bus);
    let mut subscriber = Subscriber::new(&bus, "a", Overflow::Block);
    let mut bystander = Publisher::new(&bus, "a");
    let mut doomed = Publisher::new(&bus, "a");
    grow(&doomed);
    doomed.client.subscribe("own", Overflow::Disconnect);
    let (a, own) = (doomed.topic, doomed.client.declare("own"));
    // The subscriber knows all, and soon its pipe has room for a part of the next, but for more than is read with its head.
    for publisher in [&mut doomed, &mut bystander] {
        publisher.send(b"hello");
        subscriber.expect(1, b"hello");
    }
    rustix::pipe::fcntl_setpipe_size(subscriber.client.down(), 1 << 20).unwrap();
    for _ in 0..4 {
        doomed.send(&payload(1, LARGE));
        doomed.flush();
    }
    // Its own queue takes no more than another message.
    doomed.topic = own;
    fill_own_queue(&bus, &mut doomed);
    let kick = doomed.next(&[0; 20_000]);
    doomed.topic = a;
    let last = doomed.next(&payload(2, 250_000));
    while_stopped(&bus, || doomed.client.write(&[&kick[..], &last].concat()));
    wait_for("the publisher to be disconnected", || doomed.client.is_gone().then_some(()));
    bystander.send(&payload(3, LARGE));
    for _ in 0..4 {
        assert!(subscriber.next_message().unwrap().payload == payload(1, LARGE));
    }
    assert!(subscriber.next_message().unwrap().payload == payload(2, 250_000));
    subscriber.expect(2, &payload(3, LARGE));
    drop((subscriber, bystander, doomed));
    calm.comes_back(&bus);
}

/// Publishes to a client that does not read, until the broker's queue for it has no room for 20,000 bytes.
fn fill_own_queue(bus: &TestBus, doomed: &mut Publisher) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = bus.client().await;
        loop {
            let reply = client.request("$bus/instances", "", DEADLINE).await.unwrap();
            let instances: serde_json::Value = reply.json().unwrap();
            let me = instances.as_array().unwrap().iter().find(|instance| instance["id"] == doomed.id.0).unwrap();
            if me["messages_in"] == doomed.sequence {
                let queued = me["queued_bytes"].as_u64().unwrap();
                if queued + 20_000 > 65_536 {
                    return;
                }
                doomed.send(&[0; 5000]);
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_loan_that_is_announced_in_some_fragments_only_ends_all_the_same() {
    let bus = TestBus::start();
    let mut publisher = Publisher::new(&bus, "a");
    publisher.sequence += 1;
    let (id, topic) = (publisher.id, publisher.topic);
    for flags in [Flags::LOANED.with(Flags::MORE), Flags::CONTINUED.with(Flags::MORE), Flags::CONTINUED] {
        publisher.client.write(&frame(id, topic, 1, flags, &payload(1, 50_000)));
    }
    assert_eq!(publisher.released(1), [1]);
    publisher.client.say(&Control::Ping { token: 0 });
}
