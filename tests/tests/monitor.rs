//! `pipebus monitor`: what it shows of real traffic, in all its forms, and what Wireshark makes of its captures.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pipebus_client::{Client, Delivery};
use pipebus_proto::control::{Control, Overflow};
use pipebus_proto::frame::Flags;
use pipebus_tests::raw::{RawClient, frame};
use pipebus_tests::traffic::{Publisher, Subscriber, payload};
use pipebus_tests::wireshark::{CaptureFile, can_dissect, tshark};
use pipebus_tests::{
    DEADLINE, EVERYONE, OTHER_UID, Process, TestBus, as_user, binary, can_change_user, soon, wait_for, wait_until,
};
use rustix::process::Signal;

const MEBIBYTE: usize = 1 << 20;

/// The control frames that are recorded: not those that stand between the messages of a client.
const CONTROL_VARIANTS: [u32; 17] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 18, 19, 20, 21, 23];

/// Starts a monitor, and waits until all that it wants to see is seen.
fn monitor(bus: &TestBus, arguments: &[&str], wishes: usize) -> Process {
    let monitors = || bus.log().matches("role: Monitor(").count();
    let before = monitors();
    let mut command = bus.cli(&[&["monitor"], arguments].concat());
    let process = Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    wait_for("the monitor", || (monitors() >= before + wishes).then_some(()));
    process
}

/// What it has written once it has ended by itself.
fn output(mut process: Process) -> Output {
    let mut stderr = process.0.stderr.take().unwrap();
    let complaints = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| text).unwrap()
    });
    let mut stdout = Vec::new();
    process.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    Output { status: process.wait(), stdout, stderr: complaints.join().unwrap() }
}

/// Ends it as Ctrl-C does. Returns what it has written.
fn interrupt(process: Process) -> Output {
    process.signal(Signal::INT);
    let output = output(process);
    assert!(output.status.success(), "{output:?}");
    output
}

/// The lines that a process writes, as it writes them.
fn lines(process: &mut Process) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    receiver
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How many frames it says that it has seen, and how many that it has lost.
fn summary(output: &Output) -> (u64, u64) {
    let stderr = text(&output.stderr);
    let line = stderr.lines().find_map(|line| line.strip_prefix("-- ")?.strip_suffix(" lost")).expect(&stderr);
    let mut numbers = line.split(", ").map(|part| part.split(' ').next().unwrap().replace(',', ""));
    let mut next = || numbers.next().unwrap();
    let (seen, lost) = (next(), next());
    (seen.parse().unwrap(), if lost == "none" { 0 } else { lost.parse().unwrap() })
}

fn objects(output: &[u8]) -> Vec<serde_json::Value> {
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until nothing waits for monitors, so that they lose nothing of what comes next.
async fn settle(client: &Client) {
    wait_until("the monitors to keep up", async || {
        let instances = client.request("$bus/instances", "", DEADLINE).await.unwrap();
        let instances: Vec<serde_json::Value> = instances.json().unwrap();
        instances.iter().all(|instance| instance["name"] != "pipebus monitor" || instance["queued_bytes"] == 0)
    })
    .await;
}

async fn expect(subscription: &mut pipebus_client::Subscription, payload: &[u8]) {
    match soon("a message", subscription.next()).await {
        Some(Delivery::Message(message)) => assert!(message.payload == payload, "another message"),
        other => panic!("no message but {other:?}"),
    }
}

/// Messages small, with headers, lent and in fragments; requests that are answered, fail, are given up and reach nobody.
async fn messages_and_requests(bus: &TestBus) {
    let (thermometer, reader) = (bus.named_client("thermometer").await, bus.named_client("reader").await);
    let mut subscription = reader.subscribe("sensors/**").await.unwrap();
    let publisher = thermometer.publisher("sensors/kitchen/temp").unwrap();
    let headers = [("unit".to_owned(), "C".to_owned())];
    publisher.publish_with("21.5", &headers).await.unwrap();
    expect(&mut subscription, b"21.5").await;
    for bytes in [100_000, MEBIBYTE] {
        publisher.publish(payload(1, bytes)).await.unwrap();
        expect(&mut subscription, &payload(1, bytes)).await;
        settle(&reader).await;
    }
    let mut server = bus.named_client("server").await.serve("lamp/*").await.unwrap();
    let serve = async {
        soon("a request", server.next()).await.unwrap().reply("is on").await.unwrap();
        soon("a request", server.next()).await.unwrap().fail("the lamp is broken").await.unwrap();
        soon("a request", server.next()).await.unwrap()
    };
    let ask = async {
        assert_eq!(thermometer.request("lamp/on", "please", DEADLINE).await.unwrap().payload, "is on");
        thermometer.request("lamp/on", "again", DEADLINE).await.unwrap_err();
        thermometer.request("lamp/on", "and again", Duration::from_millis(1)).await.unwrap_err();
    };
    let (unanswered, ()) = tokio::join!(serve, ask);
    thermometer.request("nobody/home", "", DEADLINE).await.unwrap_err();
    thermometer.publish("$bus/mine", "").await.unwrap_err();
    thermometer.flush().await.unwrap();
    // Dropped, it says so to who does not wait any more.
    drop(unanswered);
    // Lent pages have been read.
    wait_for("pages to be released", || bus.log().contains("Consumed {").then_some(()));
    subscription.unsubscribe().await.unwrap();
    thermometer.close().await.unwrap();
}

/// A subscriber that loses messages, a message that has no end, and a sender that leaves.
async fn losses(bus: &TestBus) {
    let observer = bus.client().await;
    let mut slow = Subscriber::new(bus, "flood", Overflow::DropOldest);
    let mut publisher = Publisher::new(bus, "flood");
    for _ in 0..8 {
        for number in 0..16 {
            publisher.send(&payload(number, 60_000));
        }
        publisher.flush();
        settle(&observer).await;
    }
    while slow.lost == 0 {
        slow.next_message().unwrap();
    }
    let mut witness = Subscriber::new(bus, "begun", Overflow::Block);
    let beginner = Publisher::new(bus, "begun");
    beginner.client.write(&frame(beginner.id, beginner.topic, 1, Flags::MORE, b"the beginning"));
    wait_for("the beginning", || witness.client.next_frame().filter(|frame| frame.head.flags == Flags::MORE));
    beginner.client.say(&Control::Retract { topic: beginner.topic });
    assert!(matches!(witness.client.hear(), Some(Control::Abort { .. })));
    wait_for("the topic to go", || matches!(witness.client.hear(), Some(Control::TopicGone { .. })).then_some(()));
    let mut leaver = Publisher::new(bus, "begun");
    leaver.send(b"farewell");
    drop((leaver, beginner));
    wait_for("a sender to go", || matches!(witness.client.hear(), Some(Control::SenderGone { .. })).then_some(()));
}

/// What a change of the policy takes.
async fn revocation(bus: &TestBus) {
    let mut publisher = Publisher::new(bus, "secret");
    publisher.flush();
    bus.reload("[policy]\nrules = [{ who = ['any'], deny = ['publish'], topics = ['secret'] }, { who = ['any'], allow = ['all'] }]", "read anew");
    assert!(matches!(publisher.client.hear(), Some(Control::Revoked { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_all_that_can_be_said_is_dissected_to_the_last_frame() {
    if !can_dissect() {
        return;
    }
    let bus = TestBus::start_with_file("[policy]\nrules = [{ who = ['any'], allow = ['all'] }]");
    let path = bus.scratch().join("all.pcapng");
    let monitor = monitor(&bus, &["--pcapng", path.to_str().unwrap()], 2);
    messages_and_requests(&bus).await;
    losses(&bus).await;
    revocation(&bus).await;
    Publisher::new(&bus, "sensors/last").send(b"the last one");
    wait_for("all to be captured", || {
        fs::read(&path).unwrap().windows(12).any(|bytes| bytes == b"the last one").then_some(())
    });
    let output = interrupt(monitor);
    let (seen, lost) = summary(&output);
    assert_eq!((lost, output.stdout.len()), (0, 0), "{output:?}");

    let capture = CaptureFile(path);
    capture.check_sound();
    assert_eq!(capture.count("pipebus") as u64, seen);
    let told = capture.fields("pipebus.control", &["pipebus.control"]);
    let told: BTreeSet<u32> = told.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(told, CONTROL_VARIANTS.into());
    check_frames(&capture);
    check_large_message(&capture);
    let info = Command::new("capinfos").arg(&capture.0).output().unwrap();
    assert!(info.status.success(), "{info:?}");
    let info = text(&info.stdout);
    for line in ["USER 0", "nanoseconds (9)", &format!("Number of packets:   {seen}"), "Capture application: pipebus "]
    {
        assert!(info.contains(line), "{line}: {info}");
    }
}

/// The fields of what `messages_and_requests` and `losses` have sent.
fn check_frames(capture: &CaptureFile) {
    let rows = |filter: &str, names: &[&str]| -> Vec<String> {
        capture.fields(filter, names).iter().map(|row| row.join(" ")).collect()
    };
    let names = ["pipebus.topic", "pipebus.subscribers", "pipebus.dropped", "pipebus.header.value", "data.data"];
    let thermometer = "pipebus.sender.name == \"thermometer\"";
    let small = rows(&format!("{thermometer} && pipebus.headers == 1 && pipebus.kind == 2"), &names);
    assert_eq!(small, ["sensors/kitchen/temp 1 0 C 32312e35"]);
    let requests = rows(&format!("{thermometer} && pipebus.kind == 3 && pipebus.topic == \"lamp/on\""), &["data.data"]);
    assert_eq!(requests, ["706c65617365", "616761696e", "616e6420616761696e"]);
    let replies = rows("pipebus.kind == 4 && pipebus.sender.name == \"server\"", &["data.data", "pipebus.error"]);
    assert_eq!(replies, ["6973206f6e ", " the lamp is broken"]);
    assert!(capture.count("pipebus.flags.loaned == 1") >= 2);
    assert!(capture.count("pipebus.topic == \"flood\" && pipebus.dropped > 0") > 0);
    assert_eq!(capture.count("pipebus.unfinished && pipebus.topic == \"begun\""), 1);
    // What comes from clients is inbound, and the broker's are all from the sender 0.
    assert_eq!(capture.count("frame.packet_flags_direction == 1"), capture.count("pipebus.sender > 0"));
    let comments = rows(&format!("{thermometer} && pipebus.headers == 1 && pipebus.kind == 2"), &["frame.comment"]);
    let uid = rustix::process::geteuid().as_raw();
    assert!(
        comments[0].ends_with(&format!("thermometer (uid {uid}) -> 1 subscriber, 0 dropped: sensors/kitchen/temp"))
    );
}

/// All of it is put together, but for the few bytes at each fragment's end that do not fit a packet.
fn check_large_message(capture: &CaptureFile) {
    let large = format!("pipebus.reassembled_bytes == {MEBIBYTE}");
    let rows = capture.fields(&large, &["pipebus.fragment", "data.data"]);
    assert_eq!((rows.len(), rows[0][0].split(',').count()), (1, 4));
    let expected = payload(1, MEBIBYTE);
    let found: Vec<u8> =
        (0..rows[0][1].len()).step_by(2).map(|at| u8::from_str_radix(&rows[0][1][at..at + 2], 16).unwrap()).collect();
    assert_eq!(found.len(), MEBIBYTE);
    let missing = found.iter().zip(&expected).filter(|(found, expected)| found != expected);
    let missing: Vec<u8> = missing.map(|(found, _)| *found).collect();
    assert!(missing.len() < 4 * 512 && missing.iter().all(|byte| *byte == 0), "{} bytes are missing", missing.len());
    assert_eq!(capture.count(&format!("{large} && pipebus.cut")), 1);
}

/// tshark that shows the topic of each message of a capture as it comes.
fn live(capture: Stdio) -> Process {
    let mut command = tshark();
    command.args(["-l", "-i", "-", "-Y", "pipebus.kind == 2", "-T", "fields", "-e", "pipebus.topic"]);
    Process::start(command.stdin(capture).stdout(Stdio::piped()).stderr(Stdio::null()))
}

#[test]
fn a_capture_in_a_pipe_shows_each_frame_as_it_passes() {
    if !can_dissect() {
        return;
    }
    let bus = TestBus::start();
    let mut monitor = monitor(&bus, &["--pcapng", "-"], 2);
    let mut live = live(monitor.0.stdout.take().unwrap().into());
    let lines = lines(&mut live);
    let mut publisher = Publisher::new(&bus, "sensors/a");
    for _ in 0..3 {
        publisher.send(b"1");
        publisher.flush();
        assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "sensors/a");
    }
    // And when nobody reads any more, it ends like any filter.
    live.signal(Signal::INT);
    live.wait();
    assert!(monitor.wait().success());
}

#[test]
fn text_has_a_line_for_each_frame_and_its_payload() {
    let bus = TestBus::start();
    let monitor = monitor(&bus, &["a/**", "--payload", "text", "--bytes", "6", "--count", "4"], 1);
    let mut subscriber = Subscriber::new(&bus, "a/b", Overflow::Block);
    let mut publisher = Publisher::new(&bus, "a/b");
    for payload in [&b"21.5"[..], b"\x1b[2Jred", b"\xff", b""] {
        publisher.send(payload);
        subscriber.expect(publisher.sequence, payload);
    }
    let output = output(monitor);
    assert!(output.status.success(), "{output:?}");
    let stdout = text(&output.stdout);
    let uid = rustix::process::geteuid().as_raw();
    let sender = format!("{} raw (uid {uid})", publisher.id);
    // Without the time: what is behind the first two spaces.
    let lines: Vec<&str> = stdout.lines().map(|line| line.split_once("Z  ").unwrap().1).collect();
    let expected = [
        "#1, 4 bytes -> 1 subscriber  21.5",
        "#2, 7 bytes -> 1 subscriber  \\u{1b}[2Jre ...",
        "#3, 1 byte -> 1 subscriber  [1 bytes] ff",
        "#4, 0 bytes -> 1 subscriber",
    ];
    let expected: Vec<String> = expected.iter().map(|rest| format!("{sender:26}  message  a/b  {rest}")).collect();
    assert_eq!(lines, expected);
    assert_eq!(text(&output.stderr), "-- 4 frames seen, none lost\n");
}

#[test]
fn control_frames_are_shown_in_words() {
    let bus = TestBus::start();
    let mut monitor = monitor(&bus, &["--kind", "control"], 1);
    let (mut client, welcome) = RawClient::connect(&bus.place());
    client.subscribe("sensors/**", Overflow::Block);
    client.say(&Control::Ping { token: 7 });
    assert_eq!(client.hear(), Some(Control::Pong { token: 7 }));
    let mut words: Vec<String> = Vec::new();
    let lines = lines(&mut monitor);
    while words.last().is_none_or(|last| last != "pong 7") {
        let line = lines.recv_timeout(DEADLINE).unwrap();
        words.push(line.split_once("control  ").unwrap().1.to_owned());
    }
    let welcome = format!("welcome as client {} (broker {})", welcome.client, welcome.broker_version);
    for expected in
        ["hello from raw (version 1)", &welcome, "subscribe sensors/** (block) as 1", "subscribed 1", "ping 7"]
    {
        assert!(words.iter().any(|words| words == expected), "{expected}: {words:?}");
    }
    monitor.signal(Signal::INT);
    assert!(monitor.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_let_pass_what_they_say() {
    let bus = TestBus::start();
    let mut server = bus.client().await.serve("ask/**").await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = server.next().await {
            request.reply("a long answer").await.unwrap();
        }
    });
    let client = bus.client().await;
    let mut other = Publisher::new(&bus, "a/other");
    let other_id = other.id.to_string();
    let cases: &[(&[&str], &[&str])] = &[
        (&["a/*", "ask/**"], &["message a/one", "message a/two", "message a/other", "request ask/it", "reply ask/it"]),
        (&["a/one", "a/*"], &["message a/one", "message a/two", "message a/other"]),
        (&["a/two"], &["message a/two"]),
        (&["--kind", "reply"], &["reply ask/it"]),
        (&["--kind", "request", "--kind", "reply", "ask/**"], &["request ask/it", "reply ask/it"]),
        (&["--sender", &other_id, "--kind", "message"], &["message a/other"]),
        (&["a/**", "--min-size", "5"], &["message a/two"]),
        (&["a/**", "--max-size", "4", "--min-size", "4"], &["message a/one"]),
    ];
    for (arguments, expected) in cases {
        let wishes = arguments.iter().filter(|argument| argument.starts_with('a')).count().max(1);
        let count = expected.len().to_string();
        let monitor = monitor(&bus, &[*arguments, &["--json", "--count", &count]].concat(), wishes);
        client.publish("a/one", "1234").await.unwrap();
        client.publish("a/two", "12345").await.unwrap();
        client.flush().await.unwrap();
        other.send(b"");
        other.flush();
        client.request("ask/it", "", DEADLINE).await.unwrap();
        let output = output(monitor);
        // An answer may stand before its question, but the times tell.
        let mut objects = objects(&output.stdout);
        objects.sort_by_key(|object| object["time"].to_string());
        let seen: Vec<String> = objects
            .iter()
            .map(|object| format!("{} {}", object["kind"].as_str().unwrap(), object["topic"].as_str().unwrap()))
            .collect();
        assert_eq!(seen, *expected, "{arguments:?}");
    }
}

/// Publishes while nobody reads what a monitor writes, which nobody notices. Then it is read, until it has caught up.
fn flooded(form: &[&str]) -> Output {
    const MESSAGES: u64 = 500;
    let bus = TestBus::start();
    let mut monitor = monitor(&bus, &[&["flood"], form].concat(), 1);
    let mut quick = Subscriber::new(&bus, "flood", Overflow::Block);
    let mut publisher = Publisher::new(&bus, "flood");
    for number in 1..=MESSAGES {
        publisher.send(&payload(number, 20_000));
        quick.expect(number, &payload(number, 20_000));
    }
    let mut stdout = monitor.0.stdout.take().unwrap();
    let shown = Arc::new(Mutex::new(Vec::new()));
    let reader = std::thread::spawn({
        let shown = shown.clone();
        move || {
            let mut piece = vec![0; 65_536];
            while let Ok(bytes @ 1..) = stdout.read(&mut piece) {
                shown.lock().unwrap().extend_from_slice(&piece[..bytes]);
            }
        }
    });
    wait_for("the monitor to catch up", || {
        publisher.send(b"caught up");
        shown.lock().unwrap().windows(9).any(|bytes| bytes == b"caught up").then_some(())
    });
    monitor.signal(Signal::INT);
    let mut stderr = Vec::new();
    monitor.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    let status = monitor.wait();
    reader.join().unwrap();
    let stdout = std::mem::take(&mut *shown.lock().unwrap());
    Output { status, stdout, stderr }
}

/// Whether each frame has the number behind that of the one before, unless those between were lost: `(number, lost)`.
fn check_gaps(output: &Output, frames: &[(u64, u64)]) {
    let mut last = 0;
    for (number, lost) in frames {
        assert_eq!(*number, last + lost + 1);
        last = *number;
    }
    let all_lost: u64 = frames.iter().map(|(_, lost)| lost).sum();
    assert!(all_lost > 0 && output.status.success());
    assert_eq!(summary(output), (frames.len() as u64, all_lost));
}

#[test]
fn a_monitor_that_nobody_reads_holds_nobody_up_and_shows_where_it_has_lost_frames() {
    let output = flooded(&["--json"]);
    let (mut frames, mut lost) = (Vec::new(), 0);
    for object in objects(&output.stdout) {
        match object.get("gap") {
            Some(gap) => lost += gap["messages"].as_u64().unwrap(),
            None => frames.push((object["sequence"].as_u64().unwrap(), std::mem::take(&mut lost))),
        }
    }
    check_gaps(&output, &frames);
}

#[test]
fn a_capture_that_nobody_reads_says_in_which_packet_it_has_lost_frames() {
    if !can_dissect() {
        return;
    }
    let output = flooded(&["--pcapng", "-"]);
    let scratch = tempfile::tempdir().unwrap();
    let capture = CaptureFile(scratch.path().join("flood.pcapng"));
    fs::write(&capture.0, &output.stdout).unwrap();
    capture.check_sound();
    let rows = capture.fields("pipebus", &["pipebus.sequence", "pipebus.lost", "frame.drop_count"]);
    let number = |text: &str| if text.is_empty() { 0 } else { text.parse().unwrap() };
    let frames: Vec<(u64, u64)> = rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect();
    check_gaps(&output, &frames);
    assert!(rows.iter().all(|row| number(&row[1]) == number(&row[2])), "{rows:?}");
    let lost = summary(&output).1;
    let info = text(&Command::new("capinfos").arg(&capture.0).output().unwrap().stdout);
    assert!(info.contains("Number of stat entries = 1"), "{info}");
    let statistics = [&[5, 0, 8, 0][..], &lost.to_le_bytes()].concat();
    assert!(output.stdout.ends_with(&[&statistics[..], &[0, 0, 0, 0, 76, 0, 0, 0]].concat()));
}

#[test]
fn what_keeps_a_monitor_from_monitoring_is_said_with_an_exit_code() {
    let check = |command: &mut Command, code: i32, says: &str| {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {stderr}");
        assert!(stderr.contains(says), "{command:?}: {stderr}");
    };
    let bus = TestBus::start_with(&EVERYONE);
    check(&mut bus.cli(&["monitor", "a//b"]), 2, "empty segment at byte 2");
    check(&mut bus.cli(&["monitor", "--json", "--pcapng", "-"]), 2, "cannot be used with");
    check(&mut bus.cli(&["monitor", "--pcapng", "/nonexistent/x.pcapng"]), 1, "/nonexistent/x.pcapng");
    check(&mut bus.cli(&["monitor", "quiet", "--count", "1", "--timeout", "50ms"]), 5, "0 of 1");
    check(&mut bus.cli(&["monitor", "quiet", "--timeout", "50ms"]), 0, "0 frames seen, none lost");
    check(&mut TestBus::without_broker(&[]).cli(&["monitor"]), 3, "start one with: pipebusd --bus");
    if can_change_user() {
        check(as_user(&mut bus.cli(&["monitor"]), OTHER_UID), 4, "monitor");
    }
}

#[test]
fn a_capture_is_its_owners_only_and_is_not_written_to_a_terminal() {
    let bus = TestBus::start();
    let path = bus.scratch().join("private.pcapng");
    let path_text = path.to_str().unwrap();
    assert!(bus.cli(&["monitor", "--pcapng", path_text, "--timeout", "50ms"]).output().unwrap().status.success());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let in_a_terminal = format!("{} --bus {} monitor --pcapng -", binary("pipebus").display(), bus.address());
    let output =
        Command::new("script").args(["-qec", &in_a_terminal, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stdout).contains("a capture is not for a terminal"), "{output:?}");
}
