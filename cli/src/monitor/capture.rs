//! A capture: what passes on the bus as packets, for Wireshark and other programs that read pcapng.
//!
//! Each packet is a frame, head and body as on the wire, behind a header that says what the frame does not: who sent it
//! to which topic, and what became of it. contrib/wireshark/README.md has its bytes, contrib/wireshark/pipebus.lua reads
//! it. So each packet can be understood without those before it, of which a capture may not have all.

use std::time::SystemTime;

use pipebus_client::{Gap, Identity, InstanceId, Kind, Record};
use pipebus_proto::frame::HEAD_BYTES;
use pipebus_proto::place::Address;
use pipebus_proto::wire::encode_head;

use super::pcapng::{Direction, PACKET_BYTES_MAX, Packet, push_interface, push_packet, push_section, push_statistics};
use super::words::{receivers, sender, words};
use crate::format::escape;

/// The header's first byte; another means another header.
const HEADER_VERSION: u8 = 1;

/// What stands for a number of lost frames that nobody knows.
const UNKNOWN: u64 = u64::MAX;

/// What is to be known of a capture between its packets.
pub(crate) struct Capture {
    start: u64,
    /// What was lost since the last packet.
    lost_before: u64,
    /// Used again for each packet.
    header: Vec<u8>,
}

impl Capture {
    /// Appends what a capture begins with.
    pub(crate) fn begin(buffer: &mut Vec<u8>, bus: &Address) -> Capture {
        push_section(buffer, std::env::consts::OS, concat!("pipebus ", env!("CARGO_PKG_VERSION")));
        push_interface(buffer, &bus.to_string(), &format!("pipebus, the bus {bus}"));
        Capture { start: nanoseconds(SystemTime::now()), lost_before: 0, header: Vec::new() }
    }

    /// Appends a packet.
    pub(crate) fn push_record(&mut self, buffer: &mut Vec<u8>, record: &Record) {
        self.header.clear();
        push_header(&mut self.header, record, self.lost_before);
        let head = encode_head(&record.head);
        let before_body = self.header.len() + HEAD_BYTES;
        let body = &record.body[..record.body.len().min(PACKET_BYTES_MAX - before_body)];
        let packet = Packet {
            time: nanoseconds(record.time),
            bytes: before_body + record.head.body as usize,
            direction: if record.sender.id == InstanceId::BROKER { Direction::Out } else { Direction::In },
            lost: if self.lost_before == UNKNOWN { 0 } else { self.lost_before },
            comment: &comment(record),
        };
        push_packet(buffer, &packet, &[&self.header, &head, body]);
        self.lost_before = 0;
    }

    /// The next packet says so.
    pub(crate) fn note_gap(&mut self, gap: &Gap) {
        let lost = gap.messages.unwrap_or(UNKNOWN);
        self.lost_before = self.lost_before.saturating_add(lost);
    }

    /// Appends what a capture ends with.
    pub(crate) fn end(&self, buffer: &mut Vec<u8>, seen: u64, lost: u64) {
        push_statistics(buffer, self.start, nanoseconds(SystemTime::now()), seen, lost);
    }
}

/// Appends what the capture says of a frame.
fn push_header(header: &mut Vec<u8>, record: &Record, lost: u64) {
    header.extend_from_slice(&[HEADER_VERSION, 0, 0, 0]);
    let to = record.to.unwrap_or(InstanceId::BROKER);
    for number in [record.sender.id.0, to.0, record.subscribers, record.waiting, record.dropped] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(&lost.to_le_bytes());
    match &record.sender.identity {
        Identity::Unix { uid } => {
            header.extend_from_slice(&0u32.to_le_bytes());
            header.extend_from_slice(&uid.to_le_bytes());
        }
        Identity::Windows { sid } => {
            header.extend_from_slice(&1u32.to_le_bytes());
            push_text(header, sid);
        }
    }
    push_text(header, &record.sender.name);
    // Control frames have no topic: the one they are recorded on is the monitor's.
    push_text(header, if record.head.kind == Kind::Control { "" } else { record.topic.as_str() });
    let bytes = u16::try_from(header.len()).unwrap_or(u16::MAX).to_le_bytes();
    header[2..4].copy_from_slice(&bytes);
}

/// Names and topics come in control frames, which bounds them.
fn push_text(header: &mut Vec<u8>, text: &str) {
    header.extend_from_slice(&(text.len() as u64).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
}

/// What people read of a packet without a dissector.
fn comment(record: &Record) -> String {
    let text = format!("{} -> {}", sender(&record.sender), receivers(record));
    let text = match record.control() {
        Some(control) => format!("{text}: {}", words(&control)),
        None if record.head.kind == Kind::Control => text,
        None => format!("{text}, {} dropped: {}", record.dropped, record.topic),
    };
    let mut escaped = String::with_capacity(text.len());
    escape(&mut escaped, &text);
    escaped
}

/// Since 1970; enough until 2554.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NANOSECONDS, control, message, sender as sender_named};
    use super::*;
    use bytes::Bytes;
    use pipebus_client::{Control, GapCause};

    fn capture() -> Capture {
        let address: Address = "./bus".parse().unwrap();
        let mut buffer = Vec::new();
        let capture = Capture::begin(&mut buffer, &address);
        assert!(buffer.windows(5).any(|bytes| bytes == b"./bus"));
        capture
    }

    /// What is between the fixed fields of the block and its options, and the bytes that it had before it was cut.
    fn packet(capture: &mut Capture, record: &Record) -> (Vec<u8>, usize) {
        let mut buffer = Vec::new();
        capture.push_record(&mut buffer, record);
        let number = |at: usize| u32::from_le_bytes(buffer[at..at + 4].try_into().unwrap());
        assert_eq!(u64::from(number(12)) << 32 | u64::from(number(16)), NANOSECONDS);
        let captured = number(20) as usize;
        (buffer[28..28 + captured].to_vec(), number(24) as usize)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_packet_is_the_header_and_the_frame() {
        let mut record = message(b"21.5");
        (record.waiting, record.dropped) = (1, 2);
        let expected = "01 00 5700  0c000000 00000000 03000000 01000000 02000000 0000000000000000
             00000000 e8030000  0b00000000000000 746865726d6f6d65746572
             1400000000000000 73656e736f72732f6b69746368656e2f74656d70
             04000000 02 00 0000 07000000 0c000000 1100000000000000  32312e35";
        let (found, bytes) = packet(&mut capture(), &record);
        assert_eq!((hex(&found), bytes), (expected.replace([' ', '\n'], ""), found.len()));
    }

    #[test]
    fn a_control_frame_of_the_broker_has_a_receiver_and_no_topic() {
        let (found, _) = packet(&mut capture(), &control(&Control::Pong { token: 1 }, Some(12)));
        let expected = "01 00 3e00  00000000 0c000000 00000000 00000000 00000000 0000000000000000
             00000000 e8030000  0600000000000000 62726f6b6572  0000000000000000
             0c000000 01 00 0000 00000000 00000000 0000000000000000  12000000 0100000000000000";
        assert_eq!(hex(&found), expected.replace([' ', '\n'], ""));
    }

    #[test]
    fn an_account_of_windows_is_its_text() {
        let mut record = message(b"");
        let mut sender = (*sender_named(12, "")).clone();
        sender.identity = Identity::Windows { sid: "S-1".to_owned() };
        record.sender = sender.into();
        let (found, _) = packet(&mut capture(), &record);
        assert_eq!(hex(&found[32..47]), "010000000300000000000000532d31");
    }

    #[test]
    fn a_packet_is_never_larger_than_others_read_and_says_what_it_was() {
        let mut record = message(b"");
        record.body = Bytes::from(vec![7; 262_112]);
        record.head.body = 262_144;
        let (found, bytes) = packet(&mut capture(), &record);
        assert_eq!((found.len(), bytes), (PACKET_BYTES_MAX, 0x57 + 24 + 262_144));
    }

    #[test]
    fn the_packet_behind_a_gap_says_how_many_were_lost() {
        let mut capture = capture();
        let gap = |messages| Gap { messages, topic: None, cause: GapCause::Overflow };
        capture.note_gap(&gap(Some(3)));
        capture.note_gap(&gap(Some(4)));
        let mut lost = |gap: Option<Gap>| {
            if let Some(gap) = gap {
                capture.note_gap(&gap);
            }
            hex(&packet(&mut capture, &message(b"")).0[24..32])
        };
        assert_eq!(lost(None), "0700000000000000");
        assert_eq!(lost(None), "0000000000000000");
        assert_eq!(lost(Some(gap(None))), "ffffffffffffffff");
    }

    #[test]
    fn a_comment_says_what_became_of_the_frame() {
        let mut record = message(b"21.5");
        record.dropped = 1;
        assert_eq!(comment(&record), "12 thermometer (uid 1000) -> 3 subscribers, 1 dropped: sensors/kitchen/temp");
        let record = control(&Control::Ping { token: 9 }, None);
        assert_eq!(comment(&record), "12 thermometer (uid 1000) -> broker: ping 9");
    }
}
