//! The door: who is let in, who is not and why, and that nobody can keep others out.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use pipebus_client::{Client, Error};
use pipebus_proto::control::{Control, Reason};
use pipebus_proto::frame::PROTOCOL_VERSION;
use pipebus_proto::knock::Knock;
use pipebus_tests::raw::{RawClient, make_fifo};
use pipebus_tests::{EVERYONE, OTHER_UID, Process, TestBus, as_user, can_change_user, command, soon, wait_for};

async fn connect(address: &str) -> Result<Client, Error> {
    soon("an answer", Client::connect(address)).await
}

#[tokio::test]
async fn without_a_broker_the_client_is_told_so_at_once() {
    let mut bus = TestBus::without_broker(&[]);
    let error = connect(&bus.address()).await.unwrap_err();
    assert!(matches!(error, Error::NoBroker { .. }), "no directory: {error}");
    bus.start_broker();
    bus.kill_broker();
    assert!(bus.place().door().exists());
    let error = connect(&bus.address()).await.unwrap_err();
    assert!(matches!(error, Error::NoBroker { .. }), "a door that a killed broker left: {error}");
}

#[tokio::test]
async fn a_door_that_a_killed_broker_left_is_taken_over() {
    let mut bus = TestBus::start();
    bus.kill_broker();
    bus.start_broker();
    bus.client().await.close().await.unwrap();
}

#[test]
fn a_second_broker_says_who_has_the_bus_and_leaves_it_alone() {
    let bus = TestBus::start();
    let mut second = bus.broker_command();
    let output = second.stderr(std::process::Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains(&format!("taken by the broker with pid {}", bus.broker().0.id())), "{text}");
    assert!(bus.place().door().exists() && bus.place().instances().exists());
    RawClient::connect(&bus.place());
}

#[test]
fn a_broker_that_ends_removes_what_it_made() {
    let mut bus = TestBus::start();
    assert!(bus.terminate_broker().wait().success());
    assert!(!bus.place().path().exists(), "{:?}", fs::read_dir(bus.place().path()).map(Iterator::count));
}

#[tokio::test]
async fn what_is_no_fifo_is_refused_on_both_sides() {
    let bus = TestBus::without_broker(&[]);
    fs::create_dir(bus.place().path()).unwrap();
    fs::write(bus.place().door(), "").unwrap();
    let error = connect(&bus.address()).await.unwrap_err();
    assert!(matches!(error, Error::NotFifo { .. }), "{error}");
    let mut broker = bus.broker_command();
    let output = broker.stderr(std::process::Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("is not a FIFO"), "{text}");
    assert_eq!(fs::read(bus.place().door()).unwrap(), b"", "and it is still there");
}

#[tokio::test]
async fn a_directory_that_others_can_write_or_replace_is_never_trusted() {
    let bus = TestBus::without_broker(&[]);
    let directory = bus.place().path().to_owned();
    let check = async |what: &str| {
        let error = connect(&bus.address()).await.unwrap_err();
        assert!(matches!(error, Error::Distrust(_)), "{what}: {error}");
        let mut broker = bus.broker_command();
        let output = broker.stderr(std::process::Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    };
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    check("writable by all").await;
    fs::remove_dir(&directory).unwrap();
    symlink(bus.scratch(), &directory).unwrap();
    check("a link").await;
    fs::remove_file(&directory).unwrap();
    fs::set_permissions(bus.scratch(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    check("replaceable").await;
    if can_change_user() {
        fs::set_permissions(bus.scratch(), fs::Permissions::from_mode(0o1777)).unwrap();
        std::os::unix::fs::chown(&directory, Some(OTHER_UID), Some(OTHER_UID)).unwrap();
        check("somebody else's, in a directory like /tmp").await;
    }
}

#[test]
fn another_user_is_kept_out_unless_the_door_is_open() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start();
    let status = as_user(&mut bus.cli(&["pub", "a", "b"]), OTHER_UID).output().unwrap();
    let text = String::from_utf8_lossy(&status.stderr).into_owned();
    assert_eq!(status.status.code(), Some(4), "{text}");
    assert!(text.contains("permission"), "{text}");
}

#[tokio::test]
async fn another_users_identity_is_what_the_kernel_says() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with(&EVERYONE);
    let client = bus.client().await;
    let mut subscription = client.subscribe("who").await.unwrap();
    let mut publisher = bus.cli(&["pub", "who", "me"]);
    let mut process = Process::start(as_user(&mut publisher, OTHER_UID));
    let delivery = soon("the message", subscription.next()).await.unwrap();
    let pipebus_client::Delivery::Message(message) = delivery else { panic!("{delivery:?}") };
    assert_eq!(message.sender().uid(), Some(OTHER_UID));
    assert!(process.wait().success());
    assert!(bus.log().contains(&format!("pid={}", process.0.id())), "its pid, from the lock on its FIFO");
    // Of the broker's own topics it gets none.
    let mut status = bus.cli(&["status"]);
    assert_eq!(as_user(&mut status, OTHER_UID).status().unwrap().code(), Some(4));
}

/// Knocks with something wrong, and sees that it leads nowhere while a good client gets in.
fn refused(bus: &TestBus, why: &str, client: &RawClient) {
    let before = bus.log().matches(why).count();
    client.knock();
    wait_for(&format!("the log to say {why:?}"), || (bus.log().matches(why).count() > before).then_some(()));
    RawClient::connect(&bus.place());
}

#[test]
fn fifos_that_are_not_what_they_should_be_are_refused() {
    let bus = TestBus::start_with(&EVERYONE);
    let place = bus.place();

    for mode in [0o644, 0o622, 0o666, 0o640 | 0o001] {
        let mut open_to_others = RawClient::without_fifos(&place);
        let (up, down) = open_to_others.paths();
        make_fifo(&up, mode);
        make_fifo(&down, 0o620);
        open_to_others.open();
        refused(&bus, "others may open it", &open_to_others);
    }

    let nothing = RawClient::without_fifos(&place);
    refused(&bus, "No such file", &nothing);

    for knocks_as_linked in [true, false] {
        let target = RawClient::prepare(&place);
        let linked = RawClient::without_fifos(&place);
        fs::hard_link(target.paths().0, linked.paths().0).unwrap();
        fs::hard_link(target.paths().1, linked.paths().1).unwrap();
        refused(&bus, "hard links", if knocks_as_linked { &linked } else { &target });
    }

    let target = RawClient::prepare(&place);
    let symbolic = RawClient::without_fifos(&place);
    symlink(target.paths().0, symbolic.paths().0).unwrap();
    symlink(target.paths().1, symbolic.paths().1).unwrap();
    refused(&bus, "symbolic links", &symbolic);

    let files = RawClient::without_fifos(&place);
    for path in [files.paths().0, files.paths().1] {
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    refused(&bus, "not a FIFO", &files);

    if can_change_user() {
        let stolen = RawClient::prepare(&place);
        std::os::unix::fs::chown(stolen.paths().1, Some(OTHER_UID), None).unwrap();
        fs::set_permissions(stolen.paths().1, fs::Permissions::from_mode(0o620)).unwrap();
        refused(&bus, "different owners", &stolen);
    }
}

#[test]
fn a_client_of_another_version_is_told_which() {
    let bus = TestBus::start();
    let mut client = RawClient::prepare(&bus.place());
    client.write_to_door(&Knock { version: 99, id: client.id }.encode());
    let Some(Control::Refused { reason: Reason::Version, text, .. }) = client.hear() else { panic!("not refused") };
    assert!(text.contains("99") && text.contains(&PROTOCOL_VERSION.to_string()), "{text}");
    assert_eq!(client.hear(), None);
    let mut client = RawClient::prepare(&bus.place());
    client.say(&Control::Hello { version: 98, name: "new".to_owned() });
    client.knock();
    assert!(matches!(client.hear(), Some(Control::Refused { reason: Reason::Version, .. })));
}

#[test]
fn a_client_that_says_no_hello_is_sent_away_and_holds_nobody_up() {
    let bus = TestBus::start_with(&["timeouts.handshake_ms=300"]);
    let mut silent = RawClient::prepare(&bus.place());
    silent.knock();
    let mut talks = RawClient::prepare(&bus.place());
    talks.write(&[7; 600]);
    talks.knock();
    RawClient::connect(&bus.place());
    assert!(matches!(talks.hear(), Some(Control::Refused { reason: Reason::Protocol, .. })));
    assert!(matches!(silent.hear(), Some(Control::Refused { reason: Reason::Protocol, .. })));
}

#[tokio::test]
async fn a_full_bus_says_so() {
    let bus = TestBus::start_with(&["limits.instances_max=2", "limits.instances_reserved=0"]);
    let (_first, _second) = (bus.client().await, bus.client().await);
    let error = connect(&bus.address()).await.unwrap_err();
    assert!(matches!(error, Error::Full(_)), "{error}");
    let bus = TestBus::start_with(&["limits.instances_per_user_max=1"]);
    let first = bus.client().await;
    let error = connect(&bus.address()).await.unwrap_err();
    assert!(matches!(error, Error::Full(_)), "{error}");
    first.close().await.unwrap();
    pipebus_tests::wait_until("the place of who left", async || connect(&bus.address()).await.is_ok()).await;
}

#[tokio::test]
async fn a_broker_without_file_descriptors_says_so_and_lives() {
    let mut bus = TestBus::without_broker(&[]);
    let wrapped = bus.broker_command();
    let mut limited = std::process::Command::new("prlimit");
    limited.arg("--nofile=40:40").arg(wrapped.get_program()).args(wrapped.get_args());
    limited.stderr(fs::File::options().create(true).append(true).open(bus.scratch().join("log")).unwrap());
    bus.adopt_broker(&mut limited);
    let mut clients = Vec::new();
    let error = loop {
        match connect(&bus.address()).await {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        assert!(clients.len() < 40);
    };
    assert!(matches!(error, Error::Exhausted(_)), "{error}");
    clients.pop().unwrap().close().await.unwrap();
    pipebus_tests::wait_until("room again", async || connect(&bus.address()).await.is_ok()).await;
}

#[test]
fn a_client_without_file_descriptors_says_so_at_whichever_it_lacks() {
    let bus = TestBus::start();
    // How many are enough depends on what this process has inherited and passes on. With too few for the runtime, that
    // is what fails; it is not tested here at which the programs themselves can't be started.
    let mut lacked = Vec::new();
    for limit in 8..64 {
        let mut limited = std::process::Command::new("prlimit");
        limited.arg(format!("--nofile={limit}:{limit}")).arg(pipebus_tests::binary("pipebus"));
        let output = limited.args(["--bus", &bus.address(), "pub", "a", "b"]).output().unwrap();
        if output.status.success() {
            break;
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{limit}: {text}");
        assert!(text.contains("Too many open files") && !text.contains("panicked"), "{limit}: {text}");
        lacked.push(text);
    }
    assert!((3..56).contains(&lacked.len()), "each file that it opens is one that it may lack: {lacked:?}");
}

#[test]
fn a_full_disk_is_named_on_both_sides() {
    if !can_change_user() {
        return;
    }
    // A file system with room for the bus, but not for one more client's FIFOs, in a namespace of its own.
    let bus = TestBus::without_broker(&[]);
    let script = r#"
        set -e
        mount -t tmpfs -o nr_inodes=7,mode=755 tmpfs "$1"
        "$2" --bus "$1/bus" 2>"$1/../full.log" &
        broker=$!
        for i in $(seq 1000); do grep -q listening "$1/../full.log" && break; sleep 0.01; done
        touch "$1/last" "$1/one" 2>/dev/null || true
        "$3" --bus "$1/bus" pub a b && code=0 || code=$?
        kill "$broker"; wait "$broker" || true
        exit "$code"
    "#;
    let mount = bus.scratch().join("small");
    fs::create_dir(&mount).unwrap();
    let mut shell = std::process::Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "bash", "-c", script, "story"]);
    let output =
        shell.arg(&mount).arg(pipebus_tests::binary("pipebusd")).arg(pipebus_tests::binary("pipebus")).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("No space left"), "{text}");
}

#[test]
fn fifos_of_clients_that_died_at_the_door_are_swept() {
    let bus = TestBus::without_broker(&[]);
    fs::create_dir(bus.place().path()).unwrap();
    fs::set_permissions(bus.place().path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(bus.place().instances()).unwrap();
    let (old, young) = (RawClient::without_fifos(&bus.place()), RawClient::without_fifos(&bus.place()));
    for path in [old.paths().0, old.paths().1, young.paths().0] {
        make_fifo(&path, 0o600);
    }
    for path in [old.paths().0, old.paths().1] {
        assert!(command_touch_old(&path));
    }
    let mut bus = bus;
    bus.start_broker();
    assert!(!old.paths().0.exists() && !old.paths().1.exists());
    assert!(young.paths().0.exists(), "its client may be about to knock");
}

fn command_touch_old(path: &std::path::Path) -> bool {
    std::process::Command::new("touch").args(["-d", "10 minutes ago"]).arg(path).status().unwrap().success()
}

#[test]
fn a_wrong_configuration_is_refused_with_the_file_and_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("my.toml");
    fs::write(&file, "[queue]\nbites_max = 5\n").unwrap();
    let output = command("pipebusd").arg("--config").arg(&file).arg("--check-config").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("my.toml") && text.contains("bites_max"), "{text}");
    let output = command("pipebusd").env("PIPEBUSD__QUEUE__BYTES_MAX", "12345").arg("--print-config").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("bytes_max = 12345"));
}
