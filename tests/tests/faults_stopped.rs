//! Programs and the broker stand still for a while, or have no memory left: who could do nothing about it loses nothing,
//! and who loses something is told.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use pipebus_client::{Client, Delivery, Error, GapCause};
use pipebus_proto::control::Overflow;
use pipebus_tests::raw::RawClient;
use pipebus_tests::traffic::{Publisher, Subscriber, payload};
use pipebus_tests::{DEADLINE, Process, TestBus, soon, wait_for, wait_until};
use rustix::process::Signal;

/// A `block` subscriber may take nothing for 1.5 s.
const SETTINGS: &[&str] = &["queue.bytes_max=65536", "queue.stall_timeout_ms=1500"];

/// Far longer.
const STANDSTILL: Duration = Duration::from_secs(3);

fn stop_for_long(process: &Process) {
    process.signal(Signal::STOP);
    std::thread::sleep(STANDSTILL);
    process.signal(Signal::CONT);
}

fn check_nobody_was_too_slow(bus: &TestBus) {
    assert!(!bus.log().contains("too slow"), "{}", bus.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_stopped_under_load_loses_nothing_and_takes_nobody_for_stalled() {
    const MESSAGES: u32 = 4000;
    let bus = TestBus::start_with(SETTINGS);
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut subscription = subscriber.subscribe("load").await.unwrap();
    let sender = tokio::spawn(async move {
        for number in 0..MESSAGES {
            // Of many sizes, so that it stops in the middle of this and that.
            publisher.publish("load", payload(u64::from(number), 1 + number as usize * 37 % 50_000)).await.unwrap();
        }
        publisher.flush().await
    });
    for number in 0..MESSAGES {
        if number % (MESSAGES / 4) == 100 {
            tokio::task::block_in_place(|| stop_for_long(bus.broker()));
        }
        match soon("a message", subscription.next()).await {
            Some(Delivery::Message(message)) => {
                assert!(message.payload == payload(u64::from(number), 1 + number as usize * 37 % 50_000), "{number}");
            }
            other => panic!("{other:?} instead of {number}"),
        }
    }
    soon("the publisher", sender).await.unwrap().unwrap();
    check_nobody_was_too_slow(&bus);
}

#[test]
fn who_reads_while_the_broker_is_stopped_is_not_taken_for_stalled() {
    const SIZE: usize = 10_000;
    for round in 0..3 {
        let bus = TestBus::start_with(SETTINGS);
        let mut subscriber = Subscriber::new(&bus, "load", Overflow::Block);
        let mut publisher = Publisher::new(&bus, "load");
        // The subscriber's pipe is full, and something is in its queue, which has room.
        for number in 0..8 {
            publisher.send(&payload(number, SIZE));
        }
        publisher.flush();
        bus.broker().signal(Signal::STOP);
        // It has read all it can, and the publisher has written more than fits the queue.
        for number in 0..5 {
            subscriber.expect(number + 1, &payload(number, SIZE));
        }
        let rest: Vec<Vec<u8>> = (8..16).map(|number| publisher.next(&payload(number, SIZE))).collect();
        let writer = std::thread::spawn(move || {
            rest.iter().for_each(|message| publisher.client.write(message));
            publisher
        });
        std::thread::sleep(STANDSTILL);
        bus.broker().signal(Signal::CONT);
        for number in 5..16 {
            subscriber.expect(number + 1, &payload(number, SIZE));
        }
        drop(writer.join().unwrap());
        assert_eq!(subscriber.lost, 0, "round {round}");
        check_nobody_was_too_slow(&bus);
    }
}

#[test]
fn a_publisher_that_is_stopped_in_mid_frame_holds_nobody_up_and_goes_on_where_it_was() {
    let bus = TestBus::start();
    let mut subscriber = Subscriber::new(&bus, "load", Overflow::Block);
    let mut stopped = Publisher::new(&bus, "load");
    let mut other = Publisher::new(&bus, "load");
    // In the head, in the payload, and in one that the broker does not read.
    for (number, (size, cut)) in (1..).zip([(1000, 3), (1000, 500), (60_000, 40_000), (200_000, 100_000)]) {
        let bytes = stopped.next(&payload(number, size));
        stopped.client.write(&bytes[..cut]);
        for _ in 0..20 {
            other.send(&payload(7, 20_000));
            subscriber.expect(other.sequence, &payload(7, 20_000));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| stopped.client.write(&bytes[cut..]));
            subscriber.expect(number, &payload(number, size));
        });
    }
}

#[test]
fn a_subscriber_that_is_stopped_for_too_long_is_told_and_nobody_else_notices() {
    let bus = TestBus::start_with(SETTINGS);
    let mut quick = Subscriber::new(&bus, "load", Overflow::DropNewest);
    let mut command = bus.cli(&["sub", "load", "--format", "json"]);
    let mut slow = Process::start(command.stdout(Stdio::piped()));
    wait_for("the subscription", || (bus.log().matches("Subscribe {").count() == 2).then_some(()));
    let mut publisher = Publisher::new(&bus, "load");
    slow.signal(Signal::STOP);
    for number in 0..100 {
        publisher.send(&payload(number, 5000));
        quick.expect(number + 1, &payload(number, 5000));
    }
    assert!(bus.log().contains("too slow, so messages are dropped"));
    slow.signal(Signal::CONT);
    let mut lines = BufReader::new(slow.0.stdout.take().unwrap()).lines();
    let (mut messages, mut lost) = (0, 0);
    // The gap stands where the loss was: whatever comes last is told of with the message after it.
    while messages + lost < 100 {
        publisher.send(b"end");
        quick.expect(publisher.sequence, b"end");
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        match line["gap"]["messages"].as_u64() {
            Some(gap) => lost += gap,
            None => messages += 1,
        }
    }
    assert!(lost > 0 && messages > 0, "{messages} messages, {lost} lost");
}

/// Starts the broker with a limit of prlimit(1).
fn start_limited(bus: &mut TestBus, limit: &str) {
    let broker = bus.broker_command();
    let mut limited = Command::new("prlimit");
    limited.arg(limit).arg(broker.get_program()).args(broker.get_args());
    limited.stderr(fs::File::options().append(true).open(bus.scratch().join("log")).unwrap());
    bus.adopt_broker(&mut limited);
}

#[tokio::test]
async fn a_broker_without_file_descriptors_goes_on_for_all_who_are_connected() {
    let mut bus = TestBus::without_broker(&[]);
    start_limited(&mut bus, "--nofile=40:40");
    let publisher = bus.client().await;
    let mut subscriptions = Vec::new();
    for _ in 0..3 {
        subscriptions.push(bus.client().await.subscribe("load").await.unwrap());
    }
    let mut others = Vec::new();
    let error = loop {
        match Client::connect(&bus.address()).await {
            Ok(client) => others.push(client),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Exhausted(_)), "{error}");
    // Of sizes that the broker would have pipes of its own for, if it could.
    for size in [100, 20_000, 70_000, 1_000_000, 100] {
        let sent = payload(size, usize::try_from(size).unwrap());
        soon("publishing", publisher.publish("load", sent.clone())).await.unwrap();
        for subscription in &mut subscriptions {
            match soon("a message", subscription.next()).await {
                Some(Delivery::Message(message)) => assert!(message.payload == sent, "{size}"),
                other => panic!("{other:?}"),
            }
        }
    }
    // Not even a door can be made anew, until somebody leaves.
    fs::remove_file(bus.place().door()).unwrap();
    wait_until("the broker to say so", async || bus.log().contains("is not as it should be")).await;
    others.clear();
    wait_until("somebody new to get in", async || Client::connect(&bus.address()).await.is_ok()).await;
    soon("a flush", publisher.flush()).await.unwrap();
}

#[tokio::test]
async fn a_broker_without_memory_ends_and_its_clients_come_back_to_the_next() {
    let mut bus = TestBus::without_broker(&["queue.bytes_max=1000000000", "queue.stall_timeout_ms=60000"]);
    start_limited(&mut bus, "--as=300000000");
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut subscription = subscriber.subscribe("load").await.unwrap();
    let (mut hog, _) = RawClient::connect(&bus.place());
    hog.subscribe("load", Overflow::Block);
    let mut first = bus.hand_over_broker();
    let flood = async {
        loop {
            let sent = publisher.publish("load", vec![7; 20_000]).await;
            assert!(sent.is_ok(), "{sent:?}");
        }
    };
    let ends = async {
        let mut status = None;
        let mut messages = 0u64;
        wait_until("the broker to end", async || {
            while let Ok(Some(Delivery::Message(_))) =
                tokio::time::timeout(Duration::from_millis(5), subscription.next()).await
            {
                messages += 1;
            }
            status = first.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    };
    let status = tokio::select! { status = ends => status, () = flood => unreachable!() };
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{}", bus.log());
    assert!(bus.log().contains("memory allocation of"), "{}", bus.log());
    bus.start_broker();
    let flushed = soon("the flush", publisher.flush()).await;
    assert!(matches!(flushed, Ok(()) | Err(Error::Unconfirmed { .. })), "{flushed:?}");
    comes_back(&publisher, &mut subscription).await;
}

/// After a gap, messages go on.
async fn comes_back(publisher: &Client, subscription: &mut pipebus_client::Subscription) {
    loop {
        match soon("the gap", subscription.next()).await {
            Some(Delivery::Message(_)) => {}
            Some(Delivery::Gap(gap)) if gap.cause == GapCause::Reconnected => break,
            other => panic!("{other:?}"),
        }
    }
    publisher.publish("load", "again").await.unwrap();
    let again = tokio::time::timeout(DEADLINE, async {
        while !matches!(subscription.next().await, Some(Delivery::Message(message)) if message.payload == "again") {}
    });
    assert!(again.await.is_ok());
}
