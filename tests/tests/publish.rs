//! Messages go from publishers to subscribers: by pattern, in order, whole, however large.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::time::Duration;

use pipebus_client::{Client, Delivery, Error, Message, Subscription};
use pipebus_tests::{TestBus, soon};

async fn next(subscription: &mut Subscription) -> Message {
    match soon("a message", subscription.next()).await {
        Some(Delivery::Message(message)) => message,
        other => panic!("no message but {other:?}"),
    }
}

#[tokio::test]
async fn a_message_goes_to_those_whose_pattern_matches_and_to_no_others() {
    let bus = TestBus::start();
    let (publisher, subscriber) = (bus.named_client("thermometer").await, bus.client().await);
    let mut kitchen = subscriber.subscribe("sensors/kitchen/*").await.unwrap();
    let mut all = subscriber.subscribe("sensors/**").await.unwrap();
    let mut none = subscriber.subscribe("sensors/*").await.unwrap();
    publisher.publish("sensors/attic/temp", "9").await.unwrap();
    publisher.publish("sensors/kitchen/temp", "21").await.unwrap();
    publisher.publish("sensors", "end").await.unwrap();
    publisher.publish("sensors/end", "end").await.unwrap();

    let message = next(&mut kitchen).await;
    assert_eq!((message.topic().as_str(), &message.payload[..]), ("sensors/kitchen/temp", &b"21"[..]));
    assert_eq!(message.sender().name, "thermometer");
    assert_eq!(message.sender().uid(), Some(rustix::process::geteuid().as_raw()));
    assert_eq!(message.sequence, 2);
    let topics = [next(&mut all).await, next(&mut all).await, next(&mut all).await, next(&mut all).await];
    let topics: Vec<_> = topics.iter().map(|message| message.topic().as_str()).collect();
    assert_eq!(topics, ["sensors/attic/temp", "sensors/kitchen/temp", "sensors", "sensors/end"]);
    assert_eq!(next(&mut none).await.topic().as_str(), "sensors/end");
}

#[tokio::test]
async fn each_publishers_order_is_kept_over_topics() {
    let bus = TestBus::start();
    let subscriber = bus.client().await;
    let mut subscription = subscriber.subscribe("order/**").await.unwrap();
    let publishers = [bus.client().await, bus.client().await, bus.client().await];
    let tasks = publishers.map(|client| {
        tokio::spawn(async move {
            for number in 0..2000u32 {
                client.publish(&format!("order/{}", number % 7), number.to_le_bytes().to_vec()).await.unwrap();
            }
            client.close().await.unwrap();
        })
    });
    let mut expected = std::collections::HashMap::new();
    for _ in 0..6000 {
        let message = next(&mut subscription).await;
        let number = u32::from_le_bytes(message.payload[..].try_into().unwrap());
        let wanted = expected.entry(message.sender().id).or_insert(0);
        assert_eq!(number, *wanted, "from {:?}", message.sender());
        assert_eq!(message.topic().as_str(), format!("order/{}", number % 7));
        *wanted += 1;
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_lent_does_not_change_while_anybody_reads_it() {
    const MESSAGES: usize = 400;
    // From one piece of a pipe to several frames, each filled with a number of its own. Many of a size, for those use the
    // same memory.
    let size = |number: usize| [40_000, 70_000, 262_144, 600_000][number / 50 % 4] + number;
    let bus = TestBus::start();
    let mut readers = Vec::new();
    for pause in [0, 2] {
        let client = bus.client().await;
        let mut subscription = client.subscribe("lent").await.unwrap();
        readers.push(tokio::spawn(async move {
            for number in 0..MESSAGES {
                let message = next(&mut subscription).await;
                assert_eq!(message.payload.len(), size(number));
                assert!(message.payload.iter().all(|byte| *byte == number as u8), "message {number} has changed");
                if number.is_multiple_of(16) {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
            drop(client);
        }));
    }
    let client = bus.client().await;
    let publisher = client.publisher("lent").unwrap();
    for number in 0..MESSAGES {
        if number.is_multiple_of(3) {
            publisher.publish(vec![number as u8; size(number)]).await.unwrap();
        } else {
            let mut loan = publisher.loan(size(number) + 1);
            loan.fill(number as u8);
            loan.truncate(size(number));
            publisher.publish_loan(loan).await.unwrap();
        }
    }
    for reader in readers {
        soon("the reader", reader).await.unwrap();
    }
}

#[tokio::test]
async fn large_messages_arrive_whole_up_to_the_limit_and_no_further() {
    let bus = TestBus::start_with(&["limits.message_bytes_max=4194304"]);
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut subscription = subscriber.subscribe("large").await.unwrap();
    let sizes = [0usize, 1, 262_144, 262_145, 1_000_000, 4_194_304];
    let send = async {
        for size in sizes {
            let payload: Vec<u8> = (0..size).map(|at| (at / 3 % 251) as u8).collect();
            publisher.publish("large", payload).await.unwrap();
        }
    };
    let receive = async {
        for size in sizes {
            let message = next(&mut subscription).await;
            assert_eq!(message.payload.len(), size);
            assert!(message.payload.iter().enumerate().all(|(at, byte)| *byte == (at / 3 % 251) as u8));
        }
    };
    tokio::join!(send, receive);
    let error = publisher.publish("large", vec![0; 4_194_305]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { bytes: 4_194_305, max: 4_194_304 }), "{error}");
    publisher.publish("large", "still here").await.unwrap();
    assert_eq!(&next(&mut subscription).await.payload[..], b"still here");
}

#[tokio::test]
async fn headers_and_typed_values_arrive_as_they_were_sent() {
    let bus = TestBus::start();
    let client = bus.client().await;
    let mut subscription = client.subscribe("typed/*").await.unwrap();
    let headers = vec![("trace".to_owned(), "1f".to_owned()), ("unit".to_owned(), "°C".to_owned())];
    client.publisher("typed/a").unwrap().publish_with("x", &headers).await.unwrap();
    client.publish_as("typed/b", &("load", 0.5f64)).await.unwrap();
    client.publish_json("typed/c", &serde_json::json!({ "load": 0.5 })).await.unwrap();
    assert_eq!(next(&mut subscription).await.headers().unwrap(), headers);
    assert_eq!(next(&mut subscription).await.decode::<(String, f64)>().unwrap(), ("load".to_owned(), 0.5));
    let value: serde_json::Value = next(&mut subscription).await.json().unwrap();
    assert_eq!(value["load"], 0.5);
}

#[tokio::test]
async fn what_is_subscribed_after_the_answer_misses_nothing() {
    let bus = TestBus::start();
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    for round in 0..200u32 {
        let mut subscription = subscriber.subscribe("race").await.unwrap();
        publisher.publish("race", round.to_string()).await.unwrap();
        assert_eq!(next(&mut subscription).await.payload, round.to_string());
        subscription.unsubscribe().await.unwrap();
    }
}

#[tokio::test]
async fn more_topics_than_are_kept_declared_are_no_trouble() {
    let bus = TestBus::start_with(&["limits.topics_per_instance_max=1100"]);
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut subscription = subscriber.subscribe("job/**").await.unwrap();
    for number in 0..3000 {
        publisher.publish(&format!("job/{number}/done"), "").await.unwrap();
        assert_eq!(next(&mut subscription).await.topic().as_str(), format!("job/{number}/done"));
    }
}

#[tokio::test]
async fn a_client_that_asks_while_it_does_not_read_still_gets_its_answer() {
    let bus = TestBus::start();
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut subscription = subscriber.subscribe("flood").await.unwrap();
    let payload = vec![0; 10_000];
    let send = async {
        for _ in 0..300 {
            publisher.publish("flood", payload.clone()).await.unwrap();
        }
        publisher.flush().await.unwrap();
    };
    // Reads one message, then asks with all others unread: more than is kept for a subscription.
    let ask = async {
        next(&mut subscription).await;
        soon("an answer", subscriber.flush()).await.unwrap();
        for _ in 1..300 {
            next(&mut subscription).await;
        }
    };
    tokio::join!(send, ask);
}

#[test]
fn the_blocking_client_does_the_same_without_async() {
    use pipebus_client::blocking::Client;
    let bus = TestBus::start();
    let client = Client::connect(&bus.address()).unwrap();
    let subscription = client.subscribe("a/*").unwrap();
    client.publish("a/b", "one").unwrap();
    client.publish("a/c", "two").unwrap();
    let texts = subscription.take(2).map(|delivery| match delivery {
        Delivery::Message(message) => message.payload,
        Delivery::Gap(gap) => panic!("{gap:?}"),
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["one", "two"]);
    client.close().unwrap();
}

#[tokio::test]
async fn a_client_that_is_dropped_right_after_publishing_has_published() {
    let bus = TestBus::start();
    let subscriber = bus.client().await;
    let mut subscription = subscriber.subscribe("last/words").await.unwrap();
    for _ in 0..20 {
        let client: Client = bus.client().await;
        client.publish("last/words", "farewell").await.unwrap();
        drop(client);
        assert_eq!(next(&mut subscription).await.payload, "farewell");
    }
}
