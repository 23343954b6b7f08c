//! Who may monitor, and who is told that somebody does.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use pipebus_client::{CONTROL_TOPIC, Client, Delivery, Error, Message, Monitor, Observation, Subscription, Watch};
use pipebus_proto::admin::{InstanceStatus, MONITOR_EVENT, MonitorEvent, Status, SubscriptionListed};
use pipebus_proto::control::{Control, Overflow, Reason, Regarding, Role};
use pipebus_tests::raw::RawClient;
use pipebus_tests::{DEADLINE, OTHER_UID, TestBus, can_change_user, soon, wait_until};

const EVERYTHING: &str = "{ name = 'everything', who = ['owner', 'root'], allow = ['all'] }";
const NO_SPYING: &str =
    "{ name = 'no spying', who = ['any'], deny = ['monitor'], topics = ['secrets/**', '$bus/control'] }";

fn file(rules: &[&str]) -> String {
    format!("[door]\naccess = 'everyone'\n[policy]\nrules = [{}]\n", rules.join(", "))
}

async fn next_payload(monitor: &mut Monitor) -> Vec<u8> {
    match soon("a record", monitor.next()).await {
        Some(Observation::Record(record)) => record.payload().to_vec(),
        other => panic!("{other:?}, {:?}", monitor.error()),
    }
}

async fn next_event(events: &mut Subscription) -> MonitorEvent {
    match soon("an event", events.next()).await {
        Some(Delivery::Message(message)) => message.json().unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn ask(client: &Client, topic: &str) -> Message {
    client.request(topic, "", DEADLINE).await.unwrap()
}

async fn monitors(client: &Client) -> u64 {
    ask(client, "$bus/status").await.json::<Status>().unwrap().monitors
}

#[tokio::test]
async fn who_may_not_monitor_is_told_which_rule_says_so_and_sees_the_other_topics() {
    let bus = TestBus::start_with_file(&file(&[NO_SPYING, EVERYTHING]));
    let client = bus.client().await;
    for pattern in ["secrets/a", "secrets/**", CONTROL_TOPIC] {
        let refused = client.monitor(pattern, Watch::default()).await.unwrap_err();
        let uid = rustix::process::geteuid().as_raw();
        let says = format!("rule 1 (no spying) of the bus's policy denies uid {uid} to monitor {pattern}");
        assert!(matches!(&refused, Error::Forbidden(text) if text.contains(&says)), "{refused}");
    }
    let refused = client.monitor("$bus/status", Watch::default()).await.unwrap_err();
    assert!(matches!(&refused, Error::Forbidden(text) if text.contains(CONTROL_TOPIC)), "{refused}");
    let mut monitor = client.monitor("**", Watch::default()).await.unwrap();
    // What it may subscribe to it need not be let monitor.
    let mut subscription = client.subscribe("secrets/**").await.unwrap();
    client.publish("secrets/a", "secret").await.unwrap();
    client.publish("open", "open").await.unwrap();
    assert_eq!(next_payload(&mut monitor).await, b"open");
    assert!(matches!(soon("a message", subscription.next()).await, Some(Delivery::Message(_))));
}

#[test]
fn other_users_may_not_monitor_unless_a_rule_says_so() {
    if !can_change_user() {
        return;
    }
    let users = "{ who = ['any'], allow = ['connect', 'publish', 'subscribe', 'request', 'serve', 'block', 'admin'] }";
    let bus = TestBus::start_with_file(&file(&[EVERYTHING, users]));
    let (mut client, _) = RawClient::connect_as(&bus.place(), OTHER_UID);
    for pattern in ["**", "a", CONTROL_TOPIC] {
        let (role, overflow) = (Role::Monitor(Watch::default()), Overflow::Block);
        client.say(&Control::Subscribe { subscription: 7, pattern: pattern.to_owned(), role, overflow });
        let Some(Control::Refused { regarding, reason, text }) = client.hear() else { panic!("{pattern}") };
        assert_eq!((regarding, reason), (Regarding::Subscription(7), Reason::Forbidden));
        assert!(text.contains("monitor") && text.contains("policy.rules"), "{text}");
    }
}

#[tokio::test]
async fn a_reload_takes_the_right_to_monitor_from_those_who_do() {
    let bus = TestBus::start_with_file(&file(&[EVERYTHING]));
    let client = bus.client().await;
    let mut narrow = client.monitor("secrets/**", Watch::default()).await.unwrap();
    let mut wide = client.monitor("**", Watch::default()).await.unwrap();
    client.publish("secrets/a", "before").await.unwrap();
    assert_eq!(next_payload(&mut narrow).await, b"before");
    assert_eq!(next_payload(&mut wide).await, b"before");
    bus.reload(&file(&[NO_SPYING, EVERYTHING]), "the policy and the limits are read anew");
    assert!(soon("the end", narrow.next()).await.is_none());
    assert!(matches!(narrow.error(), Some(Error::Forbidden(text)) if text.contains("rule 1")));
    client.publish("secrets/a", "secret").await.unwrap();
    client.publish("a", "open").await.unwrap();
    assert_eq!(next_payload(&mut wide).await, b"open");
}

#[tokio::test]
async fn that_somebody_monitors_is_said_on_the_bus_and_shown_in_its_status() {
    let bus = TestBus::start();
    let (admin, watcher) = (bus.client().await, bus.named_client("watcher").await);
    let mut events = admin.subscribe(MONITOR_EVENT).await.unwrap();
    assert_eq!(monitors(&admin).await, 0);
    let first = watcher.monitor("a/**", Watch::default()).await.unwrap();
    let event = next_event(&mut events).await;
    assert_eq!((event.name.as_str(), &event.patterns[..]), ("watcher", &["a/**".to_owned()][..]));
    let second = watcher.monitor(CONTROL_TOPIC, Watch::default()).await.unwrap();
    let changed = next_event(&mut events).await;
    assert_eq!(
        (changed.instance, &changed.patterns[..]),
        (event.instance, &["a/**", CONTROL_TOPIC].map(str::to_owned)[..])
    );

    assert_eq!(monitors(&admin).await, 1);
    let instances: Vec<InstanceStatus> = ask(&admin, "$bus/instances").await.json().unwrap();
    let shown = instances.iter().find(|instance| instance.id == event.instance).unwrap();
    assert!(shown.subscriptions.len() == 2 && shown.subscriptions.iter().all(|s| s.monitors && !s.serves));
    let listed: Vec<SubscriptionListed> = ask(&admin, "$bus/subscriptions").await.json().unwrap();
    let monitoring = listed.iter().filter(|listed| listed.subscription.monitors).map(|listed| listed.instance);
    assert_eq!(monitoring.collect::<Vec<_>>(), [event.instance; 2]);
    assert!(bus.log().contains("monitors instance="));

    first.stop().await.unwrap();
    assert_eq!(next_event(&mut events).await.patterns, [CONTROL_TOPIC]);
    drop(second);
    assert_eq!(next_event(&mut events).await.patterns, [""; 0]);
    let _third = watcher.monitor("b", Watch::default()).await.unwrap();
    assert_eq!(next_event(&mut events).await.patterns, ["b"]);
    watcher.close().await.unwrap();
    let left = next_event(&mut events).await;
    assert_eq!((left.instance, left.patterns.len()), (event.instance, 0), "who leaves ceases");
    wait_until("nobody to monitor", async || monitors(&admin).await == 0).await;
}

#[tokio::test]
async fn the_topic_of_control_frames_is_only_monitored() {
    let bus = TestBus::start();
    let client = bus.client().await;
    let refused = client.publish(CONTROL_TOPIC, "x").await.unwrap_err();
    assert!(matches!(refused, Error::Forbidden(_)), "{refused}");
    let refused = client.request(CONTROL_TOPIC, "", DEADLINE).await.unwrap_err();
    assert!(matches!(&refused, Error::Failed(text) if text.contains("monitored")), "{refused}");
}
