//! What only Windows has: whose the pipe is and who may use it, names that others have taken, and instances.

#![cfg(windows)]
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::process::Stdio;
use std::time::Duration;

use pipebus_client::{Client, Error};
use pipebus_conformance::raw::Raw;
use pipebus_conformance::{Bus, DEADLINE, command, next, run, soon, text, wait_for, wait_until};
use pipebus_windows::descriptor::{Descriptor, Entry, USE_PIPE};
use pipebus_windows::{account, pipe};

fn descriptor(bus: &Bus) -> Descriptor {
    let pipe = wait_for("an instance", || pipe::open(bus.address()).ok());
    Descriptor::of(&pipe).unwrap()
}

/// Starts a broker that must not come up. Returns its exit code and what it says.
fn fails(bus: &Bus, setting: &str) -> (Option<i32>, String) {
    let output = run(bus.broker_command().args(["--set", setting]).stderr(Stdio::piped()));
    (output.status.code(), text(&output.stderr))
}

#[tokio::test]
async fn every_instance_has_the_same_protected_descriptor_of_its_owner() {
    let bus = Bus::start_with(&["door.access=everyone"]);
    let own = account::own().unwrap().sid;
    let everything = |sid: &str| (true, sid.to_owned());
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(Raw::open(&bus).await);
        let descriptor = descriptor(&bus);
        assert!(descriptor.is_protected().unwrap());
        assert_eq!(descriptor.owner().unwrap(), Some(own.clone()));
        let entries = descriptor.entries().unwrap().unwrap();
        let all: Vec<_> = entries.iter().map(|entry| (entry.allows, entry.sid.clone())).collect();
        assert_eq!(all, [everything(account::SYSTEM), everything(&own), everything("S-1-5-11")]);
        assert_eq!(entries[2].rights, USE_PIPE, "who may use it may not make instances of it");
    }
}

#[tokio::test]
async fn what_the_configuration_says_of_the_descriptor_counts() {
    let own = account::own().unwrap().sid;
    let bus = Bus::start_with(&[&format!("door.security=O:{own}D:P(A;;GA;;;{own})(A;;0x12019b;;;S-1-5-32-545)")]);
    let entries = descriptor(&bus).entries().unwrap().unwrap();
    let expected = Entry { allows: true, rights: USE_PIPE, sid: "S-1-5-32-545".to_owned() };
    assert_eq!((entries.len(), &entries[1]), (2, &expected));
    bus.client().await.publish("a", "b").await.unwrap();
}

#[tokio::test]
async fn several_instances_wait_with_the_buffers_that_are_configured() {
    let bus = Bus::start_with(&["door.buffer_bytes=8192"]);
    let pipe = wait_for("an instance", || pipe::open(bus.address()).ok());
    let facts = || pipe::facts(&pipe).unwrap();
    wait_for("instances to wait", || (facts().instances > 8).then_some(()));
    assert_eq!((facts().in_bytes, facts().out_bytes, facts().instances_max), (8192, 8192, None));
    for wrong in ["door.buffer_bytes=0", "door.buffer_bytes=99999999"] {
        let (code, said) = fails(&bus, wrong);
        assert!(code == Some(2) && said.contains("door.buffer_bytes"), "{said}");
    }
}

#[test]
fn a_wrong_descriptor_or_a_group_that_is_none_is_told() {
    let bus = Bus::without_broker(&[]);
    for wrong in ["D:P(A;;GA", "everybody", "O:SY"] {
        let (code, said) = fails(&bus, &format!("door.security={wrong}"));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("door.security") && said.contains(wrong) && said.contains("say, for example"), "{said}");
    }
    let (code, said) = fails(&bus, "policy.rules=[{who=['group:no-such-group'],allow=['all']}]");
    assert!(code == Some(2) && said.contains("no-such-group"), "{said}");
}

#[tokio::test]
async fn rules_speak_of_accounts_and_groups_by_their_names_and_identifiers() {
    let own = account::own().unwrap();
    let rule = |who: &str| format!("policy.rules=[{{who=['{who}'],allow=['all']}}]");
    let name = account::name_of(&own.sid);
    for who in [format!("user:{name}"), format!("user:{}", own.sid), format!("group:{}", own.groups[0])] {
        let bus = Bus::start_with(&[&rule(&who)]);
        bus.client().await.publish("a", "b").await.unwrap();
    }
    for nobody in ["user:S-1-5-21-9-9-9-9", "group:S-1-5-21-9-9-9-9", "root"] {
        let bus = Bus::start_with(&[&rule(nobody)]);
        let refused = Client::connect(bus.address()).await.unwrap_err();
        assert!(matches!(refused, Error::Forbidden(_)), "{nobody}: {refused:?}");
    }
}

#[tokio::test]
async fn a_name_that_somebody_else_has_is_left_alone() {
    let bus = Bus::without_broker(&[]);
    let theirs = Descriptor::parse("D:P(A;;GA;;;WD)").unwrap();
    let instance = pipe::Instance { first: true, remote: false, buffer_bytes: 4096, descriptor: &theirs };
    let server = instance.create(bus.address()).unwrap();
    let (code, said) = fails(&bus, "log.filter=info");
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains(bus.address()) && said.contains(&format!("process {}", std::process::id())), "{said}");
    // It is still there for others, who are not taken in.
    drop(server);
    let server = instance.create(bus.address()).unwrap();
    let client = Client::builder().timeout(Duration::from_millis(500)).connect(bus.address());
    let error = client.await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. } | Error::Distrust(_)), "{error:?}");
    drop(server);
}

#[tokio::test]
async fn who_says_nothing_keeps_no_instance() {
    let bus = Bus::start();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Raw::open(&bus).await);
    }
    // More than may be silent at once, so some had to go; and whoever speaks is served all the same.
    let client = bus.client().await;
    let mut subscription = client.subscribe("a").await.unwrap();
    client.publish("a", "b").await.unwrap();
    next(&mut subscription).await;
    let begun = tokio::time::Instant::now();
    for raw in &mut silent {
        assert!(raw.is_closed().await);
    }
    assert!(begun.elapsed() < DEADLINE);
}

#[tokio::test]
async fn a_client_that_reads_nothing_when_it_is_sent_away_keeps_no_instance() {
    let bus = Bus::start();
    let (mut raw, welcome) = Raw::connect(&bus).await;
    let client = bus.client().await;
    assert!(run(&mut bus.cli(&["disconnect", &welcome.client.0.to_string()])).status.success());
    let instances = async || bus.status(&client).await["instances"].clone();
    wait_until("the instance to be gone", async || instances().await == 1).await;
    soon("the end", raw.is_closed()).await;
}

#[tokio::test]
async fn the_configuration_of_a_system_bus_lets_users_in() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/system-windows.toml");
    let configuration = std::fs::read_to_string(file).unwrap();
    // Of the story's user, Wine says that it is in this group, and not among the machine's users.
    let group = account::own().unwrap().groups.into_iter().find(|group| group.starts_with("S-1-5-21-")).unwrap();
    let mut bus = Bus::without_broker(&[]);
    let config = bus.scratch().join("system.toml");
    // It is also the owner and an administrator, who may do everything.
    let text = configuration.replace("S-1-5-32-545", &group).replace(r#""owner", "#, "");
    let text = text.replace("S-1-5-32-544", "S-1-5-21-9-9-9-9");
    assert_ne!(text, configuration);
    std::fs::write(&config, text).unwrap();
    bus.start_broker_with(&["--config", config.to_str().unwrap()]);
    let client = bus.client().await;
    let mut subscription = client.subscribe("a").await.unwrap();
    client.publish("a", "b").await.unwrap();
    next(&mut subscription).await;
    let refused = client.publish("system/a", "b").await.unwrap_err();
    assert!(matches!(refused, Error::Forbidden(_)), "{refused:?}");
}

#[test]
fn what_is_for_another_system_is_told() {
    let bus = Bus::without_broker(&[]);
    let (code, said) = fails(&bus, "log.format=journald");
    assert!(code == Some(2) && said.contains("journal"), "{code:?} {said}");
    let output = run(command("pipebusd").args(["--bus", "./bus"]));
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains(r"\\.\pipe\NAME"), "{said}");
    let output = run(command("pipebus").args(["--bus", "./bus", "status"]));
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains(r"\\.\pipe\NAME"), "{said}");
}
