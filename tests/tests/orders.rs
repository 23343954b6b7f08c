//! What an administrator tells the broker to do: to disconnect somebody, to reload, to log more or less, to drain.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use pipebus_client::{Client, Delivery, Error, GapCause, Link, Overflow};
use pipebus_proto::admin::{Draining, InstanceStatus, LogFilter, Reloaded, Status};
use pipebus_proto::control::{Control, Farewell, Reason, Regarding};
use pipebus_tests::raw::RawClient;
use pipebus_tests::traffic::{Publisher, Subscriber};
use pipebus_tests::{
    DEADLINE, EVERYONE, OTHER_UID, Process, TestBus, as_user, can_change_user, soon, wait_for, wait_until,
};
use rustix::process::Signal;

const OWNER: &str = "{ name = 'owner', who = ['owner', 'root'], allow = ['all'] }";

/// A configuration with these rules before the owner's.
fn file(rules: &str) -> String {
    format!("[policy]\nrules = [{rules} {OWNER}]\n")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command that is done shows.
fn shown(bus: &TestBus, words: &[&str]) -> String {
    let output = bus.cli(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    text(&output.stdout)
}

/// The same, for a program.
fn json<T: serde::de::DeserializeOwned>(bus: &TestBus, words: &[&str]) -> T {
    serde_json::from_str(&shown(bus, &[words, &["--json"]].concat())).unwrap()
}

/// Fails unless a command fails so.
fn check_fails(command: &mut Command, code: i32, says: &str) {
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {stderr}");
    assert!(stderr.contains(says), "{command:?}: {stderr}");
}

/// A program that subscribes, and the number of its instance.
fn subscribed(bus: &TestBus, topic: &str) -> (Process, u32) {
    let mut command = bus.cli(&["sub", topic]);
    let process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
    let pid = process.0.id();
    let id = wait_for("the subscriber to connect", || {
        let instances: Vec<InstanceStatus> = json(bus, &["instances"]);
        instances.into_iter().find(|instance| instance.pid == Some(pid)).map(|instance| instance.id)
    });
    (process, id)
}

/// How a program has ended, and what it has said.
fn end(mut process: Process) -> (Option<i32>, String) {
    let code = process.wait().code();
    let mut said = String::new();
    if let Some(mut stdout) = process.0.stdout.take() {
        stdout.read_to_string(&mut said).unwrap();
    }
    if let Some(mut stderr) = process.0.stderr.take() {
        stderr.read_to_string(&mut said).unwrap();
    }
    (code, said)
}

#[test]
fn who_is_disconnected_is_told_why_and_stays_away() {
    let bus = TestBus::start();
    let (program, id) = subscribed(&bus, "a");
    let shown = shown(&bus, &["disconnect", &id.to_string(), "--reason", "it floods"]);
    assert!(shown.starts_with(&format!("instance {id} is disconnected: pipebus sub, user ")), "{shown}");
    let (code, said) = end(program);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("an administrator") && said.contains(": it floods"), "{said}");
    for said in ["order=\"$bus/disconnect\" by=", "it floods"] {
        assert!(bus.log().contains(said), "{said}");
    }

    let (mut raw, welcome) = RawClient::connect(&bus.place());
    let status: InstanceStatus = json(&bus, &["disconnect", &welcome.client.to_string()]);
    assert_eq!((status.id, status.name.as_str()), (welcome.client.0, "raw"));
    match raw.hear() {
        Some(Control::Refused { regarding: Regarding::Connection, reason: Reason::Forbidden, text }) => {
            assert!(text.ends_with("has disconnected this client"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(raw.hear(), Some(Control::Goodbye { cause: Farewell::Disconnected }));
    assert_eq!(raw.hear(), None);
}

#[test]
fn who_is_not_there_or_asks_itself_is_not_disconnected() {
    let bus = TestBus::start();
    check_fails(&mut bus.cli(&["disconnect", "999"]), 1, "there is no instance 999");
    check_fails(&mut bus.cli(&["disconnect", "1", "--reason", &"x".repeat(401)]), 1, "at most 400 bytes");
    check_fails(&mut bus.cli(&["disconnect", "1", "--reason", "two\nlines"]), 1, "one line");
    check_fails(&mut bus.cli(&["request", "$bus/disconnect", "{}"]), 1, "instance, a client id");
    // The next one is this one itself.
    let last = json::<Vec<InstanceStatus>>(&bus, &["instances"]).iter().map(|instance| instance.id).max().unwrap();
    check_fails(&mut bus.cli(&["disconnect", &(last + 1).to_string()]), 1, "may leave by itself");
    check_fails(&mut bus.cli(&["disconnect", "nobody"]), 2, "invalid value");
}

#[test]
fn a_reload_says_what_has_changed_and_a_wrong_file_changes_nothing() {
    let bus = TestBus::start_with_file(&file(""));
    let reload = || shown(&bus, &["reload"]);
    bus.write_config(&file("{ who = ['any'], deny = ['publish'], topics = ['a'] },"));
    assert!(reload().starts_with("the policy and the limits are read anew"));
    check_fails(&mut bus.cli(&["pub", "a", "b"]), 4, "rule 1");
    for (wrong, says) in [
        (file("{ who = ['any'], allow = ['dance'] },"), "dance"),
        (file("{ who = ['user:no-such-user'], allow = ['all'] },"), "no-such-user"),
        ("[limits]\ninstances_max = 0\n".to_owned(), "limits.instances_max"),
        ("[door]\naccess = 'group'\ngroup = 'no-such-group'\n".to_owned(), "no-such-group"),
        ("no toml".to_owned(), "pipebus.toml"),
    ] {
        bus.write_config(&wrong);
        check_fails(&mut bus.cli(&["reload"]), 1, says);
        assert!(bus.log().contains("nothing is read anew"));
        check_fails(&mut bus.cli(&["pub", "a", "b"]), 4, "rule 1");
    }
    bus.write_config(&format!("{}[timeouts]\nshutdown_ms = 1\n", file("")));
    assert!(reload().contains("start the broker anew for what else has changed: [timeouts]"));
    assert!(bus.cli(&["pub", "a", "b"]).status().unwrap().success());
    assert_eq!(json::<Reloaded>(&bus, &["reload"]).restart_for, ["[timeouts]"]);
}

#[test]
fn what_is_logged_can_be_changed_until_the_broker_ends() {
    let mut bus = TestBus::without_broker(&[]);
    bus.log_as_usual();
    bus.start_broker();
    let debug_lines = || bus.log().lines().filter(|line| line.contains("DEBUG")).count();
    assert_eq!((shown(&bus, &["log"]).as_str(), debug_lines()), ("info\n", 0));
    let changed = shown(&bus, &["log", "info,pipebusd=debug"]);
    assert!(changed.contains("until the broker ends; then info, as configured"), "{changed}");
    assert!(bus.cli(&["pub", "a", "b"]).status().unwrap().success());
    wait_for("what was not logged before", || (debug_lines() > 0).then_some(()));
    for wrong in ["debg", "info,pipebusd", "pipebusd=loud", ""] {
        check_fails(&mut bus.cli(&["log", wrong]), 1, "the filter");
    }
    let now: LogFilter = json(&bus, &["log"]);
    assert!(now.filter.contains("pipebusd=debug") && now.configured == "info", "{now:?}");
    assert_eq!(shown(&bus, &["log", "error"]).split(' ').next(), Some("error"));
    let before = bus.log();
    assert!(bus.cli(&["pub", "a", "b"]).status().unwrap().success());
    bus.cli(&["status"]).output().unwrap();
    assert_eq!(bus.log(), before, "less is logged");
    bus.kill_broker();
    bus.start_broker();
    assert_eq!(shown(&bus, &["log"]), "info\n");
}

#[test]
fn who_may_not_administer_orders_nothing() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with(&EVERYONE);
    for words in [&["disconnect", "1"][..], &["reload"], &["log"], &["log", "off"], &["drain"], &["drain", "--cancel"]]
    {
        let topic = format!("admin $bus/{}", words[0]);
        check_fails(as_user(&mut bus.cli(words), OTHER_UID), 4, &topic);
    }
    assert_eq!(json::<Status>(&bus, &["status"]).draining, None);
    // Nor does it come in as a visitor while the broker drains.
    let _keeps_it = RawClient::connect(&bus.place());
    shown(&bus, &["drain"]);
    for words in [&["drain", "--cancel"][..], &["status"], &["sub", "$bus/events/**"], &["pub", "a", "b"]] {
        check_fails(as_user(&mut bus.cli(words), OTHER_UID), 4, "being drained");
    }
}

#[test]
fn a_drain_lets_nobody_new_in_and_the_broker_ends_once_all_have_left() {
    let mut bus = TestBus::start();
    let mut publisher = Publisher::new(&bus, "a");
    let mut subscriber = Subscriber::new(&bus, "a", Overflow::Block);
    let (watcher, _) = subscribed(&bus, "$bus/events/**");
    let drain = Process::start(bus.cli(&["drain", "--wait"]).stdout(Stdio::piped()));
    let draining = wait_for("the drain", || json::<Status>(&bus, &["status"]).draining);
    assert_eq!(draining, Draining { draining: true, instances: 2, timeout_ms: None });
    assert!(shown(&bus, &["status"]).contains("\ndraining       waits for 2 instances to leave\n"));
    check_fails(&mut bus.cli(&["pub", "a", "b"]), 4, "pipebus drain --cancel");
    check_fails(&mut bus.cli(&["sub", "a"]), 4, "being drained");
    // Who wants to hear others, too, is no visitor.
    check_fails(&mut bus.cli(&["sub", "$bus/events/**", "a"]), 4, "being drained");

    publisher.send(b"whoever is there goes on");
    subscriber.expect(1, b"whoever is there goes on");
    drop(publisher);
    wait_for("the publisher to be missed", || {
        json::<Status>(&bus, &["status"]).draining.filter(|draining| draining.instances == 1)
    });
    drop(subscriber);
    assert_eq!(bus.hand_over_broker().wait().code(), Some(0));
    let (code, said) = end(drain);
    assert!(code == Some(0) && said.starts_with("draining: nobody new is let in"), "{said}");
    assert!(bus.log().contains("drained: all have left"));
    drop(watcher);
}

#[test]
fn a_bus_on_which_nobody_else_is_ends_at_once() {
    let mut bus = TestBus::start();
    assert_eq!(json::<Draining>(&bus, &["drain"]).instances, 0);
    assert_eq!(bus.hand_over_broker().wait().code(), Some(0));
}

#[test]
fn a_drain_ends_when_its_time_is_over() {
    let mut bus = TestBus::start();
    let (mut stays, _) = RawClient::connect(&bus.place());
    let draining: Draining = json(&bus, &["drain", "--timeout", "300ms"]);
    assert!(draining.timeout_ms.is_some_and(|left| (1..=300).contains(&left)), "{draining:?}");
    assert_eq!(stays.hear(), Some(Control::LastCall));
    assert_eq!(stays.hear(), Some(Control::Goodbye { cause: Farewell::Shutdown }));
    assert_eq!(bus.hand_over_broker().wait().code(), Some(0));
    assert!(bus.log().contains("the time to drain is over, though some have not left"));
}

#[test]
fn a_drain_that_is_called_off_has_been_none() {
    let bus = TestBus::start();
    let _stays = RawClient::connect(&bus.place());
    let waiting = Process::start(bus.cli(&["drain", "--timeout", "1h", "--wait"]).stderr(Stdio::piped()));
    wait_for("the drain", || json::<Status>(&bus, &["status"]).draining);
    assert_eq!(shown(&bus, &["drain", "--cancel"]), "not draining: everybody is let in\n");
    let (code, said) = end(waiting);
    assert!(code == Some(1) && said.contains("called the drain off"), "{said}");
    assert!(bus.cli(&["pub", "a", "b"]).status().unwrap().success());
    assert_eq!(json::<Status>(&bus, &["status"]).draining, None);
    // There is nothing to call off, and that is no fault.
    assert!(!json::<Draining>(&bus, &["drain", "--cancel"]).draining);
    check_fails(&mut bus.cli(&["drain", "--cancel", "--wait"]), 2, "cannot be used with");
    check_fails(&mut bus.cli(&["request", "$bus/drain"]), 1, "timeout_ms");
    let for_ever = format!("{{\"timeout_ms\":{}}}", u64::MAX);
    shown(&bus, &["request", "$bus/drain", &for_ever]);
    shown(&bus, &["drain", "--cancel"]);
}

#[test]
fn whoever_waits_for_a_drain_may_go_and_the_broker_drains_on() {
    let mut bus = TestBus::start();
    let stays = RawClient::connect(&bus.place());
    let waiting = Process::start(bus.cli(&["drain", "--wait"]).stderr(Stdio::piped()).stdout(Stdio::null()));
    wait_for("the drain", || json::<Status>(&bus, &["status"]).draining);
    waiting.signal(Signal::INT);
    let (code, said) = end(waiting);
    assert!(code == Some(1) && said.contains("the broker drains on"), "{said}");
    drop(stays);
    assert_eq!(bus.hand_over_broker().wait().code(), Some(0));
}

/// It loses its connection, and comes back once it is let in again.
#[tokio::test]
async fn a_client_that_comes_back_waits_until_the_drain_is_over() {
    let bus = TestBus::start_with(&["queue.bytes_max=65536"]);
    let (publisher, subscriber) = (bus.client().await, bus.client().await);
    let mut slow = subscriber.subscribe_with("flood", Overflow::Disconnect).await.unwrap();
    let admin = Client::builder().visit(true).connect(&bus.address()).await.unwrap();
    let _stays = RawClient::connect(&bus.place());
    let drain = admin.request("$bus/drain", "{}", DEADLINE).await.unwrap();
    assert_eq!(drain.json::<Draining>().unwrap().instances, 3);

    let mut link = subscriber.link();
    let lost = async {
        while !matches!(*subscriber.link().borrow(), Link::Down { .. }) {
            publisher.publish("flood", vec![0; 10_000]).await.unwrap();
        }
    };
    soon("the slow one to be disconnected", lost).await;
    let refused = || bus.log().matches("refused a client").count();
    wait_until("it to try to come back, again and again", async || refused() >= 2).await;
    let anew = Client::connect(&bus.address()).await;
    assert!(matches!(&anew, Err(Error::Draining(text)) if text.contains("lets nobody new in")), "{anew:?}");

    admin.request("$bus/drain", r#"{"cancel":true}"#, DEADLINE).await.unwrap();
    soon("it to come back", link.wait_for(|link| matches!(link, Link::Up { .. }))).await.unwrap();
    let gap = async {
        loop {
            match slow.next().await {
                Some(Delivery::Gap(gap)) if gap.cause == GapCause::Reconnected => return,
                Some(_) => {}
                None => panic!("{:?}", slow.error()),
            }
        }
    };
    soon("its gap", gap).await;
}

/// What a supervisor is told: each part of it is a line.
#[test]
fn a_supervisor_is_told_of_each_reload_and_of_the_end() {
    let mut bus = TestBus::without_broker(&[]);
    let path = bus.scratch().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(DEADLINE)).unwrap();
    let told = || {
        let mut bytes = [0; 1000];
        let count = supervisor.recv(&mut bytes).unwrap();
        text(&bytes[..count]).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    bus.write_config(&file(""));
    let mut command = bus.broker_command();
    command.arg("--config").arg(bus.scratch().join("pipebus.toml")).env("NOTIFY_SOCKET", &path);
    bus.adopt_broker(&mut command);
    assert_eq!(told(), ["READY=1"]);
    let mut last = 0;
    let mut check_reload = || {
        let begins = told();
        let [reloading, time] = &begins[..] else { panic!("{begins:?}") };
        let time: u64 = time.strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(reloading == "RELOADING=1" && time > last, "{begins:?}");
        last = time;
        assert_eq!(told(), ["READY=1"]);
    };
    bus.broker().signal(Signal::HUP);
    check_reload();
    shown(&bus, &["reload"]);
    check_reload();
    // It is ready again after one that was wrong, too.
    bus.write_config("wrong");
    check_fails(&mut bus.cli(&["reload"]), 1, "wrong");
    check_reload();
    shown(&bus, &["drain"]);
    assert_eq!(told(), ["STOPPING=1"]);
    assert!(bus.hand_over_broker().wait().success());
}
