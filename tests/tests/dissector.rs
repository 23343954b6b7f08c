//! contrib/wireshark/pipebus.lua against the protocol: PROTOCOL.md's numbers and test vectors, and bytes that are none.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::collections::BTreeMap;

use pipebus_proto::frame::{Flags, HEAD_BYTES};
use pipebus_tests::traffic::Chance;
use pipebus_tests::wireshark::{CaptureFile, can_dissect, dissector};

const PROTOCOL: &str = include_str!("../../proto/PROTOCOL.md");

/// What each control frame among the vectors is in the list of packets.
const CONTROL_WORDS: &[(&str, &str)] = &[
    ("hello", "hello from thermometer (version 1)"),
    ("welcome", "welcome as client 3 (broker 0.1.0)"),
    ("refused-connection", "refused Connection (Protocol): no"),
    ("refused-declare", "refused Declare (Forbidden): no"),
    ("refused-subscription", "refused Subscription (Name): "),
    ("goodbye", "goodbye (Leaving)"),
    ("declare", "declare sensors/kitchen/temp to Publish as 5"),
    ("declared", "declared 5 is topic 7"),
    ("retract", "retract topic 7"),
    ("subscribe", "Subscribe sensors/*/temp (Latest) as 6"),
    ("subscribe-monitor", "Monitor sensors/** (DropOldest) as 6"),
    ("subscribed", "subscribed 6"),
    ("unsubscribe", "unsubscribe 6"),
    ("unsubscribed", "unsubscribed 6"),
    ("topic-info", "topic 7 is sensors/kitchen/temp"),
    ("topic-gone", "topic 7 is gone"),
    ("sender-info-unix", "sender 3 is thermometer"),
    ("sender-info-windows", "sender 3 is "),
    ("sender-gone", "sender 3 is gone"),
    ("gap", "gap of 1000 on topic 7"),
    ("abort", "abort of what 3 was sending"),
    ("ping", "ping 1234605616436508552"),
    ("pong", "pong 1234605616436508552"),
    ("request-failed", "request 42 failed (ServerGone)"),
    ("cancel", "cancel request 42"),
    ("consumed", "consumed messages of 3 up to 9"),
    ("released", "released 2 messages"),
    ("revoked", "revoked the right to Publish to topic 7: rule 3"),
    ("visit", "visit of status (version 1)"),
    ("last-call", "last call"),
];

/// The lines `name: hex bytes` of all blocks marked `vectors`, in their order.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let blocks = PROTOCOL.split("\n```vectors\n").skip(1).map(|block| block.split("\n```").next().unwrap());
    let lines = blocks.flat_map(str::lines).map(|line| line.split_once(':').unwrap());
    lines.map(|(name, hex)| (name, unhex(&hex.replace(' ', "")))).collect()
}

fn vector(name: &str) -> Vec<u8> {
    vectors().into_iter().find(|(found, _)| *found == name).unwrap().1
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// What a capture has before a frame, as contrib/wireshark/README.md says.
fn header(sender: u32, topic: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let numbers = [sender, 0, 3, 0, 1].map(u32::to_le_bytes).concat();
    let identity = [0, 1000].map(u32::to_le_bytes).concat();
    let behind = [numbers, 0u64.to_le_bytes().to_vec(), identity, text("thermometer"), text(topic)].concat();
    let bytes = u16::try_from(behind.len() + 4).unwrap().to_le_bytes();
    [&[1, 0][..], &bytes, &behind].concat()
}

/// Each whole frame among the vectors: name, bytes, and whether it is a control frame.
fn frames() -> Vec<(&'static str, Vec<u8>, bool)> {
    let no_frames = ["knock", "head-", "metadata-", "value"];
    let mut frames = Vec::new();
    for (name, bytes) in vectors() {
        let mut rest = &bytes[..];
        while !rest.is_empty() && !no_frames.iter().any(|prefix| name.starts_with(prefix)) {
            let body = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            let (frame, behind) = rest.split_at(HEAD_BYTES + body);
            frames.push((name, frame.to_vec(), frame[4] == 1));
            rest = behind;
        }
    }
    frames
}

fn packet(frame: &[u8]) -> Vec<u8> {
    let topic = if frame[4] == 1 { "" } else { "sensors/kitchen/temp" };
    let head_sender = u32::from_le_bytes(frame[12..16].try_into().unwrap());
    [header(if frame[4] == 1 { 3 } else { head_sender }, topic), frame.to_vec()].concat()
}

#[test]
fn every_control_frame_of_the_protocol_is_dissected_and_said_in_words() {
    if !can_dissect() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let control: Vec<_> = frames().into_iter().filter(|(_, _, is_control)| *is_control).collect();
    let packets: Vec<Vec<u8>> = control.iter().map(|(_, frame, _)| packet(frame)).collect();
    let capture = CaptureFile::of_packets(scratch.path(), &packets);
    capture.check_sound();
    let words: BTreeMap<&str, &str> = CONTROL_WORDS.iter().copied().collect();
    let rows = capture.fields("pipebus", &["pipebus.control", "pipebus.sender.name", "_ws.col.Info"]);
    assert_eq!(rows.len(), control.len());
    for ((name, frame, _), row) in control.iter().zip(rows) {
        let words =
            words.get(name).unwrap_or_else(|| panic!("{name} is new: contrib/wireshark needs it, and this test"));
        assert_eq!(row, [&frame[HEAD_BYTES].to_string(), "thermometer", words], "{name}");
    }
}

#[test]
fn every_field_of_a_control_frame_can_be_filtered_for() {
    if !can_dissect() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let packets: Vec<Vec<u8>> = frames().iter().map(|(_, frame, _)| packet(frame)).collect();
    let capture = CaptureFile::of_packets(scratch.path(), &packets);
    let expected = [
        ("pipebus.control.name == \"thermometer\" && pipebus.control.version == 1", 1),
        ("pipebus.control.client == 3 && pipebus.control.message_bytes_max == 16777216", 1),
        ("pipebus.control.broker_version == \"0.1.0\"", 1),
        ("pipebus.control.regarding == 1 && pipebus.control.token == 5", 1),
        ("pipebus.control.reason == 7 && pipebus.control.text == \"no\"", 1),
        ("pipebus.control.cause == 0", 1),
        ("pipebus.control && pipebus.topic == \"sensors/kitchen/temp\"", 2),
        ("pipebus.control.purpose == 0", 2),
        ("pipebus.control.subscription == 6", 6),
        ("pipebus.control.pattern == \"sensors/*/temp\" && pipebus.control.role == 0", 1),
        ("pipebus.control.overflow == 3", 1),
        ("pipebus.control.watch.sender == 3 && pipebus.control.watch.kinds == 0x0c", 1),
        ("pipebus.control.watch.capture_bytes == 64 && pipebus.control.watch.bytes_max == 4096", 1),
        ("pipebus.control && pipebus.topic_id == 7", 6),
        ("pipebus.control.uid == 1000", 1),
        ("pipebus.control.sid == \"S-1-5-18\"", 1),
        ("pipebus.control.sender == 3", 5),
        ("pipebus.control.messages == 1000", 1),
        ("pipebus.control.token == 0x1122334455667788", 2),
        ("pipebus.control && pipebus.correlation == 42", 2),
        ("pipebus.control.failure == 2", 1),
        ("pipebus.control.sequence == 9", 2),
        ("pipebus.control.count == 2", 1),
        ("pipebus.has_failed", 5),
    ];
    let filters = expected.map(|(filter, _)| filter);
    let found: Vec<_> = filters.into_iter().zip(capture.counts(&filters)).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_filter_that_the_readme_recommends_is_one() {
    if !can_dissect() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let packets: Vec<Vec<u8>> = frames().iter().map(|(_, frame, _)| packet(frame)).collect();
    let capture = CaptureFile::of_packets(scratch.path(), &packets);
    let readme = std::fs::read_to_string(dissector().with_file_name("README.md")).unwrap();
    let (_, table) = readme.split_once("| To see | Display filter |\n").unwrap();
    let rows = table.split("\n\n").next().unwrap().replace("\\|", "|");
    let filters: Vec<&str> = rows.split('`').skip(1).step_by(2).collect();
    assert_eq!(capture.counts(&filters).len(), filters.len());
    assert!(filters.len() >= 10, "{filters:?}");
}

#[test]
fn messages_are_dissected_with_their_metadata_and_put_together() {
    if !can_dissect() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let messages: Vec<Vec<u8>> = frames().iter().filter(|frame| !frame.2).map(|frame| packet(&frame.1)).collect();
    let capture = CaptureFile::of_packets(scratch.path(), &messages);
    capture.check_sound();
    let names = ["pipebus.kind", "pipebus.sender", "pipebus.sequence", "pipebus.flags", "data.data"];
    let expected = [
        "2 3 1 0x00 32312e35",
        "2 3 2 0x00 32312e35",
        "2 3 3 0x02 616263",
        "2 3 3 0x03 64656667",
        "2 3 3 0x01 6162636465666768",
        "3 3 4 0x00 6f6e",
        "4 4 1 0x00 6f6b",
        "4 4 2 0x04 ",
        "5 3 1 0x00 3231",
        "5 3 0 0x00 110000008877665544332211",
        "5 4 1 0x00 ",
    ];
    let rows: Vec<String> = capture.fields("pipebus", &names).iter().map(|row| row.join(" ")).collect();
    assert_eq!(rows, expected);
    let first = |filter, names: &[&str]| capture.fields(filter, names).remove(0).join(" ");
    assert_eq!(first("pipebus.headers == 1", &["pipebus.header.name", "pipebus.header.value"]), "unit C");
    assert_eq!(first("pipebus.kind == 3", &["pipebus.requester", "pipebus.correlation"]), "3 42");
    assert_eq!(first("pipebus.flags.failed == 1", &["pipebus.error"]), "the lamp is broken");
    assert_eq!(first("pipebus.reassembled_bytes == 8", &["pipebus.fragment"]), "3,4,5");
    assert_eq!(capture.count("pipebus.reassembled_in == 5"), 2);
    let record = ["pipebus.record.kind", "pipebus.record.subscribers", "pipebus.record.waiting", "pipebus.record.time"];
    assert_eq!(first("pipebus.record.body_bytes == 4", &record), "2 2 1 1700000000123456789");
    let of_capture = ["pipebus.subscribers", "pipebus.dropped", "pipebus.sender.uid", "pipebus.topic", "_ws.col.Info"];
    let expected = "3 1 1000 sensors/kitchen/temp Message sensors/kitchen/temp #1, 4 bytes";
    assert_eq!(first("pipebus.sequence == 1 && pipebus.sender == 3", &of_capture), expected);
}

#[test]
fn what_the_broker_answers_is_json() {
    if !can_dissect() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut frame = vector("reply");
    frame.splice(HEAD_BYTES + 21.., *br#"{"pid":7}"#);
    frame[0] = 21 + 9;
    let capture = CaptureFile::of_packets(scratch.path(), &[[header(0, "$bus/status"), frame].concat()]);
    capture.check_sound();
    assert_eq!(capture.count("json.key == \"pid\" && pipebus.correlation == 42"), 1);
}

#[test]
fn what_nobody_may_send_is_marked() {
    if !can_dissect() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = vector(name);
        change(&mut frame);
        packet(&frame)
    };
    let loaned_and_failed = Flags::LOANED.with(Flags::FAILED).0;
    let packets = [
        changed("message", &|frame| frame[4] = 9),
        changed("message", &|frame| frame[5] = loaned_and_failed),
        changed("message", &|frame| frame[6] = 5),
        changed("message", &|frame| frame[6] = 4),
        changed("message", &|frame| frame.push(0)),
        changed("message", &|frame| frame.truncate(27)),
        changed("request", &|frame| frame[6] = 0),
        changed("request", &|frame| frame[24] = 2),
        changed("ping", &|frame| frame[8] = 1),
        changed("ping", &|frame| (frame[0], _) = (13, frame.push(0))),
        changed("ping", &|frame| (frame[0], _) = (11, frame.pop())),
        changed("hello", &|frame| frame[40] = 0xff),
        changed("hello", &|frame| frame[30] = 12),
        changed("hello", &|frame| frame[37] = 1),
        changed("released", &|frame| frame[35] = 1),
        packet(&vector("message"))[..3].to_vec(),
        packet(&vector("message"))[..40].to_vec(),
        [&[2][..], &packet(&vector("message"))[1..]].concat(),
    ];
    let capture = CaptureFile::of_packets(scratch.path(), &packets);
    capture.check_none("!pipebus.malformed");
    let later = [changed("ping", &|frame| frame[24] = 99), changed("goodbye", &|frame| frame[28] = 99)];
    let capture = CaptureFile::of_packets(scratch.path(), &later);
    capture.check_sound();
    assert_eq!(capture.count("pipebus.unknown"), 2);
}

#[test]
fn no_bytes_make_the_dissector_fail() {
    if !can_dissect() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut chance = Chance(7);
    let mut next = |below: usize| chance.below(below);
    let frames = frames();
    let packets: Vec<Vec<u8>> = (0..3000)
        .map(|_| {
            let mut packet = packet(&frames[next(frames.len())].1);
            for _ in 0..1 + next(4) {
                let at = next(packet.len());
                packet[at] = next(256) as u8;
            }
            packet.truncate(1 + next(2 * packet.len()));
            packet
        })
        .collect();
    let capture = CaptureFile::of_packets(scratch.path(), &packets);
    assert_eq!(capture.count("frame"), packets.len());
    capture.check_none("!frame");
    assert!(capture.count("pipebus.malformed") > 1000 && capture.count("!pipebus.malformed") > 100);
}

#[test]
fn the_dissector_has_the_numbers_of_the_protocol() {
    let script = std::fs::read_to_string(dissector()).unwrap();
    let names_of = |list: &str| -> Vec<String> {
        let (_, behind) = script.split_once(&format!("\nlocal {list} = from_zero {{")).expect(list);
        let (inside, _) = behind.split_once('}').unwrap();
        inside.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    };
    for (list, title) in [
        ("REGARDING", "Regarding"),
        ("REASON", "Reason"),
        ("FAREWELL", "Farewell"),
        ("PURPOSE", "Purpose"),
        ("ROLE", "Role"),
        ("OVERFLOW", "Overflow"),
        ("IDENTITY", "Identity"),
        ("FAILURE", "Failure"),
    ] {
        let (_, section) = PROTOCOL.split_once(&format!("\n### {title}\n")).expect(title);
        let rows = section.split("\n#").next().unwrap().lines().filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            cells.next()?.parse::<u32>().ok()?;
            cells.next().map(str::to_owned)
        });
        assert_eq!(names_of(list), rows.collect::<Vec<_>>(), "{title}: contrib/wireshark/pipebus.lua has others");
    }
    for (number, name) in names_of("CONTROL_NAMES").iter().enumerate() {
        assert!(PROTOCOL.contains(&format!("\n### {number}: {name}\n")), "{number}: {name}");
    }
    let next = names_of("CONTROL_NAMES").len();
    assert!(
        !PROTOCOL.contains(&format!("\n### {next}: ")),
        "control variant {next} is new: contrib/wireshark needs it"
    );
}
