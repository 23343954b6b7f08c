//! A subscriber that is too slow: what its overflow policy says happens, nobody else notices, and nothing is lost in
//! silence.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use pipebus_client::{Delivery, GapCause, Overflow, Subscription};
use pipebus_proto::control::Control;
use pipebus_proto::frame::Kind;
use pipebus_proto::wire::decode_control;
use pipebus_tests::raw::RawClient;
use pipebus_tests::{Process, TestBus, soon, wait_for};
use rustix::process::Signal;

const SETTINGS: &[&str] = &["queue.bytes_max=65536"];
const PAYLOAD: usize = 10_000;

/// Numbers received, and how many are missing in gaps, until `last` has come.
async fn receive(subscription: &mut Subscription, last: u32) -> (Vec<u32>, u64) {
    let (mut numbers, mut lost) = (Vec::new(), 0);
    while numbers.last() != Some(&last) {
        match soon("a delivery", subscription.next()).await {
            Some(Delivery::Message(message)) => {
                numbers.push(u32::from_le_bytes(message.payload[..4].try_into().unwrap()));
            }
            Some(Delivery::Gap(gap)) => {
                assert_eq!(gap.cause, GapCause::Overflow);
                assert_eq!(gap.topic.unwrap().as_str(), "flood");
                lost += gap.messages.unwrap();
            }
            None => panic!("ended: {:?}", subscription.error()),
        }
    }
    (numbers, lost)
}

fn payload(number: u32) -> Vec<u8> {
    let mut payload = vec![0; PAYLOAD];
    payload[..4].copy_from_slice(&number.to_le_bytes());
    payload
}

/// Floods a subscriber that reads nothing until the flood is over. Returns what it then gets, and how much it is told
/// that it lost.
async fn flood(overflow: Overflow) -> (Vec<u32>, u64) {
    const MESSAGES: u32 = 500;
    let bus = TestBus::start_with(SETTINGS);
    let (publisher, quick) = (bus.client().await, bus.client().await);
    let (mut slow, _) = RawClient::connect(&bus.place());
    slow.subscribe("flood", overflow);
    let mut quick = quick.subscribe("flood").await.unwrap();
    let send = async {
        for number in 0..MESSAGES {
            publisher.publish("flood", payload(number)).await.unwrap();
        }
        soon("the broker not to wait for the slow one", publisher.flush()).await.unwrap();
    };
    let (all, ()) = tokio::join!(receive(&mut quick, MESSAGES - 1), send);
    assert_eq!(all, ((0..MESSAGES).collect(), 0), "somebody else's slowness was noticed");

    let mut read = tokio::task::spawn_blocking(move || read_to_the_end(&mut slow));
    let mut ends = 0;
    let (numbers, lost) = loop {
        // What ends the flood may itself be dropped as long as the queue is full.
        publisher.publish("flood", payload(u32::MAX)).await.unwrap();
        ends += 1;
        if let Ok(read) = tokio::time::timeout(std::time::Duration::from_secs(1), &mut read).await {
            break read.unwrap();
        }
        assert!(ends < 30, "the end never came");
    };
    let all = numbers.len() as u64 + 1 + lost;
    assert!((u64::from(MESSAGES) + 1..=u64::from(MESSAGES) + ends).contains(&all), "{} and {lost}", numbers.len());
    assert!(lost > 400 && numbers.is_sorted(), "{lost} lost, {numbers:?}");
    (numbers, lost)
}

/// All numbers before the one that ends the flood, and the sum of the gaps.
fn read_to_the_end(client: &mut RawClient) -> (Vec<u32>, u64) {
    let (mut numbers, mut lost) = (Vec::new(), 0);
    loop {
        let frame = client.next_frame().unwrap();
        if frame.head.kind == Kind::Message {
            match u32::from_le_bytes(frame.payload()[..4].try_into().unwrap()) {
                u32::MAX => return (numbers, lost),
                number => numbers.push(number),
            }
        } else if let Control::Gap { messages, .. } = decode_control(&frame.body).unwrap() {
            lost += messages;
        }
    }
}

#[tokio::test]
async fn drop_newest_keeps_the_oldest_and_counts_what_it_lost() {
    let (numbers, _) = flood(Overflow::DropNewest).await;
    // What fits the pipe and the queue, with a gap if the queue was full before the pipe was.
    assert!(numbers.starts_with(&[0, 1, 2, 3, 4, 5]) && numbers.iter().all(|number| *number < 100), "{numbers:?}");
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest_and_counts_what_it_lost() {
    let (numbers, _) = flood(Overflow::DropOldest).await;
    // The first are in the pipe already; then come the last.
    let newest = numbers.iter().position(|number| *number > 100).unwrap();
    assert_eq!(numbers[newest..], (500 - (numbers.len() - newest) as u32..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn latest_keeps_the_last_and_counts_what_it_lost() {
    let (numbers, _) = flood(Overflow::Latest).await;
    // The first are in the pipe already; then come those since the queue was last full, or what ended the flood.
    assert!(numbers.iter().all(|number| *number < 100 || *number > 490), "{numbers:?}");
}

#[tokio::test]
async fn disconnect_ends_the_connection_and_the_client_comes_back_with_a_gap() {
    let bus = TestBus::start_with(SETTINGS);
    let (publisher, slow) = (bus.client().await, bus.client().await);
    let mut slow = slow.subscribe_with("flood", Overflow::Disconnect).await.unwrap();
    for number in 0..500 {
        publisher.publish("flood", payload(number)).await.unwrap();
    }
    soon("the broker not to wait for the slow one", publisher.flush()).await.unwrap();
    let mut received = 0;
    let gap = loop {
        match soon("a delivery", slow.next()).await.unwrap() {
            Delivery::Message(_) => received += 1,
            Delivery::Gap(gap) => break gap,
        }
    };
    // None at all, if the first batch was more than its queue takes: what waits is lost with the connection.
    assert!(received < 500);
    assert_eq!((gap.cause, gap.messages), (GapCause::Reconnected, None));
    // It may have come back in the middle of the flood, and been too slow again.
    let again = async {
        loop {
            publisher.publish("flood", payload(1000)).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let hear = async {
        while !matches!(slow.next().await, Some(Delivery::Message(message)) if message.payload == payload(1000)) {}
    };
    tokio::select! {
        () = soon("a message after the gap", hear) => {}
        () = again => unreachable!(),
    }
    assert!(bus.log().contains("too slow, so it is disconnected"));
}

#[tokio::test]
async fn block_makes_the_publisher_wait_and_loses_nothing() {
    let bus = TestBus::start_with(SETTINGS);
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut slow = subscriber.subscribe("flood").await.unwrap();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = sent.clone();
    let send = tokio::spawn(async move {
        for number in 0..1000 {
            publisher.publish("flood", payload(number)).await.unwrap();
            count.store(number, std::sync::atomic::Ordering::SeqCst);
        }
        publisher.flush().await.unwrap();
    });
    let mut before = u32::MAX;
    pipebus_tests::wait_until("the publisher to be held up", async || {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let now = sent.load(std::sync::atomic::Ordering::SeqCst);
        std::mem::replace(&mut before, now) == now && now > 0
    })
    .await;
    assert!(before < 400, "{before} messages of {PAYLOAD} bytes fit somewhere");
    assert_eq!(receive(&mut slow, 999).await, ((0..1000).collect(), 0));
    soon("the publisher to end", send).await.unwrap();
}

#[tokio::test]
async fn block_gives_up_on_a_subscriber_that_takes_nothing_and_counts_what_it_lost() {
    let bus = TestBus::start_with(&["queue.bytes_max=65536", "queue.stall_timeout_ms=200"]);
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut slow = subscriber.subscribe("flood").await.unwrap();
    for number in 0..500 {
        publisher.publish("flood", payload(number)).await.unwrap();
    }
    soon("the broker to give up waiting", publisher.flush()).await.unwrap();
    let status = publisher.request("$bus/instances", "", pipebus_tests::DEADLINE).await.unwrap();
    let status: serde_json::Value = status.json().unwrap();
    let stalled = status.as_array().unwrap().iter().find(|instance| instance["stalled"] == true).expect("is stalled");
    let dropped = stalled["dropped"].as_u64().unwrap();
    let send_last = async {
        // The queue takes messages again once the subscriber moves.
        loop {
            publisher.publish("flood", payload(u32::MAX)).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let (numbers, lost) = tokio::select! {
        got = receive(&mut slow, u32::MAX) => got,
        () = send_last => unreachable!(),
    };
    assert!(lost >= dropped && dropped > 0, "{lost} reported, {dropped} in the status");
    assert!(numbers.len() as u64 + lost >= 501, "{} and {lost}", numbers.len());
    assert_eq!(bus.log().matches("too slow, so messages are dropped").count(), 1, "said once");
}

#[test]
fn a_million_messages_arrive_in_order_though_the_subscriber_is_stopped_for_a_while() {
    use std::io::{BufRead, BufReader, Write};
    const MESSAGES: usize = 1_000_000;
    let bus = TestBus::start();
    let mut subscribe = bus.cli(&["sub", "million", "--format", "line", "--count", &MESSAGES.to_string()]);
    let mut subscriber = Process::start(subscribe.stdout(std::process::Stdio::piped()));
    wait_for("the subscription", || bus.log().contains("Subscribe {").then_some(()));
    let mut publisher = Process::start(bus.cli(&["pub", "million", "--lines"]).stdin(std::process::Stdio::piped()));
    let mut stdin = publisher.0.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let mut stdin = std::io::BufWriter::with_capacity(1 << 20, &mut stdin);
        for number in 0..MESSAGES {
            writeln!(stdin, "{number:0128}").unwrap();
        }
        stdin.flush().unwrap();
    });
    let mut lines = BufReader::new(subscriber.0.stdout.take().unwrap()).lines();
    let mut check = |range: std::ops::Range<usize>| {
        for number in range {
            assert_eq!(lines.next().unwrap().unwrap(), format!("{number:0128}"));
        }
    };
    check(0..MESSAGES / 4);
    subscriber.signal(Signal::STOP);
    std::thread::sleep(std::time::Duration::from_secs(2));
    subscriber.signal(Signal::CONT);
    check(MESSAGES / 4..MESSAGES);
    assert!(subscriber.wait().success() && publisher.wait().success());
    writer.join().unwrap();
}
