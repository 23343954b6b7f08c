//! What the broker tells of by itself, as `pipebus sub '$bus/events/**'` shows it.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs::{self, File};
use std::path::PathBuf;

use pipebus_proto::admin::{
    CONNECT_EVENT, Cause, ConnectEvent, DISCONNECT_EVENT, DRAIN_EVENT, DisconnectEvent, Draining, GAP_EVENT, GapEvent,
    LEFT_OUT_EVENT, LIMIT_EVENT, LeftOutEvent, LimitEvent, POLICY_EVENT, PolicyEvent, RELOAD_EVENT, ReloadEvent,
};
use pipebus_proto::control::{Control, Identity, Overflow, Purpose};
use pipebus_tests::raw::RawClient;
use pipebus_tests::traffic::{Publisher, Subscriber};
use pipebus_tests::{OTHER_UID, Process, TestBus, can_change_user, wait_for};
use serde::de::DeserializeOwned;
use serde_json::Value;

const OWNER: &str = "{ name = 'owner', who = ['owner', 'root'], allow = ['all'] }";

/// Somebody who watches all events.
struct Watcher {
    _program: Process,
    output: PathBuf,
}

impl Watcher {
    fn of(bus: &TestBus) -> Watcher {
        let output = bus.scratch().join("events");
        let mut command = bus.cli(&["sub", "$bus/events/**", "--format", "json"]);
        let program = Process::start(command.stdout(File::create(&output).unwrap()));
        wait_for("the watcher", || bus.log().contains("Subscribe {").then_some(()));
        Watcher { _program: program, output }
    }

    /// All events of a sort so far.
    fn all<E: DeserializeOwned>(&self, topic: &str) -> Vec<E> {
        let text = fs::read_to_string(&self.output).unwrap();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let sort = whole.filter(|event| event["topic"] == topic);
        sort.map(|event| serde_json::from_str(event["payload"].as_str().unwrap()).unwrap()).collect()
    }

    /// Waits for one like this.
    fn one<E: DeserializeOwned>(&self, topic: &str, is_meant: impl Fn(&E) -> bool) -> E {
        wait_for(topic, || self.all(topic).into_iter().find(|event| is_meant(event)))
    }

    /// Why an instance has gone.
    fn end_of(&self, instance: u32) -> DisconnectEvent {
        self.one(DISCONNECT_EVENT, |event: &DisconnectEvent| event.instance == instance)
    }
}

fn root() -> Identity {
    Identity::Unix { uid: rustix::process::geteuid().as_raw() }
}

#[test]
fn who_comes_and_goes_is_told_with_the_reason() {
    let bus = TestBus::start_with(&["queue.bytes_max=65536"]);
    let watcher = Watcher::of(&bus);
    let mut publisher = Publisher::new(&bus, "a");
    let id = publisher.id.0;
    let connected: ConnectEvent = watcher.one(CONNECT_EVENT, |event: &ConnectEvent| event.instance == id);
    assert_eq!((connected.name.as_str(), connected.identity), ("raw", root()));
    publisher.send(b"one");
    publisher.send(b"two");
    publisher.flush();
    publisher.client.say(&Control::Goodbye { cause: pipebus_proto::control::Farewell::Leaving });
    let left = watcher.end_of(id);
    assert_eq!((left.cause, left.messages_in, left.reason.as_str()), (Cause::Left, 2, "the client left"));

    let (gone, welcome) = RawClient::connect(&bus.place());
    drop(gone);
    assert_eq!(watcher.end_of(welcome.client.0).cause, Cause::PipeClosed);

    let (liar, welcome) = RawClient::connect(&bus.place());
    liar.write(&[0xff; 24]);
    assert_eq!(watcher.end_of(welcome.client.0).cause, Cause::Protocol);

    let (mut slow, welcome) = RawClient::connect(&bus.place());
    slow.subscribe("flood", Overflow::Disconnect);
    let mut flood = Publisher::new(&bus, "flood");
    (0..100).for_each(|_| flood.send(&[7; 10_000]));
    assert_eq!(watcher.end_of(welcome.client.0).cause, Cause::Slow);

    let (_sent_away, welcome) = RawClient::connect(&bus.place());
    let number = welcome.client.0.to_string();
    assert!(bus.cli(&["disconnect", &number, "--reason", "to see it"]).status().unwrap().success());
    let sent_away = watcher.end_of(welcome.client.0);
    assert_eq!(sent_away.cause, Cause::Administrator);
    assert!(sent_away.reason.ends_with(": to see it"), "{sent_away:?}");
}

#[test]
fn a_slow_subscriber_is_told_of_once_a_second_with_all_that_it_has_lost() {
    const MESSAGES: u64 = 200;
    let bus = TestBus::start_with(&["queue.bytes_max=65536"]);
    let watcher = Watcher::of(&bus);
    let slow = Subscriber::new(&bus, "flood", Overflow::DropNewest);
    let mut flood = Publisher::new(&bus, "flood");
    (0..MESSAGES).for_each(|_| flood.send(&[7; 10_000]));
    flood.flush();
    let gap: GapEvent = watcher.one(GAP_EVENT, |_| true);
    assert_eq!((gap.name.as_str(), gap.identity), ("raw", root()));
    let reached: LimitEvent = watcher.one(LIMIT_EVENT, |_| true);
    assert_eq!(reached.limit, "queue.bytes_max");
    // And its end says as much as all gaps together.
    drop(slow);
    let dropped = watcher.end_of(gap.instance).dropped;
    let told = || watcher.all::<GapEvent>(GAP_EVENT).iter().map(|gap| gap.messages).sum::<u64>();
    assert!(dropped > MESSAGES / 2 && told() <= dropped, "{} of {dropped}", told());
    assert!(watcher.all::<GapEvent>(GAP_EVENT).len() <= 5, "once a second");
}

#[test]
fn what_the_policy_refuses_is_told_also_without_an_audit_and_too_much_is_counted() {
    const TRIES: u64 = 500;
    if !can_change_user() {
        return;
    }
    let rules = "{ who = ['any'], allow = ['connect'] }, \
                 { name = 'a only', who = ['any'], allow = ['publish', 'subscribe'], topics = ['a'] }";
    let open = |rules| format!("[door]\naccess = 'everyone'\n[policy]\nrules = [{OWNER}, {rules}]\n");
    let bus = TestBus::start_with_file(&open(rules));
    let watcher = Watcher::of(&bus);
    let (mut client, welcome) = RawClient::connect_as(&bus.place(), OTHER_UID);
    client.subscribe("**", Overflow::Block);
    // What the pattern leaves out was not refused.
    let _left_out = Publisher::new(&bus, "b");
    for token in 0..TRIES {
        let topic = "secrets/a".to_owned();
        client.say(&Control::Declare { token: token.try_into().unwrap(), topic, purpose: Purpose::Publish });
        assert!(matches!(client.hear(), Some(Control::Refused { .. })));
    }
    let other = Identity::Unix { uid: OTHER_UID };
    let refused: PolicyEvent = watcher.one(POLICY_EVENT, |event: &PolicyEvent| event.action == "publish");
    let expected = PolicyEvent {
        identity: other.clone(),
        pid: refused.pid,
        instance: Some(welcome.client.0),
        action: "publish".to_owned(),
        topic: Some("secrets/a".to_owned()),
        rule: "no rule".to_owned(),
    };
    assert_eq!(refused, expected);
    wait_for("all to be told or counted", || {
        let left_out = watcher.all::<LeftOutEvent>(LEFT_OUT_EVENT).into_iter();
        let counted = left_out.filter(|left_out| left_out.event == POLICY_EVENT && left_out.identity == other);
        let told = watcher.all::<PolicyEvent>(POLICY_EVENT).len() as u64;
        (told + counted.map(|left_out| left_out.times).sum::<u64>() == TRIES && told < TRIES).then_some(())
    });

    // A reload refuses, too, and sends away.
    assert!(watcher.all::<ReloadEvent>(RELOAD_EVENT).is_empty());
    bus.write_config(&open(""));
    assert!(bus.cli(&["reload"]).status().unwrap().success());
    let event: PolicyEvent = watcher.one(POLICY_EVENT, |event: &PolicyEvent| event.action == "connect");
    assert_eq!((event.instance, event.topic), (Some(welcome.client.0), None));
    assert_eq!(watcher.end_of(welcome.client.0).cause, Cause::Policy);
    let reload: ReloadEvent = watcher.one(RELOAD_EVENT, |_| true);
    assert_eq!(reload, ReloadEvent { error: None, restart_for: Vec::new() });
    // Who is not let in at all has no number.
    assert!(RawClient::prepare(&bus.place()).try_to_arrive_as(OTHER_UID).is_some());
    watcher.one(POLICY_EVENT, |event: &PolicyEvent| event.action == "connect" && event.instance.is_none());
    bus.write_config("wrong");
    assert_eq!(bus.cli(&["reload"]).status().unwrap().code(), Some(1));
    watcher.one(RELOAD_EVENT, |event: &ReloadEvent| event.error.as_ref().is_some_and(|error| error.contains("wrong")));
}

#[test]
fn a_drain_is_told_when_it_begins_and_when_it_is_called_off() {
    let bus = TestBus::start();
    let watcher = Watcher::of(&bus);
    let _stays = RawClient::connect(&bus.place());
    assert!(bus.cli(&["drain", "--timeout", "1h"]).status().unwrap().success());
    let begun: Draining = watcher.one(DRAIN_EVENT, |_| true);
    assert!(begun.draining && begun.instances == 1 && begun.timeout_ms.is_some(), "{begun:?}");
    assert!(bus.cli(&["drain", "--cancel"]).status().unwrap().success());
    watcher.one(DRAIN_EVENT, |event: &Draining| !event.draining);
}

#[test]
fn who_comes_and_goes_in_great_numbers_does_not_fill_the_queues_of_those_who_watch() {
    const CLIENTS: u64 = 600;
    let bus = TestBus::start();
    let watcher = Watcher::of(&bus);
    for _ in 0..CLIENTS {
        drop(RawClient::connect(&bus.place()));
    }
    let told = || watcher.all::<ConnectEvent>(CONNECT_EVENT).len() as u64;
    wait_for("all to be told or counted", || {
        let left_out = watcher.all::<LeftOutEvent>(LEFT_OUT_EVENT).into_iter();
        let counted = left_out.filter(|left_out| left_out.event == CONNECT_EVENT).map(|left_out| left_out.times);
        (told() + counted.sum::<u64>() == CLIENTS).then_some(())
    });
    eprintln!("{} of {CLIENTS} are told", told());
}
