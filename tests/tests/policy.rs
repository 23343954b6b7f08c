//! Who may do what: rules, their reload, their audit, and the question which of them decides.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::process::Output;

use pipebus_client::{Delivery, Error};
use pipebus_proto::admin::PolicyChecked;
use pipebus_proto::control::{Control, Farewell, Overflow, Purpose, Reason, Regarding, Role};
use pipebus_tests::raw::RawClient;
use pipebus_tests::traffic::{Publisher, Subscriber};
use pipebus_tests::{OTHER_UID, Process, TestBus, as_user, can_change_user, soon, wait_for};

const OWNER: &str = "{ name = 'owner', who = ['owner', 'root'], allow = ['all'] }";
const RELOADED: &str = "the policy and the limits are read anew";

/// A configuration that lets all knock, and has these rules after the owner's.
fn file(rules: &str) -> String {
    format!("[door]\naccess = 'everyone'\n[policy]\nrules = [{OWNER}, {rules}]\n")
}

fn as_other(bus: &TestBus, arguments: &[&str]) -> Output {
    as_user(&mut bus.cli(arguments), OTHER_UID).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_open_door_is_not_enough_without_a_rule() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with(&["door.access=everyone"]);
    let refused = as_other(&bus, &["pub", "a", "b"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(text(&refused.stderr).contains("policy.rules"), "{refused:?}");
    assert!(bus.cli(&["pub", "a", "b"]).status().unwrap().success());
}

#[test]
fn a_wide_subscription_gets_only_what_is_allowed() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with_file(&file(
        "{ who = ['any'], allow = ['connect'] }, { who = ['any'], allow = ['subscribe'], topics = ['sensors/**'] }",
    ));
    let mut all = Subscriber::with(RawClient::connect_as(&bus.place(), OTHER_UID), "**", Overflow::Block);
    let (mut secret, mut open) = (Publisher::new(&bus, "secrets/a"), Publisher::new(&bus, "sensors/a"));
    secret.send(b"secret");
    secret.flush();
    open.send(b"open");
    all.expect(1, b"open");
    let refused = as_other(&bus, &["sub", "secrets/**"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(text(&refused.stderr).contains("subscribe secrets/**"), "{refused:?}");
    let refused = as_other(&bus, &["pub", "sensors/a", "forged"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
}

#[test]
fn a_rule_for_a_group_is_for_its_members() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with_file(&file(
        "{ who = ['any'], allow = ['connect'] }, { who = ['group:nogroup'], allow = ['publish'], topics = ['a'] }",
    ));
    assert!(as_other(&bus, &["pub", "a", "b"]).status.success());
    let stranger = as_user(&mut bus.cli(&["pub", "a", "b"]), OTHER_UID - 1).output().unwrap();
    assert_eq!(stranger.status.code(), Some(4), "{stranger:?}");
}

#[tokio::test]
async fn a_reload_takes_from_those_who_are_connected_what_they_may_not_have_any_more() {
    let everything = "{ who = ['any'], allow = ['connect'] }".to_owned();
    let bus = TestBus::start_with_file(&file(&everything));
    let client = bus.client().await;
    let publisher = client.publisher("a").unwrap();
    let mut listener = client.subscribe("b/**").await.unwrap();
    publisher.publish("1").await.unwrap();
    client.flush().await.unwrap();

    let deny = "{ who = ['any'], deny = ['publish', 'subscribe'], topics = ['a', 'b/**'] }";
    let first = format!("[policy]\nrules = [{deny}, {OWNER}]\n");
    bus.reload(&first, RELOADED);
    let ended = soon("the end of the subscription", async {
        loop {
            match listener.next().await {
                Some(Delivery::Message(message)) => panic!("{message:?}"),
                Some(Delivery::Gap(_)) => {}
                None => return,
            }
        }
    });
    ended.await;
    let refused = soon("a refusal", publisher.publish("2")).await.unwrap_err();
    assert!(matches!(&refused, Error::Forbidden(text) if text.contains("rule 1")), "{refused}");
    client.publish("c", "3").await.unwrap();
    client.flush().await.unwrap();

    // And back: nobody has to connect anew.
    bus.reload(&file(&everything), RELOADED);
    publisher.publish("4").await.unwrap();
    client.flush().await.unwrap();
}

#[test]
fn a_reload_that_is_the_first_to_name_a_group_knows_who_is_in_it() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with_file(&file("{ who = ['any'], allow = ['connect', 'publish'] }"));
    let (member, stranger) = (OTHER_UID, OTHER_UID - 1);
    let mut member = Publisher::with(RawClient::connect_as(&bus.place(), member), "a");
    let (mut stranger, _) = RawClient::connect_as(&bus.place(), stranger);
    bus.reload(&file("{ who = ['group:nogroup'], allow = ['connect', 'publish'] }"), RELOADED);
    member.send(b"still");
    member.flush();
    assert!(matches!(stranger.hear(), Some(Control::Refused { reason: Reason::Forbidden, .. })));
    // And who leaves the rule is sent away, though it was there by a group.
    bus.reload(&file("{ who = ['group:nogroup'], deny = ['all'] }, { who = ['any'], allow = ['connect'] }"), RELOADED);
    assert!(matches!(member.client.hear(), Some(Control::Refused { reason: Reason::Forbidden, .. })));
}

#[test]
fn what_is_on_its_way_when_it_is_forbidden_goes_nowhere_and_its_sender_is_told() {
    let bus = TestBus::start_with_file(&file("{ who = ['any'], allow = ['connect'] }"));
    let mut subscriber = Subscriber::new(&bus, "**", Overflow::Block);
    let mut publisher = Publisher::new(&bus, "a");
    publisher.send(b"before");
    subscriber.expect(1, b"before");
    let deny = "{ who = ['any'], deny = ['publish'], topics = ['a'] }";
    bus.reload(&format!("[policy]\nrules = [{deny}, {OWNER}]\n"), RELOADED);
    publisher.send(b"after");
    publisher.client.say(&Control::Ping { token: 9 });
    let revoked = publisher.client.hear();
    let expected = (publisher.topic, Purpose::Publish);
    assert!(matches!(revoked, Some(Control::Revoked { topic, purpose, .. }) if (topic, purpose) == expected));
    assert_eq!(publisher.client.hear(), Some(Control::Pong { token: 9 }));
    let mut other = Publisher::new(&bus, "b");
    other.send(b"other");
    subscriber.expect(1, b"other");
}

#[test]
fn who_may_not_be_connected_any_more_is_told_and_sent_away() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with_file(&file("{ who = ['any'], allow = ['connect', 'subscribe'] }"));
    let (mut guest, _) = RawClient::connect_as(&bus.place(), OTHER_UID);
    let mut program = bus.cli(&["sub", "a"]);
    let mut program = Process::start(as_user(&mut program, OTHER_UID));
    wait_for("the program to connect", || (bus.log().matches("connected").count() >= 2).then_some(()));
    bus.reload(&file(""), RELOADED);
    let refused = guest.hear();
    let forbidden = Some((Regarding::Connection, Reason::Forbidden));
    let said = match refused {
        Some(Control::Refused { regarding, reason, .. }) => Some((regarding, reason)),
        _ => None,
    };
    assert_eq!(said, forbidden);
    assert_eq!(guest.hear(), Some(Control::Goodbye { cause: Farewell::Disconnected }));
    assert_eq!(guest.hear(), None);
    // It does not try again.
    assert_eq!(program.wait().code(), Some(4));
}

#[test]
fn a_wrong_configuration_changes_nothing() {
    let bus = TestBus::start_with_file(&file("{ who = ['any'], allow = ['connect'] }"));
    let mut publisher = Publisher::new(&bus, "a");
    for (rules, complaint) in [
        ("{ who = ['any'], allow = ['dance'] }", "dance"),
        ("{ who = ['user:no-such-user'], allow = ['all'] }", "no-such-user"),
        ("{ who = ['group:no-such-group'], deny = ['all'] }", "no-such-group"),
    ] {
        bus.reload(&file(rules), "nothing is read anew");
        assert!(bus.log().contains(complaint), "{complaint}");
    }
    publisher.send(b"still");
    publisher.flush();
    let elsewhere = format!("{}[timeouts]\nshutdown_ms = 1\n", file(""));
    bus.reload(&elsewhere, "restart_for=\"[timeouts]\"");
}

#[test]
fn policy_check_tells_which_rule_decides() {
    let bus = TestBus::start_with_file(&file(
        "{ who = ['any'], allow = ['connect'] }, \
         { name = 'no secrets', who = ['any'], deny = ['publish', 'subscribe'], topics = ['secrets/**'] }, \
         { who = ['user:nobody'], allow = ['subscribe', 'publish'] }",
    ));
    let check = |words: &[&str]| bus.cli(&[&["policy", "check"], words].concat()).output().unwrap();
    let allowed = check(&["--user", "nobody", "--action", "subscribe", "a/b"]);
    assert_eq!(allowed.status.code(), Some(0), "{allowed:?}");
    assert!(text(&allowed.stdout).starts_with("nobody may subscribe a/b, says rule 4:\n"), "{allowed:?}");
    let denied = check(&["--user", "nobody", "--action", "publish", "secrets/a"]);
    assert_eq!((denied.status.code(), &denied.stderr[..]), (Some(4), &b""[..]), "{denied:?}");
    let says = text(&denied.stdout);
    assert!(
        says.starts_with("nobody may not publish secrets/a, says rule 3:\n") && says.contains("no secrets"),
        "{says}"
    );
    let silent = check(&["--user", "12345", "--action", "serve", "a", "--json"]);
    let checked: PolicyChecked = serde_json::from_slice(&silent.stdout).unwrap();
    assert_eq!((silent.status.code(), checked.allowed, checked.rule), (Some(4), false, None));
    assert!(check(&["--user", "12345", "--action", "connect"]).status.success());
    // A pattern: is there anything that it would get?
    assert!(check(&["--user", "nobody", "--action", "subscribe", "**"]).status.success());
    assert_eq!(check(&["--user", "nobody", "--action", "subscribe", "secrets/**"]).status.code(), Some(4));
    let unknown = check(&["--user", "no-such-user", "--action", "connect"]);
    assert!(unknown.status.code() == Some(1) && text(&unknown.stderr).contains("no-such-user"), "{unknown:?}");
    assert_eq!(check(&["--user", "nobody", "--action", "publish"]).status.code(), Some(2));
    assert_eq!(check(&["--user", "nobody", "--action", "dance", "a"]).status.code(), Some(2));
}

#[test]
fn only_who_may_administer_asks_and_hears_the_broker() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with_file(&file(
        "{ who = ['any'], allow = ['connect', 'subscribe', 'request'] }, \
         { who = ['any'], allow = ['admin'], topics = ['$bus/status'] }",
    ));
    assert!(as_other(&bus, &["status"]).status.success());
    for words in [&["instances"][..], &["sub", "$bus/events/**"]] {
        let refused = as_other(&bus, words);
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");
        assert!(text(&refused.stderr).contains("admin $bus/"), "{refused:?}");
    }
}

#[test]
fn audited_decisions_are_logged_and_too_many_are_counted() {
    const TRIES: u32 = 500;
    let bus = TestBus::start_with_file(&format!(
        "[policy]\nrules = [\
         {{ who = ['any'], deny = ['publish'], topics = ['secrets/**'], audit = 'failure' }}, \
         {{ name = 'serving', who = ['any'], allow = ['serve'], audit = 'success' }}, {OWNER}]"
    ));
    let (mut client, _) = RawClient::connect(&bus.place());
    let pattern = "host/uptime".to_owned();
    client.say(&Control::Subscribe { subscription: 1, pattern, role: Role::Serve, overflow: Overflow::Block });
    assert_eq!(client.hear(), Some(Control::Subscribed { subscription: 1 }));
    client.say(&Control::Declare { token: 1, topic: "host/uptime".to_owned(), purpose: Purpose::Request });
    wait_for("the decision", || bus.log().contains("rule=\"rule 2 (serving)\"").then_some(()));
    for token in 0..TRIES {
        client.say(&Control::Declare { token, topic: "secrets/a".to_owned(), purpose: Purpose::Publish });
    }
    wait_for("the count", || bus.log().contains("left_out=").then_some(()));
    let log = bus.log();
    let of_audit: Vec<&str> = log.lines().filter(|line| line.contains("audit:")).collect();
    let denied = of_audit.iter().filter(|line| line.contains("denied") && line.contains("secrets/a")).count();
    let left_out =
        of_audit.iter().filter_map(|line| line.split("left_out=").nth(1)?.split(' ').next()?.parse::<usize>().ok());
    // Some may have come in the second before.
    assert!((15..=100).contains(&denied), "{denied} lines");
    assert!(denied + left_out.sum::<usize>() >= TRIES as usize, "{of_audit:#?}");
}
