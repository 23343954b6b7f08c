//! Faults that were found once, and are not to come back.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pipebus_client::{Error, Link, Overflow};
use pipebus_proto::control::{Control, Farewell};
use pipebus_proto::frame::Kind;
use pipebus_proto::knock::{Knock, KnockId};
use pipebus_tests::raw::{RawClient, message};
use pipebus_tests::{DEADLINE, TestBus, soon, wait_until};
use rustix::process::Signal;
use tokio::time::Instant;

async fn until_down(client: &pipebus_client::Client) {
    let mut link = client.link();
    soon("the loss to be seen", link.wait_for(|link| matches!(link, Link::Down { .. }))).await.unwrap();
}

async fn until_up(client: &pipebus_client::Client) {
    let mut link = client.link();
    soon("the connection", link.wait_for(|link| matches!(link, Link::Up { .. }))).await.unwrap();
}

#[tokio::test]
async fn a_flush_that_was_given_up_leaves_the_doubt_to_the_next() {
    let mut bus = TestBus::start();
    let client = bus.client().await;
    client.publish("doubt", "0").await.unwrap();
    client.flush().await.unwrap();
    bus.broker().signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", bus.broker().0.id());
    wait_until("the broker to stop", async || std::fs::read_to_string(&stat).unwrap().contains(") T ")).await;
    for _ in 0..10 {
        client.publish("doubt", "x").await.unwrap();
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), client.flush()).await.is_err());
    bus.kill_broker();
    until_down(&client).await;
    assert_eq!(*client.link().borrow(), Link::Down { in_doubt: 10 });
    bus.start_broker();
    let error = soon("the flush", client.flush()).await.unwrap_err();
    assert!(matches!(error, Error::Unconfirmed { messages: 10 }), "{error}");
}

#[test]
fn small_messages_that_wait_keep_no_large_ones_in_memory() {
    let bus = TestBus::start();
    let memory = || {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", bus.broker().0.id())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
    };
    let (mut slow, _) = RawClient::connect(&bus.place());
    slow.subscribe("rare", Overflow::Block);
    let (mut publisher, me) = RawClient::connect(&bus.place());
    let (rare, bulk) = (publisher.declare("rare"), publisher.declare("bulk"));
    let mut sequence = 0;
    let mut send = |topic, payload: &[u8]| {
        sequence += 1;
        publisher.write(&message(me.client, topic, sequence, payload));
    };
    for _ in 0..8 {
        // More than the slow one's pipe holds.
        send(rare, &[0; 10_000]);
    }
    let before = memory();
    for _ in 0..2000 {
        send(rare, b"");
        send(bulk, &[0; 60_000]);
    }
    publisher.say(&Control::Ping { token: 1 });
    while publisher.hear() != Some(Control::Pong { token: 1 }) {}
    let grown = memory().saturating_sub(before);
    assert!(grown < 32 << 20, "48,000 bytes wait, and the broker has grown by {grown}");
}

#[tokio::test]
async fn a_large_message_gets_its_turn_among_small_ones() {
    let bus = TestBus::start_with(&["queue.bytes_max=300000"]);
    let (mut slow, _) = RawClient::connect(&bus.place());
    slow.subscribe("crowd/**", Overflow::Block);
    let small = [0, 1, 2].map(|number| format!("crowd/{number}"));
    let mut floods = Vec::new();
    for topic in small {
        let client = bus.client().await;
        floods.push(tokio::spawn(async move { while client.publish(&topic, vec![0; 1000]).await.is_ok() {} }));
    }
    let large = bus.client().await;
    let send = tokio::spawn(async move {
        large.publish("crowd/large", vec![0; 200_000]).await.unwrap();
        large.flush().await
    });
    let read = tokio::task::spawn_blocking(move || {
        let mut before = 0;
        loop {
            let frame = slow.next_frame().unwrap();
            if frame.head.kind == Kind::Message && frame.body.len() > 100_000 {
                return (before, slow);
            }
            before += 1;
        }
    });
    let (before, _slow) = soon("the large message", read).await.unwrap();
    assert!(before < 100_000, "{before} small ones came first");
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    drop(send);
}

#[tokio::test]
async fn who_publishes_goes_on_after_a_restart_though_nobody_reads_the_subscription() {
    let mut bus = TestBus::start();
    let (client, other) = (bus.client().await, bus.client().await);
    let _unread = client.subscribe("in").await.unwrap();
    for _ in 0..20 {
        other.publish("in", vec![0; 50_000]).await.unwrap();
    }
    soon("the messages to be routed", other.flush()).await.unwrap();
    bus.kill_broker();
    bus.start_broker();
    for _ in 0..200 {
        soon("a publish", client.publish("out", vec![0; 10_000])).await.unwrap();
    }
}

#[tokio::test]
async fn unsubscribing_waits_for_no_broker_that_is_not_there() {
    let mut bus = TestBus::start();
    let client = bus.client().await;
    let subscription = client.subscribe("a").await.unwrap();
    bus.kill_broker();
    until_down(&client).await;
    soon("the end of the subscription", subscription.unsubscribe()).await.unwrap();
}

#[tokio::test]
async fn requests_that_a_dropped_server_has_not_taken_fail_at_once() {
    let bus = TestBus::start();
    let (asking, serving) = (bus.client().await, bus.client().await);
    let server = serving.serve("never/taken").await.unwrap();
    let ask = tokio::spawn(async move { asking.request("never/taken", "?", DEADLINE).await });
    wait_until("the request", async || {
        let status = serving.request("$bus/status", "", DEADLINE).await.unwrap();
        let status: serde_json::Value = status.json().unwrap();
        status["messages_out"].as_u64().unwrap() > 0 && status["topics"] == 1
    })
    .await;
    drop(server);
    let error = soon("an answer", ask).await.unwrap().unwrap_err();
    assert!(!matches!(error, Error::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn trying_to_publish_works_again_after_a_reconnection() {
    let mut bus = TestBus::start();
    let client = bus.client().await;
    let publisher = client.publisher("try").unwrap();
    publisher.publish("x").await.unwrap();
    publisher.try_publish("x").unwrap();
    bus.kill_broker();
    until_down(&client).await;
    bus.start_broker();
    until_up(&client).await;
    wait_until("a try that works", async || publisher.try_publish("x").is_ok()).await;
}

#[test]
fn a_client_whose_runtime_has_ended_says_so() {
    let bus = TestBus::start();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let client = first.block_on(bus.client());
    first.block_on(client.publish("a", "x")).unwrap();
    first.block_on(client.flush()).unwrap();
    drop(first);
    assert!(matches!(second.block_on(client.publish("a", "x")), Err(Error::Closed)));
    assert!(matches!(second.block_on(client.flush()), Err(Error::Closed)));
}

#[test]
fn a_client_that_keeps_publishing_does_not_hold_the_shutdown_up() {
    let mut bus = TestBus::start_with(&["timeouts.shutdown_ms=20000"]);
    let (mut raw, me) = RawClient::connect(&bus.place());
    let topic = raw.declare("tick");
    let mut broker = bus.terminate_broker();
    let start = Instant::now();
    let mut sequence = 0;
    while broker.0.try_wait().unwrap().is_none() && !raw.is_gone() {
        sequence += 1;
        raw.write_if_heard(&message(me.client, topic, sequence, b"x"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(broker.wait().success() && start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(raw.hear(), Some(Control::LastCall));
    assert_eq!(raw.hear(), Some(Control::Goodbye { cause: Farewell::Shutdown }));
}

#[test]
fn a_flood_at_the_door_does_not_keep_the_broker_from_ending() {
    let mut bus = TestBus::start_with(&["log.filter=info"]);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    // Before the broker is told to end, which takes the door with it.
    let door = pipebus_tests::open(&bus.place().door(), rustix::fs::OFlags::WRONLY).unwrap();
    let knocks: Vec<u8> = (0..100u8).flat_map(|number| Knock::new(KnockId([number; 16])).encode()).collect();
    rustix::io::write(&door, &knocks).unwrap();
    let flood = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            let _ = rustix::io::write(&door, &knocks);
        }
    });
    let start = Instant::now();
    let ended = bus.terminate_broker().wait();
    stop.store(true, Ordering::SeqCst);
    flood.join().unwrap();
    assert!(ended.success() && start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_whose_pipe_is_full_sleeps() {
    let bus = TestBus::start();
    let mut publishers = Vec::new();
    // Several, for it was chance whether a pipe was looked at before the broker had opened it.
    for _ in 0..16 {
        let client = bus.client().await;
        let publisher = client.publisher("full").unwrap();
        publisher.publish("").await.unwrap();
        publishers.push(publisher);
    }
    bus.broker().signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", bus.broker().0.id());
    wait_until("the broker to stop", async || std::fs::read_to_string(&stat).unwrap().contains(") T ")).await;
    for publisher in &publishers {
        while tokio::time::timeout(Duration::from_millis(20), publisher.publish(vec![0; 1000])).await.is_ok() {}
    }
    // Of this thread, on which all clients run.
    let on_processor = || {
        let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
    };
    let before = on_processor();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = on_processor() - before;
    assert!(used < Duration::from_millis(100), "waiting took {used:?} of the processor's time");
}
