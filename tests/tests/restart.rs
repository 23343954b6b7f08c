//! Programs and brokers die at the worst moment, and the others go on.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::process::Stdio;

use pipebus_client::{Delivery, Error, GapCause, Link, Overflow};
use pipebus_proto::control::{Control, Farewell};
use pipebus_proto::frame::{Flags, Head, Kind};
use pipebus_proto::wire::encode_head;
use pipebus_tests::raw::{RawClient, message};
use pipebus_tests::{Process, TestBus, soon, wait_for};

#[tokio::test]
async fn a_client_killed_in_mid_message_leaves_no_trace_of_it() {
    let bus = TestBus::start();
    let client = bus.client().await;
    let mut subscription = client.subscribe("half").await.unwrap();
    for _ in 0..20 {
        let (mut raw, welcome) = RawClient::connect(&bus.place());
        let topic = raw.declare("half");
        raw.write(&message(welcome.client, topic, 1, b"whole"));
        let half = message(welcome.client, topic, 2, &[7; 5000]);
        raw.write(&half[..2500]);
        drop(raw);
    }
    // And one that dies between two fragments of a message.
    let (mut raw, welcome) = RawClient::connect(&bus.place());
    let topic = raw.declare("half");
    let head = Head {
        body: 1000,
        kind: Kind::Message,
        flags: Flags::MORE,
        metadata: 0,
        topic,
        sender: welcome.client,
        sequence: 1,
    };
    raw.write(&[&encode_head(&head)[..], &[7; 1000]].concat());
    drop(raw);
    client.publish("half", "end").await.unwrap();
    for expected in std::iter::repeat_n("whole", 20).chain(["end"]) {
        match soon("a message", subscription.next()).await {
            Some(Delivery::Message(message)) => assert_eq!(message.payload, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn clients_of_a_killed_broker_come_back_and_tell_of_the_gap() {
    let mut bus = TestBus::start();
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut subscription = subscriber.subscribe("news").await.unwrap();
    let mut server = subscriber.serve("question").await.unwrap();
    publisher.publish("news", "before").await.unwrap();
    publisher.flush().await.unwrap();
    match soon("the first", subscription.next()).await {
        Some(Delivery::Message(message)) => assert_eq!(message.payload, "before"),
        other => panic!("{other:?}"),
    }
    bus.kill_broker();
    soon("the loss to be seen", publisher.link().wait_for(|link| matches!(link, Link::Down { .. }))).await.unwrap();
    bus.start_broker();
    match soon("the gap", subscription.next()).await {
        Some(Delivery::Gap(gap)) => assert_eq!((gap.cause, gap.messages), (GapCause::Reconnected, None)),
        other => panic!("{other:?}"),
    }
    soon("publishing again", publisher.publish("news", "after")).await.unwrap();
    match soon("the second", subscription.next()).await {
        Some(Delivery::Message(message)) => assert_eq!(message.payload, "after"),
        other => panic!("{other:?}"),
    }
    let ask = publisher.request("question", "?", pipebus_tests::DEADLINE);
    let (answer, ()) = soon("an answer", async {
        tokio::join!(ask, async { server.next().await.unwrap().reply("!").await.unwrap() })
    })
    .await;
    assert_eq!(answer.unwrap().payload, "!");
}

#[tokio::test]
async fn a_request_of_a_killed_brokers_client_is_not_answered_to_the_next_brokers() {
    let mut bus = TestBus::start();
    let serving = bus.client().await;
    let mut server = serving.serve("question").await.unwrap();
    let asking = bus.client().await;
    let ask = asking.request("question", "old", std::time::Duration::from_millis(500));
    assert!(matches!(ask.await, Err(Error::TimedOut { .. })));
    bus.kill_broker();
    bus.start_broker();
    let served = async || bus.log().matches("role: Serve").count() >= 2;
    pipebus_tests::wait_until("the server to be back", served).await;
    // The new broker counts from 1 again, so that the next client has the number of the last.
    let asking = bus.client().await;
    let request = soon("the old request", server.next()).await.unwrap();
    assert_eq!(request.message.payload, "old");
    let error = request.reply("an answer to the old question").await.unwrap_err();
    assert!(matches!(error, Error::Disconnected), "{error}");
    let ask = async {
        loop {
            match asking.request("question", "new", pipebus_tests::DEADLINE).await {
                // The server has not come back yet.
                Err(Error::NoServer { .. }) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                answer => return answer,
            }
        }
    };
    let (answer, ()) = tokio::join!(ask, async {
        let request = soon("the new request", server.next()).await.unwrap();
        request.reply("an answer to the new question").await.unwrap();
    });
    assert_eq!(answer.unwrap().payload, "an answer to the new question");
}

#[tokio::test]
async fn what_was_on_its_way_to_a_killed_broker_is_in_doubt_and_never_in_silence() {
    let mut bus = TestBus::start();
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    // A subscriber that does not read holds the messages up, so that many are on their way.
    let _subscription = subscriber.subscribe("held").await.unwrap();
    let flood = async {
        loop {
            publisher.publish("held", vec![0; 100_000]).await.unwrap();
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_millis(300), flood).await;
    bus.kill_broker();
    let error = soon("the flush", publisher.flush()).await.unwrap_err();
    assert!(matches!(error, Error::Unconfirmed { messages } if messages > 0), "{error}");
    bus.start_broker();
    soon("a flush that is fine again", publisher.flush()).await.unwrap();
}

#[test]
fn programs_live_through_a_killed_broker_under_load_and_say_what_they_missed() {
    use std::io::{BufRead, BufReader, Write};
    let mut bus = TestBus::start();
    let mut subscribe = bus.cli(&["sub", "load", "--format", "json"]);
    let mut subscriber = Process::start(subscribe.stdout(Stdio::piped()));
    wait_for("the subscription", || bus.log().contains("Subscribe {").then_some(()));
    let mut publish = bus.cli(&["pub", "load", "--lines"]);
    let mut publisher = Process::start(publish.stdin(Stdio::piped()).stderr(Stdio::piped()));
    let mut stdin = publisher.0.stdin.take().unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let writer = std::thread::spawn(move || {
        let mut number = 0u64;
        while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
            writeln!(stdin, "{number}").unwrap();
            number += 1;
        }
    });
    let mut lines = BufReader::new(subscriber.0.stdout.take().unwrap()).lines();
    let mut payload = || -> Option<u64> {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if line["gap"].is_object() {
            return None;
        }
        Some(line["payload"].as_str().unwrap().parse().unwrap())
    };
    let mut last = None;
    for _ in 0..10_000 {
        let number = payload().unwrap();
        assert!(last.is_none_or(|last| number == last + 1), "{last:?} then {number}");
        last = Some(number);
    }
    bus.kill_broker();
    bus.start_broker();
    // What was in its pipe is still read; then it tells of the gap; then messages come again, later ones.
    while let Some(number) = payload() {
        assert_eq!(Some(number - 1), last);
        last = Some(number);
    }
    let after = payload().unwrap();
    assert!(after > last.unwrap(), "{after}");
    for next in after + 1..after + 1000 {
        assert_eq!(payload(), Some(next));
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    writer.join().unwrap();
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut publisher.0.stderr.take().unwrap(), &mut stderr).unwrap();
    let _ = publisher.wait();
    assert!(stderr.contains("connection"), "the publisher said nothing: {stderr:?}");
}

#[tokio::test]
async fn a_broker_that_is_told_to_end_delivers_what_it_has_and_says_goodbye() {
    let mut bus = TestBus::start();
    let (mut raw, _) = RawClient::connect(&bus.place());
    raw.subscribe("queued", Overflow::Block);
    let publisher = bus.client().await;
    // More than a pipe holds: most of it is still in the queue when the signal comes.
    for number in 0..300u32 {
        publisher.publish("queued", number.to_le_bytes().repeat(2000)).await.unwrap();
    }
    publisher.flush().await.unwrap();
    let mut broker = bus.terminate_broker();
    wait_for("the shutdown", || bus.log().contains("shutting down").then_some(()));
    let mut numbers = Vec::new();
    let farewell = loop {
        let Some(frame) = raw.next_frame() else { panic!("no goodbye after {}", numbers.len()) };
        if frame.head.kind == Kind::Message {
            numbers.push(u32::from_le_bytes(frame.payload()[..4].try_into().unwrap()));
            continue;
        }
        match pipebus_proto::wire::decode_control(&frame.body).unwrap() {
            Control::Goodbye { cause } => break cause,
            Control::TopicInfo { .. } | Control::SenderInfo { .. } => {}
            Control::SenderGone { .. } | Control::TopicGone { .. } | Control::LastCall => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(farewell, Farewell::Shutdown);
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    drop(raw);
    assert!(broker.wait().success());
}

#[test]
fn a_client_that_does_not_read_does_not_keep_a_broker_from_ending() {
    let mut bus = TestBus::start_with(&["timeouts.shutdown_ms=500", "queue.bytes_max=10000000"]);
    let (mut raw, me) = RawClient::connect(&bus.place());
    raw.subscribe("queued", Overflow::Block);
    let topic = raw.declare("queued");
    for number in 1..50 {
        raw.write(&message(me.client, topic, number, &[0; 100_000]));
    }
    assert!(bus.terminate_broker().wait().success());
}

#[test]
fn a_client_that_ignores_its_disconnection_is_disconnected_all_the_same() {
    let bus = TestBus::start_with(&["queue.bytes_max=65536"]);
    let (mut slow, _) = RawClient::connect(&bus.place());
    slow.subscribe("flood", Overflow::Disconnect);
    let (mut publisher, me) = RawClient::connect(&bus.place());
    let topic = publisher.declare("flood");
    for number in 1..100 {
        publisher.write(&message(me.client, topic, number, &[0; 10_000]));
    }
    wait_for("its pipe to be closed", || slow.is_gone().then_some(()));
}
