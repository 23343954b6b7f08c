//! Requests are answered once, by one server, or fail at once.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::time::Duration;

use pipebus_client::{Error, Failure};
use pipebus_proto::control::{Control, Overflow, Role};
use pipebus_proto::frame::Kind;
use pipebus_tests::raw::RawClient;
use pipebus_tests::{DEADLINE, TestBus, soon};

#[tokio::test]
async fn a_request_is_answered() {
    let bus = TestBus::start();
    let (asking, serving) = (bus.client().await, bus.client().await);
    let mut server = serving.serve("echo/*").await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = server.next().await {
            let payload = request.message.payload.clone();
            match &payload[..] {
                b"fail" => request.fail("as you wish").await.unwrap(),
                b"drop" => drop(request),
                _ => request.reply(payload).await.unwrap(),
            }
        }
    });
    let large = vec![7; 1_000_000];
    for payload in [b"hello".to_vec(), Vec::new(), large] {
        let answer = asking.request("echo/x", payload.clone(), DEADLINE).await.unwrap();
        assert!(answer.payload == payload && answer.topic().as_str() == "echo/x");
        assert_eq!(answer.sender().name, "story");
    }
    let error = asking.request("echo/x", "fail", DEADLINE).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(why) if why == "as you wish"), "{error}");
    let error = asking.request("echo/x", "drop", DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
}

#[tokio::test]
async fn many_requests_at_once_find_their_own_answers() {
    let bus = TestBus::start();
    let (asking, serving) = (bus.client().await, bus.client().await);
    let mut server = serving.serve("double").await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = server.next().await {
            let number: u32 = request.message.decode().unwrap();
            tokio::spawn(async move { request.reply_as(&(number * 2)).await });
        }
    });
    let tasks: Vec<_> = (0..500u32)
        .map(|number| {
            let asking = asking.clone();
            tokio::spawn(async move {
                let payload = pipebus_client::encode_value(&number).unwrap();
                let answer = asking.request("double", payload, DEADLINE).await.unwrap();
                assert_eq!(answer.decode::<u32>().unwrap(), number * 2);
            })
        })
        .collect();
    for task in tasks {
        soon("an answer", task).await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_nobody_serves_fails_at_once() {
    let bus = TestBus::start();
    let client = bus.client().await;
    let start = tokio::time::Instant::now();
    let error = client.request("nobody/home", "", DEADLINE).await.unwrap_err();
    assert!(matches!(&error, Error::NoServer { topic } if topic == "nobody/home"), "{error}");
    assert!(start.elapsed() < DEADLINE / 2);
    let mut subscription = client.subscribe("nobody/*").await.unwrap();
    let error = client.request("nobody/home", "", DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::NoServer { .. }), "a subscriber is no server: {error}");
    assert!(tokio::time::timeout(Duration::from_millis(50), subscription.next()).await.is_err());
}

#[tokio::test]
async fn a_server_that_dies_fails_its_requests_at_once() {
    let bus = TestBus::start();
    let client = bus.client().await;
    let (mut server, _) = RawClient::connect(&bus.place());
    let (subscription, pattern) = (1, "slow".to_owned());
    server.say(&Control::Subscribe { subscription, pattern, role: Role::Serve, overflow: Overflow::Block });
    assert_eq!(server.hear(), Some(Control::Subscribed { subscription }));
    let dies = tokio::task::spawn_blocking(move || while server.next_frame().unwrap().head.kind != Kind::Request {});
    let start = tokio::time::Instant::now();
    let error = client.request("slow", "", DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::Unanswered { failure: Failure::ServerGone, .. }), "{error}");
    assert!(start.elapsed() < DEADLINE / 2);
    dies.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_a_time_out_and_comes_to_nobody() {
    let bus = TestBus::start();
    let (asking, serving) = (bus.client().await, bus.client().await);
    let mut server = serving.serve("late").await.unwrap();
    let error = asking.request("late", "1", Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    let late = soon("the request", server.next()).await.unwrap();
    late.reply("too late").await.unwrap();
    let (answer, ()) = tokio::join!(asking.request("late", "2", DEADLINE), async {
        soon("the request", server.next()).await.unwrap().reply("in time").await.unwrap();
    });
    assert_eq!(answer.unwrap().payload, "in time");
}

#[tokio::test]
async fn servers_take_turns() {
    let bus = TestBus::start();
    let asking = bus.client().await;
    for name in ["a", "b", "c"] {
        let client = bus.client().await;
        let mut server = client.serve("turns").await.unwrap();
        tokio::spawn(async move {
            while let Some(request) = server.next().await {
                request.reply(name).await.unwrap();
            }
        });
    }
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..30 {
        let answer = asking.request("turns", "", DEADLINE).await.unwrap();
        *counts.entry(answer.payload).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}
