//! What every transport must do, whatever kind of pipe it is of: connect, tell who somebody is, carry many instances,
//! hold back, cut nothing in half, and notice each side's end.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::collections::HashMap;
use std::time::Duration;

use pipebus_client::{Client, Delivery, Error, Link, Overflow, Subscription};
use pipebus_conformance::raw::{Raw, message};
use pipebus_conformance::system::own_identity;
use pipebus_conformance::{Bus, DEADLINE, next, soon, wait_until};
use pipebus_proto::admin::{self, InstanceStatus};
use pipebus_proto::control::{Control, Role};
use pipebus_proto::wire::encode_control;

async fn instances(client: &Client) -> Vec<InstanceStatus> {
    client.request(admin::INSTANCES, "", DEADLINE).await.unwrap().json().unwrap()
}

async fn instances_become(client: &Client, count: usize) {
    wait_until("instances to come or go", async || instances(client).await.len() == count).await;
}

/// Counts what comes and what is told to be lost, until the payload is `end`.
async fn count_until_end(subscription: &mut Subscription) -> (u64, u64) {
    let (mut got, mut lost) = (0, 0);
    loop {
        match soon("a message", subscription.next()).await {
            Some(Delivery::Message(message)) if &message.payload[..] == b"end" => return (got, lost),
            Some(Delivery::Message(_)) => got += 1,
            Some(Delivery::Gap(gap)) => lost += gap.messages.unwrap(),
            None => panic!("{:?}", subscription.error()),
        }
    }
}

#[tokio::test]
async fn who_comes_is_let_in_and_the_system_says_who_it_is() {
    let bus = Bus::start();
    let (one, other) = (bus.named_client("one").await, bus.named_client("other").await);
    let mut subscription = other.subscribe("a/*").await.unwrap();
    one.publish("a/b", "hello").await.unwrap();
    let message = next(&mut subscription).await;
    assert_eq!((message.topic().as_str(), &message.payload[..]), ("a/b", &b"hello"[..]));
    assert_eq!((&message.sender().identity, &message.sender().name[..]), (&own_identity(), "one"));
    for instance in instances(&one).await {
        assert_eq!((instance.identity, instance.pid), (own_identity(), Some(std::process::id())), "{}", instance.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_come_at_once_and_each_gets_everything() {
    const CLIENTS: usize = 200;
    let bus = Bus::start();
    let connecting: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let address = bus.address().to_owned();
            tokio::spawn(async move {
                let name = format!("client-{number}");
                let client = Client::builder().name(name).timeout(DEADLINE).connect(&address).await.unwrap();
                let subscription = client.subscribe("all/*").await.unwrap();
                (client, subscription)
            })
        })
        .collect();
    let mut clients = Vec::new();
    for task in connecting {
        clients.push(soon("a client", task).await.unwrap());
    }
    assert_eq!(bus.status(&clients[0].0).await["instances"], CLIENTS);
    for (number, (client, _)) in clients.iter().enumerate().step_by(20) {
        client.publish(&format!("all/{number}"), number.to_string()).await.unwrap();
    }
    for (_, subscription) in &mut clients {
        let mut got = Vec::new();
        for _ in 0..CLIENTS / 20 {
            got.push(String::from_utf8(next(subscription).await.payload.to_vec()).unwrap());
        }
        got.sort_by_key(|number| number.parse::<usize>().unwrap());
        let expected: Vec<String> = (0..CLIENTS).step_by(20).map(|number| number.to_string()).collect();
        assert_eq!(got, expected);
    }
    let (last, _) = clients.pop().unwrap();
    drop(clients);
    instances_become(&last, 1).await;
}

#[tokio::test]
async fn each_publishers_order_is_kept() {
    let bus = Bus::start();
    let mut subscription = bus.client().await.subscribe("order/**").await.unwrap();
    let publishers = [bus.client().await, bus.client().await, bus.client().await];
    let tasks = publishers.map(|client| {
        tokio::spawn(async move {
            for number in 0..2000u32 {
                client.publish(&format!("order/{}", number % 7), number.to_le_bytes().to_vec()).await.unwrap();
            }
            client.close().await.unwrap();
        })
    });
    let mut expected = HashMap::new();
    for _ in 0..6000 {
        let message = next(&mut subscription).await;
        let number = u32::from_le_bytes(message.payload[..].try_into().unwrap());
        let wanted = expected.entry(message.sender().id).or_insert(0);
        assert_eq!(number, *wanted, "from {:?}", message.sender());
        *wanted += 1;
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_small_messages_arrive_in_order() {
    const MESSAGES: u64 = 1_000_000;
    let bus = Bus::start();
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut subscription = subscriber.subscribe("count").await.unwrap();
    let publishing = tokio::spawn(async move {
        let topic = publisher.publisher("count").unwrap();
        for number in 0..MESSAGES {
            topic.publish(number.to_le_bytes().to_vec()).await.unwrap();
        }
        publisher.close().await.unwrap();
    });
    for number in 0..MESSAGES {
        let message = next(&mut subscription).await;
        assert_eq!(message.payload[..], number.to_le_bytes());
    }
    publishing.await.unwrap();
}

#[tokio::test]
async fn large_messages_arrive_as_they_were() {
    let bus = Bus::start();
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut subscription = subscriber.subscribe("large").await.unwrap();
    for bytes in [0, 1, 4096, 65_535, 262_144, 1_000_000, 9_000_000] {
        let payload: Vec<u8> = (0..bytes).map(|at: u32| (at / 7) as u8).collect();
        let publishing = tokio::spawn({
            let (publisher, payload) = (publisher.publisher("large").unwrap(), payload.clone());
            async move { publisher.publish(payload).await.unwrap() }
        });
        assert!(next(&mut subscription).await.payload == payload, "{bytes} bytes");
        publishing.await.unwrap();
    }
}

#[tokio::test]
async fn a_full_pipe_holds_its_publisher_back_and_nobody_else_and_loses_nothing() {
    const MESSAGES: u64 = 3000;
    let bus = Bus::start_with(&["queue.stall_timeout_ms=60000", "queue.bytes_max=65536"]);
    let (mut slow, _) = Raw::connect(&bus).await;
    slow.say(&Control::Subscribe {
        subscription: 1,
        pattern: "slow".to_owned(),
        role: Role::Subscribe,
        overflow: Overflow::Block,
    })
    .await;
    let publisher = bus.client().await;
    wait_until("the subscription", async || bus.status(&publisher).await["subscriptions"] == 1).await;
    let publishing = tokio::spawn(async move {
        for number in 0..MESSAGES {
            let mut payload = vec![7; 1000];
            payload[..8].copy_from_slice(&number.to_le_bytes());
            publisher.publish("slow", payload).await.unwrap();
        }
        publisher.close().await.unwrap();
    });
    let (one, mut other) = (bus.client().await, bus.client().await.subscribe("quick").await.unwrap());
    for number in 0..100 {
        one.publish("quick", format!("{number}")).await.unwrap();
        assert_eq!(next(&mut other).await.payload, format!("{number}"));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!publishing.is_finished(), "somebody who reads nothing holds it back");
    assert_eq!(slow.count_messages(MESSAGES).await, (0..MESSAGES).collect::<Vec<_>>());
    publishing.await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted_exactly() {
    const MESSAGES: u64 = 20_000;
    let bus = Bus::start_with(&["queue.bytes_max=65536"]);
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut subscription = subscriber.subscribe_with("fast", Overflow::DropOldest).await.unwrap();
    for _ in 0..MESSAGES {
        publisher.publish("fast", vec![1; 1000]).await.unwrap();
    }
    publisher.flush().await.unwrap();
    publisher.publish("fast", "end").await.unwrap();
    let (got, lost) = count_until_end(&mut subscription).await;
    assert_eq!(got + lost, MESSAGES);
    assert!(lost > 0, "nothing was dropped, so nothing was shown");
}

#[tokio::test]
async fn frames_in_pieces_are_whole_and_half_a_frame_hurts_nobody() {
    let bus = Bus::start();
    let mut subscription = bus.client().await.subscribe("**").await.unwrap();
    let mut raw = Raw::open(&bus).await;
    for byte in encode_control(&Raw::hello()) {
        raw.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    let Some(Control::Welcome(welcome)) = raw.hear().await else { panic!("not welcome") };
    let topic = raw.declare("pieces").await;
    let whole = message(welcome.client, topic, 1, b"first");
    for part in whole.chunks(3) {
        raw.write(part).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(&next(&mut subscription).await.payload[..], b"first");
    let cut = message(welcome.client, topic, 2, &[9; 1000]);
    raw.write(&cut[..600]).await;
    drop(raw);
    let other = bus.client().await;
    instances_become(&other, 2).await;
    other.publish("other", "second").await.unwrap();
    assert_eq!(&next(&mut subscription).await.payload[..], b"second", "half a message is none");
}

#[tokio::test]
async fn garbage_is_answered_and_ends_only_who_wrote_it() {
    let bus = Bus::start();
    let other = bus.client().await;
    let (mut raw, _) = Raw::connect(&bus).await;
    raw.write(&[0xff; 64]).await;
    let mut refused = false;
    while let Some(control) = raw.hear().await {
        refused |= matches!(control, Control::Refused { .. });
    }
    assert!(refused, "it is told why");
    let mut raw = Raw::open(&bus).await;
    raw.write(&[0; 64]).await;
    assert!(matches!(raw.hear().await, Some(Control::Refused { .. }) | None));
    instances_become(&other, 1).await;
}

#[tokio::test]
async fn a_client_that_is_killed_is_gone_and_others_hear_of_it() {
    let bus = Bus::start();
    let watching = bus.client().await;
    let mut events = watching.subscribe(admin::DISCONNECT_EVENT).await.unwrap();
    let mut process = pipebus_conformance::Process::start(
        bus.cli(&["sub", "**"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()),
    );
    instances_become(&watching, 2).await;
    process.0.kill().unwrap();
    let event: serde_json::Value = next(&mut events).await.json().unwrap();
    assert_eq!(event["cause"], "pipe-closed", "{event}");
    instances_become(&watching, 1).await;
}

#[tokio::test]
async fn who_loses_its_broker_is_told_and_finds_the_next_one() {
    let mut bus = Bus::start();
    let client = bus.client().await;
    let mut subscription = client.subscribe("again").await.unwrap();
    let mut link = client.link();
    bus.kill_broker();
    soon("the end", link.wait_for(|link| matches!(link, Link::Down { .. }))).await.unwrap();
    bus.start_broker();
    let publisher = bus.client().await;
    let asking = &publisher;
    wait_until("the subscription to be back", async || bus.status(asking).await["subscriptions"] == 1).await;
    publisher.publish("again", "here").await.unwrap();
    loop {
        match soon("a message", subscription.next()).await {
            Some(Delivery::Message(message)) => break assert_eq!(&message.payload[..], b"here"),
            Some(Delivery::Gap(_)) => {}
            None => panic!("{:?}", subscription.error()),
        }
    }
}

#[tokio::test]
async fn what_waits_when_the_broker_ends_still_arrives() {
    const MESSAGES: u64 = 5000;
    let mut bus = Bus::start();
    let subscriber = Client::builder().reconnect(false).timeout(DEADLINE).connect(bus.address()).await.unwrap();
    let mut subscription = subscriber.subscribe("last").await.unwrap();
    let publisher = bus.client().await;
    for _ in 0..MESSAGES {
        publisher.publish("last", vec![3; 100]).await.unwrap();
    }
    publisher.flush().await.unwrap();
    let mut broker = bus.drain_broker().await;
    let mut got = 0;
    while let Some(delivery) = soon("the rest", subscription.next()).await {
        match delivery {
            Delivery::Message(_) => got += 1,
            Delivery::Gap(gap) => panic!("{gap:?}"),
        }
    }
    assert_eq!(got, MESSAGES);
    assert!(broker.wait().success());
}

#[tokio::test]
async fn what_was_published_before_a_close_arrives() {
    let bus = Bus::start();
    let mut subscription = bus.client().await.subscribe("close").await.unwrap();
    for _ in 0..20 {
        let publisher = bus.client().await;
        publisher.publish("close", vec![5; 10_000]).await.unwrap();
        publisher.close().await.unwrap();
        assert_eq!(next(&mut subscription).await.payload.len(), 10_000);
    }
}

#[tokio::test]
async fn one_more_than_there_may_be_is_told_so_and_there_is_room_when_one_leaves() {
    let bus =
        Bus::start_with(&["limits.instances_max=6", "limits.instances_reserved=1", "limits.instances_per_user_max=6"]);
    let mut clients = Vec::new();
    let refused = loop {
        match Client::builder().timeout(DEADLINE).connect(bus.address()).await {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        assert!(clients.len() <= 6, "there is no end");
    };
    assert!(matches!(refused, Error::Full(_)), "{refused:?}");
    assert!(clients.len() >= 5);
    clients.pop().unwrap().close().await.unwrap();
    wait_until("room", async || Client::connect(bus.address()).await.is_ok()).await;
}

#[tokio::test]
async fn many_who_say_nothing_keep_nobody_out_and_are_sent_away() {
    let bus = Bus::start_with(&["timeouts.handshake_ms=1000"]);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(Raw::open(&bus).await);
    }
    let client = bus.client().await;
    assert_eq!(instances(&client).await.len(), 1);
    for raw in &mut silent {
        assert!(raw.is_closed().await);
    }
}
