//! Limits: whoever reaches one is told which, is counted, and takes nothing from anybody else.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::time::Duration;

use pipebus_client::Delivery;
use pipebus_proto::admin::{LIMIT_EVENT, LimitEvent, Status, UserStatus};
use pipebus_proto::control::{Control, Farewell, Identity, Overflow, Purpose, Reason};
use pipebus_tests::raw::RawClient;
use pipebus_tests::traffic::{Publisher, Subscriber, payload};
use pipebus_tests::{DEADLINE, EVERYONE, OTHER_UID, TestBus, can_change_user, soon, wait_until};
use tokio::time::Instant;

/// A bus for all, with limits.
fn bus(limits: &[&str]) -> TestBus {
    TestBus::start_with(&[&EVERYONE[..], limits].concat())
}

fn other(bus: &TestBus) -> RawClient {
    RawClient::connect_as(&bus.place(), OTHER_UID).0
}

/// Why a client is not let in.
fn refused(client: RawClient, uid: u32) -> (Reason, String) {
    match client.try_to_arrive_as(uid) {
        Some(Control::Refused { reason, text, .. }) => (reason, text),
        other => panic!("not refused but {other:?}"),
    }
}

async fn status(bus: &TestBus) -> Status {
    let client = bus.client().await;
    client.request("$bus/status", "", DEADLINE).await.unwrap().json().unwrap()
}

#[tokio::test]
async fn a_user_with_all_its_instances_keeps_nobody_else_out() {
    if !can_change_user() {
        return;
    }
    let bus = bus(&["limits.instances_per_user_max=3", "limits.instances_max=6", "limits.instances_reserved=2"]);
    let _of_other = [0, 1, 2].map(|_| other(&bus));
    let (reason, text) = refused(RawClient::prepare(&bus.place()), OTHER_UID);
    assert_eq!(reason, Reason::UserFull);
    assert!(text.contains("limits.instances_per_user_max"), "{text}");
    let _third = RawClient::connect_as(&bus.place(), OTHER_UID - 1);
    // What is left is the administrators'.
    let (reason, text) = refused(RawClient::prepare(&bus.place()), OTHER_UID - 1);
    assert_eq!(reason, Reason::BrokerFull);
    assert!(text.contains("kept for administrators"), "{text}");
    wait_until("the count of it", async || {
        let reached = status(&bus).await.limits_reached;
        reached.get("limits.instances_per_user_max") == Some(&1) && reached.get("limits.instances_max") == Some(&1)
    })
    .await;
}

#[tokio::test]
async fn a_limit_that_is_reached_is_an_event() {
    if !can_change_user() {
        return;
    }
    let bus = bus(&["limits.topics_per_user_max=2"]);
    let watcher = bus.client().await;
    let mut events = watcher.subscribe(LIMIT_EVENT).await.unwrap();
    let mut greedy = other(&bus);
    for topic in ["a", "b"] {
        greedy.declare(topic);
    }
    for token in 0..10 {
        greedy.say(&Control::Declare { token, topic: "c".to_owned(), purpose: Purpose::Publish });
        assert!(matches!(greedy.hear(), Some(Control::Refused { reason: Reason::TooMany, .. })));
    }
    let mut times = 0;
    while times < 10 {
        let Some(Delivery::Message(message)) = soon("the event", events.next()).await else { panic!("no event") };
        assert_eq!(message.topic().as_str(), LIMIT_EVENT);
        let event: LimitEvent = message.json().unwrap();
        assert_eq!(event.limit, "limits.topics_per_user_max");
        assert_eq!(event.identity, Some(Identity::Unix { uid: OTHER_UID }));
        times += event.times;
    }
    assert_eq!(bus.log().matches("a limit is reached").count(), 1);
    // The owner's own are another account.
    watcher.publish("d", "still").await.unwrap();
    let users: Vec<UserStatus> = watcher.request("$bus/users", "", DEADLINE).await.unwrap().json().unwrap();
    let of_other = users.iter().find(|user| user.identity == Identity::Unix { uid: OTHER_UID }).unwrap();
    assert_eq!((of_other.instances, of_other.topics), (1, 2));
}

#[tokio::test]
async fn what_waits_for_a_user_is_bounded_and_others_lose_nothing_by_it() {
    if !can_change_user() {
        return;
    }
    const BOUND: u64 = 2 << 20;
    let setting = format!("limits.queued_bytes_per_user_max={BOUND}");
    let bus = bus(&[&setting]);
    let mut honest = Subscriber::new(&bus, "a", Overflow::Block);
    let idlers: Vec<RawClient> = (0..8).map(|_| other(&bus)).collect();
    let mut idlers: Vec<RawClient> = idlers
        .into_iter()
        .map(|mut idler| {
            idler.subscribe("a", Overflow::DropNewest);
            idler
        })
        .collect();
    let mut publisher = Publisher::new(&bus, "a");
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=1000).for_each(|number| publisher.send(&payload(number, 20_000))));
        (1..=1000).for_each(|number| honest.expect(number, &payload(number, 20_000)));
    });
    let watcher = bus.client().await;
    let users: Vec<UserStatus> = watcher.request("$bus/users", "", DEADLINE).await.unwrap().json().unwrap();
    let of_other = users.iter().find(|user| user.identity == Identity::Unix { uid: OTHER_UID }).unwrap();
    assert!((BOUND / 2..BOUND + (256 << 10)).contains(&of_other.queued_bytes), "{of_other:?}");
    wait_until("the count of it", async || {
        status(&bus).await.limits_reached.contains_key("limits.queued_bytes_per_user_max")
    })
    .await;
    // Who reads after all is told of every message that it lost.
    let mut got = 0;
    let mut lost = 0;
    let idler = &mut idlers[0];
    while got + lost < 1000 {
        let frame = idler.next_frame().unwrap();
        match frame.head.kind {
            pipebus_proto::frame::Kind::Message => got += 1,
            _ => {
                if let Control::Gap { messages, .. } = pipebus_proto::wire::decode_control(&frame.body).unwrap() {
                    lost += messages;
                }
            }
        }
    }
    assert_eq!((got + lost, lost > 0), (1000, true));
}

#[test]
fn who_sends_faster_than_its_rate_is_slowed_down_and_loses_nothing() {
    if !can_change_user() {
        return;
    }
    let bus = bus(&["limits.messages_per_second_per_user_max=500"]);
    let mut subscriber = Subscriber::new(&bus, "fast", Overflow::Block);
    let mut fast = Publisher::with(RawClient::connect_as(&bus.place(), OTHER_UID), "fast");
    let start = Instant::now();
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            (1..=1500).for_each(|number| fast.send(&payload(number, 100)));
            fast.flush();
        });
        // Somebody else is as fast as ever.
        let mut calm = Subscriber::new(&bus, "calm", Overflow::Block);
        let mut other = Publisher::new(&bus, "calm");
        (1..=50).for_each(|number| {
            other.send(&payload(number, 100));
            calm.expect(number, &payload(number, 100));
        });
        (1..=1500).for_each(|number| subscriber.expect(number, &payload(number, 100)));
        sent.join().unwrap();
    });
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1500), "1,500 messages at 500 a second took {took:?}");
}

#[test]
fn the_rate_of_all_is_shared_by_those_who_send() {
    if !can_change_user() {
        return;
    }
    let bus = bus(&["limits.bytes_per_second_max=2000000"]);
    let mut subscriber = Subscriber::new(&bus, "a", Overflow::Block);
    let mut publisher = Publisher::with(RawClient::connect_as(&bus.place(), OTHER_UID), "a");
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=40).for_each(|number| publisher.send(&payload(number, 100_000))));
        (1..=40).for_each(|number| subscriber.expect(number, &payload(number, 100_000)));
    });
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1500), "4 MB at 2 MB a second took {took:?}");
}

#[test]
fn who_comes_and_goes_keeps_its_rate_too() {
    if !can_change_user() {
        return;
    }
    let bus = bus(&["limits.messages_per_second_per_user_max=500"]);
    let mut subscriber = Subscriber::new(&bus, "a", Overflow::Block);
    let start = Instant::now();
    for _ in 0..4 {
        let mut publisher = Publisher::with(RawClient::connect_as(&bus.place(), OTHER_UID), "a");
        // All at once, and gone.
        let messages: Vec<u8> = (1..=400).flat_map(|number| publisher.next(&payload(number, 100))).collect();
        publisher.client.write(&messages);
        publisher.client.say(&Control::Goodbye { cause: Farewell::Leaving });
        (1..=400).for_each(|number| subscriber.expect(number, &payload(number, 100)));
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1500), "1,600 messages at 500 a second took {took:?}");
}
