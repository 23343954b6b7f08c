//! What a monitor sees: every frame that passes, when, from whom and to how many, whatever way it takes through the broker;
//! and that nobody notices.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::time::SystemTime;

use bytes::Bytes;
use pipebus_client::{
    CAPTURE_BYTES_MAX, CONTROL_TOPIC, Client, Control, Delivery, Error, Failure, GapCause, Kind, Kinds, Monitor,
    Observation, Overflow, Part, Record, Watch,
};
use pipebus_proto::control::{Farewell, Purpose, Role};
use pipebus_proto::record::RecordHead;
use pipebus_tests::raw::RawClient;
use pipebus_tests::traffic::{Publisher, Subscriber, payload};
use pipebus_tests::{DEADLINE, TestBus, soon};

async fn next_record(monitor: &mut Monitor) -> Record {
    match soon("a record", monitor.next()).await {
        Some(Observation::Record(record)) => record,
        other => panic!("{other:?}, {:?}", monitor.error()),
    }
}

async fn records(monitor: &mut Monitor, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        records.push(next_record(monitor).await);
    }
    records
}

fn whole() -> Watch {
    Watch::default()
}

fn own_id(client: &Client) -> u32 {
    match *client.link().borrow() {
        pipebus_client::Link::Up { client } => client.0,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_message_is_seen_once_with_who_sent_it_and_how_many_got_it() {
    const MESSAGES: u64 = 20_000;
    let bus = TestBus::start();
    let (publisher, subscriber, watcher) =
        (bus.named_client("thermometer").await, bus.client().await, bus.client().await);
    let before = SystemTime::now();
    let mut monitor = watcher.monitor("sensors/**", whole()).await.unwrap();
    let (mut one, mut two) =
        (subscriber.subscribe("sensors/a").await.unwrap(), bus.client().await.subscribe("sensors/*").await.unwrap());
    let send = async {
        publisher.publish("other", "not seen").await.unwrap();
        let topic = publisher.publisher("sensors/a").unwrap();
        for number in 0..MESSAGES {
            topic.publish(number.to_le_bytes().to_vec()).await.unwrap();
        }
        topic.publish_with("21.5", &[("unit".to_owned(), "C".to_owned())]).await.unwrap();
        publisher.publish("sensors/b/c", "nobody").await.unwrap();
        publisher.flush().await.unwrap();
    };
    let receive = async |subscription: &mut pipebus_client::Subscription| {
        for _ in 0..=MESSAGES {
            assert!(matches!(soon("a message", subscription.next()).await, Some(Delivery::Message(_))));
        }
    };
    let (seen, (), (), ()) =
        tokio::join!(records(&mut monitor, MESSAGES as usize + 2), send, receive(&mut one), receive(&mut two));
    for (number, record) in (0..MESSAGES).zip(&seen) {
        assert_eq!((record.payload(), record.subscribers, record.dropped), (&number.to_le_bytes()[..], 2, 0));
        assert_eq!((record.topic.as_str(), record.sender.name.as_str()), ("sensors/a", "thermometer"));
        assert_eq!((record.head.kind, record.to, record.is_cut()), (Kind::Message, None, false));
        assert_eq!(record.head.sequence, number + 2);
        assert!(record.time >= before && record.time <= SystemTime::now() && record.waiting <= 2);
    }
    let [.., with_header, unheard] = &seen[..] else { panic!() };
    assert_eq!(with_header.metadata().unwrap().headers, [("unit".to_owned(), "C".to_owned())]);
    assert_eq!((with_header.payload(), with_header.sender.id.0), (&b"21.5"[..], own_id(&publisher)));
    assert_eq!((unheard.payload(), unheard.subscribers, unheard.topic.as_str()), (&b"nobody"[..], 0, "sensors/b/c"));
}

#[tokio::test]
async fn requests_and_replies_are_seen_with_who_got_them_and_requests_that_nobody_takes_too() {
    let bus = TestBus::start();
    let (asking, serving, watcher) = (bus.client().await, bus.client().await, bus.client().await);
    let mut monitor = watcher.monitor("math/*", whole()).await.unwrap();
    let refused = asking.request("math/double", "1", DEADLINE).await.unwrap_err();
    assert!(matches!(refused, Error::NoServer { .. }));
    let mut server = serving.serve("math/double").await.unwrap();
    let answer = async {
        let request = server.next().await.unwrap();
        request.reply("42").await.unwrap();
        server.next().await.unwrap().fail("too large").await.unwrap();
    };
    let ask = async {
        assert_eq!(asking.request("math/double", "21", DEADLINE).await.unwrap().payload, "42");
        assert!(matches!(asking.request("math/double", "22", DEADLINE).await, Err(Error::Failed(_))));
    };
    tokio::join!(answer, ask);
    let mut seen = records(&mut monitor, 5).await;
    // An answer may be told of before its question, but it has not come before.
    seen.sort_by_key(|record| record.time);
    let (requester, server) = (Some(own_id(&asking)), Some(own_id(&serving)));
    let expected = [
        (Kind::Request, "1", 0, None),
        (Kind::Request, "21", 1, server),
        (Kind::Reply, "42", 1, requester),
        (Kind::Request, "22", 1, server),
        (Kind::Reply, "too large", 1, requester),
    ];
    let found: Vec<_> = seen
        .iter()
        .map(|r| (r.head.kind, str::from_utf8(r.payload()).unwrap(), r.subscribers, r.to.map(|to| to.0)))
        .collect();
    assert_eq!(found, expected);
    let call = |record: &Record| record.metadata().unwrap().call.unwrap();
    assert_eq!((call(&seen[1]), call(&seen[3])), (call(&seen[2]), call(&seen[4])));
    assert!(seen.iter().all(|record| record.topic.as_str() == "math/double"));
    assert!(seen[4].head.flags.has(pipebus_client::Flags::FAILED));
}

#[tokio::test]
async fn what_clients_and_broker_say_to_each_other_is_seen_on_a_topic_of_its_own() {
    let bus = TestBus::start();
    let watcher = bus.client().await;
    let mut everything = watcher.monitor("**", whole()).await.unwrap();
    let mut monitor = watcher.monitor(CONTROL_TOPIC, whole()).await.unwrap();
    let client = bus.named_client("talker").await;
    let id = own_id(&client);
    client.publish("a", "b").await.unwrap();
    let denied = client.request("a", "?", DEADLINE).await.unwrap_err();
    assert!(matches!(denied, Error::NoServer { .. }));
    client.close().await.unwrap();
    let mut said = Vec::new();
    loop {
        let record = next_record(&mut monitor).await;
        assert_eq!(
            (record.head.kind, record.head.topic.0, record.head.sender.0, record.head.sequence),
            (Kind::Control, 0, 0, 0)
        );
        assert_eq!(record.topic.as_str(), CONTROL_TOPIC);
        let control = record.control().unwrap();
        if record.sender.id.0 == id {
            assert_eq!((record.sender.name.as_str(), record.to, record.subscribers), ("talker", None, 0));
            said.push((true, control));
        } else if record.to.is_some_and(|to| to.0 == id) {
            assert_eq!((record.sender.id.0, record.sender.name.as_str(), record.subscribers), (0, "pipebusd", 1));
            let ends = matches!(control, Control::Goodbye { .. });
            said.push((false, control));
            if ends {
                break;
            }
        }
    }
    let words: Vec<String> = said
        .iter()
        .map(|(of_client, control)| {
            let word = format!("{control:?}");
            format!("{}{}", if *of_client { "" } else { "< " }, word.split([' ', '(']).next().unwrap())
        })
        .collect();
    let expected = ["Hello", "< Welcome", "Declare", "< Declared", "Declare", "< Declared", "< RequestFailed"];
    assert_eq!(words[..expected.len()], expected);
    assert_eq!(words[words.len() - 2..], ["Goodbye", "< Goodbye"]);
    assert!(matches!(&said[2].1, Control::Declare { topic, purpose: Purpose::Publish, .. } if topic == "a"));
    let failed = Control::RequestFailed { correlation: 1, failure: Failure::NoServer };
    assert_eq!(said[6].1, failed);
    assert_eq!(said.last().unwrap().1, Control::Goodbye { cause: Farewell::Leaving });
    // And ** does not mean it.
    let seen = records(&mut everything, 2).await;
    assert!(seen.iter().all(|record| record.topic.as_str() == "a"));
}

#[tokio::test]
async fn a_message_of_several_fragments_is_seen_as_such_and_disturbs_no_subscription_of_the_same_client() {
    let bus = TestBus::start();
    let (publisher, watcher) = (bus.client().await, bus.client().await);
    let mut monitor = watcher.monitor("large", whole()).await.unwrap();
    let mut subscription = watcher.subscribe("large").await.unwrap();
    let content = Bytes::from(payload(3, 700_000));
    let send = async {
        for _ in 0..3 {
            publisher.publish("large", content.clone()).await.unwrap();
        }
        publisher.flush().await.unwrap();
    };
    let receive = async {
        for _ in 0..3 {
            let Some(Delivery::Message(message)) = soon("a message", subscription.next()).await else { panic!() };
            assert!(message.payload == content);
        }
    };
    let (seen, (), ()) = tokio::join!(records(&mut monitor, 9), send, receive);
    for (number, fragments) in (1..).zip(seen.chunks(3)) {
        let parts: Vec<Part> = fragments.iter().map(|record| record.head.part()).collect();
        assert_eq!(parts, [Part::First, Part::Middle, Part::Last]);
        let mut at = 0;
        for record in fragments {
            let body = record.head.body as usize;
            assert_eq!((record.head.sequence, record.subscribers), (number, 1));
            assert_eq!((record.body.len(), record.is_cut()), (body.min(CAPTURE_BYTES_MAX), body > CAPTURE_BYTES_MAX));
            assert!(record.body == content[at..at + record.body.len()]);
            at += body;
        }
        assert_eq!(at, content.len());
    }
}

#[test]
fn large_frames_that_pass_as_pages_are_seen_with_what_they_begin_with() {
    const MESSAGES: u64 = 200;
    let sizes = [64 * 1024, 40_000, 256 * 1024, 32 * 1024, 300];
    let size = |number: u64| sizes[usize::try_from(number / 10).unwrap() % sizes.len()];
    for (capture_bytes, overflow) in
        [(0, Overflow::Block), (9, Overflow::Block), (u32::MAX, Overflow::Block), (9, Overflow::DropOldest)]
    {
        let bus = TestBus::start_with(&["queue.bytes_max=67108864"]);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let watcher = runtime.block_on(bus.client());
        let watch = Watch { capture_bytes, ..whole() };
        let mut monitor = runtime.block_on(watcher.monitor("pages", watch)).unwrap();
        let mut subscriber = Subscriber::new(&bus, "pages", overflow);
        let mut publisher = Publisher::new(&bus, "pages");
        let sender = publisher.id;
        let seen = std::thread::scope(|scope| {
            let seen = scope.spawn(|| runtime.block_on(records(&mut monitor, MESSAGES as usize)));
            scope.spawn(|| {
                (1..=MESSAGES).for_each(|number| subscriber.expect(number, &payload(number, size(number))));
                subscriber.client.say(&Control::Consumed { sender, sequence: MESSAGES });
            });
            (1..=MESSAGES).for_each(|number| {
                publisher.send_loaned(&payload(number, size(number)));
            });
            seen.join().unwrap()
        });
        for (number, record) in (1..).zip(&seen) {
            let content = payload(number, size(number));
            let captured = content.len().min(capture_bytes as usize).min(CAPTURE_BYTES_MAX);
            assert_eq!((record.head.sequence, record.head.body as usize), (number, content.len()));
            assert_eq!((record.subscribers, record.body.len(), record.dropped), (1, captured, 0));
            assert!(record.body == content[..captured], "message {number} of {} bytes", content.len());
        }
        assert_eq!(publisher.released(MESSAGES as usize).len(), MESSAGES as usize, "to look is not to keep");
    }
}

#[tokio::test]
async fn only_what_is_wanted_is_sent_and_nothing_of_the_rest_is_called_lost() {
    let bus = TestBus::start();
    let (one, other, watcher) = (bus.client().await, bus.client().await, bus.client().await);
    let sender = pipebus_client::InstanceId(own_id(&one));
    let messages = Kinds::NONE.with(Kind::Message);
    let watch = Watch { capture_bytes: 2, sender: Some(sender), bytes_min: 3, bytes_max: 5, kinds: messages };
    let mut monitor = watcher.monitor("**", watch).await.unwrap();
    for client in [&other, &one] {
        for bytes in 0..8 {
            client.publish("a", "abcdefgh"[..bytes].to_owned()).await.unwrap();
        }
        let _ = client.request("a", "?abc", DEADLINE).await;
        client.flush().await.unwrap();
    }
    let seen = records(&mut monitor, 3).await;
    assert!(seen.iter().all(|record| record.sender.id == sender && record.payload() == b"ab"));
    assert_eq!(seen.iter().map(|record| record.head.body).collect::<Vec<_>>(), [3, 4, 5]);
    one.publish("a", "last").await.unwrap();
    assert_eq!(next_record(&mut monitor).await.head.body, 4);
}

#[tokio::test]
async fn each_monitor_of_a_client_sees_what_it_matches_and_the_broker_tells_it_once() {
    let bus = TestBus::start();
    let (publisher, watcher) = (bus.client().await, bus.client().await);
    let mut first = watcher.monitor("a/**", Watch { capture_bytes: 1, ..whole() }).await.unwrap();
    let mut second = watcher.monitor("**", whole()).await.unwrap();
    publisher.publish("a/b", "both").await.unwrap();
    publisher.publish("c", "second").await.unwrap();
    publisher.flush().await.unwrap();
    assert_eq!(next_record(&mut first).await.payload(), b"b");
    assert_eq!(next_record(&mut second).await.payload(), b"b");
    assert_eq!(next_record(&mut second).await.payload(), b"second");
    first.stop().await.unwrap();
    publisher.publish("a/b", "alone").await.unwrap();
    assert_eq!(next_record(&mut second).await.payload(), b"alone");
}

#[tokio::test]
async fn a_monitor_comes_back_with_its_client_and_knows_of_the_gap() {
    let mut bus = TestBus::start();
    let (publisher, watcher) = (bus.client().await, bus.client().await);
    let mut monitor = watcher.monitor("a", whole()).await.unwrap();
    publisher.publish("a", "before").await.unwrap();
    assert_eq!(next_record(&mut monitor).await.payload(), b"before");
    bus.kill_broker();
    bus.start_broker();
    let Some(Observation::Gap(gap)) = soon("the gap", monitor.next()).await else { panic!() };
    assert_eq!((gap.cause, gap.messages), (GapCause::Reconnected, None));
    publisher.publish("a", "after").await.unwrap();
    assert_eq!(next_record(&mut monitor).await.payload(), b"after");
}

/// Reads all that is told, until so much has been. Returns the numbers of the messages, and how many were lost.
fn read_told(monitor: &mut RawClient, messages: u64) -> (Vec<u64>, u64) {
    let (mut numbers, mut lost) = (Vec::new(), 0);
    while numbers.len() as u64 + lost < messages {
        let frame = monitor.next_frame().unwrap();
        if frame.head.kind == Kind::Record {
            let (record, captured) = RecordHead::decode(&frame.body).unwrap();
            assert_eq!((record.subscribers, record.dropped, captured.len()), (1, 0, 10_000));
            numbers.push(frame.head.sequence);
        } else if let Control::Gap { messages, .. } = pipebus_proto::wire::decode_control(&frame.body).unwrap() {
            lost += messages;
        }
    }
    (numbers, lost)
}

#[test]
fn who_monitors_and_reads_nothing_holds_up_nobody_and_is_told_exactly_what_it_lost() {
    const MESSAGES: u64 = 2000;
    for (overflow, keeps_last) in [(Overflow::Block, false), (Overflow::DropOldest, true)] {
        let bus = TestBus::start_with(&["queue.bytes_max=65536", "queue.stall_timeout_ms=60000"]);
        let (mut monitor, _) = RawClient::connect(&bus.place());
        let role = Role::Monitor(Watch::default());
        monitor.say(&Control::Subscribe { subscription: 1, pattern: "flood".to_owned(), role, overflow });
        assert_eq!(monitor.hear(), Some(Control::Subscribed { subscription: 1 }));
        let mut subscriber = Subscriber::new(&bus, "flood", Overflow::Block);
        let mut publisher = Publisher::new(&bus, "flood");
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=MESSAGES).for_each(|number| subscriber.expect(number, &payload(number, 10_000))));
            (1..=MESSAGES).for_each(|number| publisher.send(&payload(number, 10_000)));
            publisher.flush();
        });
        assert_eq!(subscriber.lost, 0);
        let (numbers, lost) = read_told(&mut monitor, MESSAGES);
        assert_eq!(numbers.len() as u64 + lost, MESSAGES);
        assert!(lost > MESSAGES / 2 && numbers.is_sorted() && numbers.starts_with(&[1, 2, 3]), "{lost} lost");
        assert_eq!(numbers.last() == Some(&MESSAGES), keeps_last, "{numbers:?}");
        // And goes on where it is now.
        publisher.send(&payload(1, 10_000));
        assert_eq!(read_told(&mut monitor, 1), (vec![MESSAGES + 1], 0));
    }
}

#[test]
fn who_waits_and_what_is_dropped_is_told() {
    let bus = TestBus::start_with(&["queue.bytes_max=65536"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let watcher = runtime.block_on(bus.client());
    let mut monitor = runtime.block_on(watcher.monitor("flood", Watch { capture_bytes: 0, ..whole() })).unwrap();
    let slow = Subscriber::new(&bus, "flood", Overflow::DropNewest);
    let mut waiting = Subscriber::new(&bus, "flood", Overflow::Block);
    let mut publisher = Publisher::new(&bus, "flood");
    let told = std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            let mut told = Vec::new();
            while told.iter().map(|record: &Record| record.waiting).sum::<u32>() == 0 {
                told.push(runtime.block_on(next_record(&mut monitor)));
            }
            told
        });
        scope.spawn(|| (1..=100).for_each(|number| publisher.send(&payload(number, 10_000))));
        let told = told.join().unwrap();
        (1..=100).for_each(|number| waiting.expect(number, &payload(number, 10_000)));
        told
    });
    let rest = runtime.block_on(records(&mut monitor, 100 - told.len()));
    let dropped: u64 = told.iter().chain(&rest).map(|record| u64::from(record.dropped)).sum();
    assert!(told.iter().chain(&rest).all(|record| record.subscribers == 2 && record.waiting <= 1));
    let status = runtime.block_on(watcher.request("$bus/instances", "", DEADLINE)).unwrap();
    let status: serde_json::Value = status.json().unwrap();
    let instance = status.as_array().unwrap().iter().find(|instance| instance["id"] == slow.id.0).unwrap();
    assert_eq!((instance["dropped"].as_u64(), dropped > 0), (Some(dropped), true));
}

#[tokio::test]
async fn who_publishes_is_not_held_up_by_many_monitors_that_stand_still() {
    let bus = TestBus::start_with(&["queue.stall_timeout_ms=600000"]);
    let mut still = Vec::new();
    for _ in 0..20 {
        let (client, _) = RawClient::connect(&bus.place());
        let (role, overflow) = (Role::Monitor(Watch::default()), Overflow::Block);
        client.say(&Control::Subscribe { subscription: 1, pattern: "**".to_owned(), role, overflow });
        still.push(client);
    }
    let client = bus.client().await;
    let publish = async {
        for number in 0..50u64 {
            client.publish("a", payload(number, 1 << 20)).await.unwrap();
        }
        client.flush().await.unwrap();
    };
    soon("the broker not to wait for a monitor", publish).await;
}
