//! What the bus needs in the file system is taken away under way: who is connected goes on, nobody fights, and new
//! clients come in again or the broker ends and says why.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use pipebus_client::{Client, Delivery, GapCause, Subscription};
use pipebus_tests::raw::{RawClient, make_fifo};
use pipebus_tests::{
    EVERYONE, OTHER_UID, Process, TestBus, as_user, binary, can_change_user, soon, wait_for, wait_until,
};

/// Two clients that were connected before something happened.
struct Pair {
    publisher: Client,
    subscription: Subscription,
    sent: u32,
}

impl Pair {
    async fn connect(bus: &TestBus) -> Pair {
        let (publisher, subscriber) = (bus.client().await, bus.client().await);
        let subscription = subscriber.subscribe("still/here").await.unwrap();
        Pair { publisher, subscription, sent: 0 }
    }

    /// A message still goes from one to the other, on the connections that they have.
    async fn goes_on(&mut self) {
        self.sent += 1;
        soon("publishing", self.publisher.publish("still/here", self.sent.to_string())).await.unwrap();
        match soon("a message", self.subscription.next()).await {
            Some(Delivery::Message(message)) => assert_eq!(message.payload, self.sent.to_string()),
            other => panic!("{other:?}"),
        }
    }

    /// They come back to another broker by themselves, and the subscriber is told.
    async fn comes_back(&mut self) {
        match soon("the gap", self.subscription.next()).await {
            Some(Delivery::Gap(gap)) => assert_eq!((gap.cause, gap.messages), (GapCause::Reconnected, None)),
            other => panic!("{other:?}"),
        }
        self.goes_on().await;
    }
}

async fn somebody_new_gets_in(bus: &TestBus) {
    let connects = async || Client::builder().timeout(std::time::Duration::from_secs(1)).connect(&bus.address()).await;
    wait_until("somebody new to get in", async || connects().await.is_ok()).await;
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|facts| facts.ino())
}

#[tokio::test]
async fn a_door_that_was_removed_is_made_anew_under_the_same_broker() {
    let bus = TestBus::start_with(&EVERYONE);
    let mut pair = Pair::connect(&bus).await;
    let aside = bus.scratch().join("aside");
    let ways: [&dyn Fn(&Path); 3] =
        [&|door| fs::remove_file(door).unwrap(), &|door| fs::rename(door, &aside).unwrap(), &|door| {
            fs::remove_file(door).unwrap();
            make_fifo(door, 0o600);
        }];
    for way in ways {
        way(&bus.place().door());
        pair.goes_on().await;
        somebody_new_gets_in(&bus).await;
        assert_eq!(fs::metadata(bus.place().door()).unwrap().mode() & 0o7777, 0o622, "for all whom it was for");
        pair.goes_on().await;
    }
    let mut bus = bus;
    assert!(bus.terminate_broker().wait().success());
    assert!(!bus.place().path().exists(), "what was made anew is removed like what was made at first");
}

#[tokio::test]
async fn who_knocked_on_a_door_before_it_was_removed_is_let_in() {
    let bus = TestBus::start();
    let mut late = RawClient::prepare(&bus.place());
    bus.broker().signal(rustix::process::Signal::STOP);
    late.say(&pipebus_proto::control::Control::Hello {
        version: pipebus_proto::frame::PROTOCOL_VERSION,
        name: "late".to_owned(),
    });
    late.knock();
    fs::remove_file(bus.place().door()).unwrap();
    bus.broker().signal(rustix::process::Signal::CONT);
    assert!(matches!(late.hear(), Some(pipebus_proto::control::Control::Welcome(_))));
    somebody_new_gets_in(&bus).await;
}

#[tokio::test]
async fn the_directory_for_clients_fifos_is_made_anew_under_the_same_broker() {
    let bus = TestBus::start();
    let mut pair = Pair::connect(&bus).await;
    let instances = bus.place().instances();
    let aside = bus.scratch().join("aside");
    for rename in [false, true, false] {
        let before = inode(&instances);
        if rename {
            fs::rename(&instances, &aside).unwrap();
        } else {
            fs::remove_dir_all(&instances).unwrap();
        }
        pair.goes_on().await;
        somebody_new_gets_in(&bus).await;
        let facts = fs::metadata(&instances).unwrap();
        assert_eq!((facts.mode() & 0o7777, facts.ino() == before.unwrap()), (0o3733, false));
        pair.goes_on().await;
    }
}

#[tokio::test]
async fn a_lock_that_was_removed_is_taken_again_so_that_no_second_broker_comes() {
    let bus = TestBus::start();
    let mut pair = Pair::connect(&bus).await;
    fs::remove_file(bus.place().lock()).unwrap();
    wait_until("the lock to be taken again", async || bus.log().contains("is locked again")).await;
    let output = bus.broker_command().stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains(&format!("pid {}", bus.broker().0.id())), "{text}");
    pair.goes_on().await;
}

#[tokio::test]
async fn a_broker_whose_place_another_has_taken_ends_and_leaves_it_alone() {
    let mut bus = TestBus::start();
    let mut pair = Pair::connect(&bus).await;
    // Stopped, it can't take its lock again before the other one comes.
    bus.broker().signal(rustix::process::Signal::STOP);
    fs::remove_file(bus.place().lock()).unwrap();
    let mut first = bus.hand_over_broker();
    bus.start_broker();
    first.signal(rustix::process::Signal::CONT);
    assert_eq!(first.wait().code(), Some(1));
    let says = format!("is taken by the broker with pid {}", bus.broker().0.id());
    assert!(bus.log().contains(&says), "{}", bus.log());
    pair.comes_back().await;
    somebody_new_gets_in(&bus).await;
    assert!(bus.place().lock().exists() && bus.place().door().exists() && bus.place().instances().exists());
}

/// The bus's directory is no longer what it was: the broker says so, says goodbye and ends, and the next one has all.
async fn directory_is_lost(lose: impl Fn(&TestBus)) {
    let mut bus = TestBus::start();
    let mut pair = Pair::connect(&bus).await;
    lose(&bus);
    pair.goes_on().await;
    let mut broker = bus.hand_over_broker();
    assert_eq!(broker.wait().code(), Some(1));
    let log = bus.log();
    assert!(log.contains("was removed, renamed or replaced while the broker ran"), "{log}");
    assert!(log.contains("shutting down") && log.contains("ended"), "in the usual steps: {log}");
    if bus.place().path().exists() {
        // The clients try again and again meanwhile; that there is no bus at all must not end them.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(fs::read_dir(bus.place().path()).unwrap().count(), 1, "what is another's is left alone");
        fs::remove_dir_all(bus.place().path()).unwrap();
    }
    bus.start_broker();
    pair.comes_back().await;
    somebody_new_gets_in(&bus).await;
}

#[tokio::test]
async fn a_broker_ends_when_its_directory_is_removed() {
    directory_is_lost(|bus| fs::remove_dir_all(bus.place().path()).unwrap()).await;
}

#[tokio::test]
async fn a_broker_ends_when_its_directory_is_renamed() {
    directory_is_lost(|bus| fs::rename(bus.place().path(), bus.scratch().join("aside")).unwrap()).await;
}

#[tokio::test]
async fn a_broker_ends_when_another_directory_is_in_the_place_of_its_own() {
    directory_is_lost(|bus| {
        fs::remove_dir_all(bus.place().path()).unwrap();
        fs::create_dir(bus.place().path()).unwrap();
        fs::write(bus.place().door(), "somebody's").unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_broker_ends_rather_than_remove_what_is_in_the_place_of_its_door() {
    let mut bus = TestBus::start();
    let mut pair = Pair::connect(&bus).await;
    fs::remove_file(bus.place().door()).unwrap();
    fs::write(bus.place().door(), "somebody's").unwrap();
    pair.goes_on().await;
    assert_eq!(bus.hand_over_broker().wait().code(), Some(1));
    assert!(bus.log().contains("is not a FIFO"), "{}", bus.log());
}

#[tokio::test]
async fn a_broker_whose_door_is_its_supervisors_ends_so_that_it_is_started_again() {
    let removals: [fn(&TestBus); 2] = [
        |bus| fs::remove_file(bus.place().door()).unwrap(),
        |bus| fs::remove_dir_all(bus.place().instances()).unwrap(),
    ];
    for remove in removals {
        let mut bus = TestBus::with_held_door();
        bus.start_broker();
        let mut pair = Pair::connect(&bus).await;
        remove(&bus);
        pair.goes_on().await;
        assert_eq!(bus.hand_over_broker().wait().code(), Some(1));
        assert!(bus.log().contains("it is not this broker's to make"), "{}", bus.log());
    }
}

/// A broker of an ordinary user, for whom permissions are more than a wish.
fn ordinary_users_bus() -> TestBus {
    let mut bus = TestBus::without_broker(&[]);
    fs::create_dir(bus.place().path()).unwrap();
    fs::set_permissions(bus.place().path(), fs::Permissions::from_mode(0o700)).unwrap();
    chown(bus.place().path(), Some(OTHER_UID), Some(OTHER_UID)).unwrap();
    let mut broker = bus.broker_command();
    bus.adopt_broker(as_user(&mut broker, OTHER_UID));
    bus
}

#[test]
fn permissions_that_are_taken_away_keep_out_who_is_new_and_nobody_else() {
    use std::io::{BufRead, BufReader, Write};
    if !can_change_user() {
        return;
    }
    let bus = ordinary_users_bus();
    let start = |arguments: &[&str]| {
        let mut command = bus.cli(arguments);
        Process::start(as_user(&mut command, OTHER_UID).stdin(Stdio::piped()).stdout(Stdio::piped()))
    };
    let publishes = || as_user(&mut bus.cli(&["pub", "new", "x"]), OTHER_UID).output().unwrap();
    let mut subscriber = start(&["sub", "load", "--format", "line"]);
    wait_for("the subscription", || bus.log().contains("Subscribe {").then_some(()));
    let mut publisher = start(&["pub", "load", "--lines"]);
    let mut lines = BufReader::new(subscriber.0.stdout.take().unwrap()).lines();
    let mut goes_on = |number: u32| {
        writeln!(publisher.0.stdin.as_mut().unwrap(), "{number}").unwrap();
        assert!(lines.next().unwrap().unwrap().contains(&number.to_string()));
    };
    goes_on(1);
    for (path, mode) in [(bus.place().path().to_owned(), 0o700), (bus.place().instances(), 0o3733)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let output = publishes();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{text}");
        assert!(text.contains("permission"), "{text}");
        goes_on(2);
        if mode == 0o700 {
            let said = || bus.log().matches("the bus's directory is not as it should be").count();
            wait_for("the broker to say so", || (said() > 0).then_some(()));
            assert_eq!(said(), 1, "once");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        wait_for("somebody new to get in", || publishes().status.success().then_some(()));
        goes_on(3);
    }
}

/// Run in a mount namespace of its own: `bash -c FULL_DISK story MOUNT PIPEBUSD PIPEBUS`.
const FULL_DISK: &str = r#"
    set -eu
    root=$1 pipebusd=$2 bus="$3 --bus $1/bus"
    mount -t tmpfs -o nr_inodes=100,size=64k,mode=755 tmpfs "$root"
    log=$root/../full.log
    wait_for() { for i in $(seq 3000); do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 0.01; done; echo "in vain: $*" >&2; exit 9; }
    "$pipebusd" --bus "$root/bus" --log debug 2>"$log" & broker=$!
    wait_for grep -q listening "$log"
    $bus sub load --format line >"$root/../got" & subscriber=$!
    wait_for grep -q "Subscribe {" "$log"
    mkfifo "$root/../lines"
    $bus pub load --lines <"$root/../lines" & publisher=$!
    exec 5>"$root/../lines"
    echo before >&5
    wait_for grep -q before "$root/../got"

    i=0; while touch "$root/fill$i" 2>/dev/null; do i=$((i+1)); done
    cat /dev/zero >"$root/fill0" 2>/dev/null || true
    if $bus pub a b 2>"$root/../refused"; then exit 8; fi
    grep -q "No space left" "$root/../refused"
    rm "$root/bus/bus"
    # Held open by the broker, it still takes its room; if not, this does.
    touch "$root/last" 2>/dev/null || true
    wait_for grep -q "No space left on device" "$log"
    echo meanwhile >&5
    wait_for grep -q meanwhile "$root/../got"

    rm "$root"/fill*
    wait_for $bus pub a b
    echo behind >&5
    wait_for grep -q behind "$root/../got"
    exec 5>&-
    wait $publisher
    kill $subscriber $broker
    wait $broker
"#;

#[test]
fn on_a_full_disk_who_is_connected_goes_on_and_new_clients_come_when_there_is_room() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::without_broker(&[]);
    let mount = bus.scratch().join("small");
    fs::create_dir(&mount).unwrap();
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "bash", "-c", FULL_DISK]);
    let output = shell.arg("story").arg(&mount).arg(binary("pipebusd")).arg(binary("pipebus")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let log = fs::read_to_string(bus.scratch().join("full.log")).unwrap_or_default();
    assert!(output.status.success(), "{}: {text}\n{log}", output.status);
}
