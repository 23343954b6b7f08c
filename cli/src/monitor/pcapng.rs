//! pcapng: the blocks of a capture file, as draft-ietf-opsawg-pcapng describes them.
//!
//! Not what packets consist of, which is in [`super::capture`].

/// What programs that read captures take as the largest packet.
pub(crate) const PACKET_BYTES_MAX: usize = 262_144;

/// LINKTYPE_USER0: what is in packets is for their makers to say.
const LINK_TYPE: u16 = 147;

/// How many digits of a second times have: nanoseconds.
const TIME_DIGITS: u8 = 9;

/// The one interface of a capture.
const INTERFACE: u32 = 0;

/// Appends a Section Header Block, with which a capture begins.
pub(crate) fn push_section(buffer: &mut Vec<u8>, system: &str, application: &str) {
    push_block(buffer, 0x0a0d_0d0a, |buffer| {
        push_u32(buffer, 0x1a2b_3c4d);
        push_u16(buffer, 1);
        push_u16(buffer, 0);
        // How long the section is, is not known.
        buffer.extend_from_slice(&u64::MAX.to_le_bytes());
        push_option(buffer, 3, system.as_bytes());
        push_option(buffer, 4, application.as_bytes());
        push_option(buffer, 0, b"");
    });
}

/// Appends an Interface Description Block: where the packets come from.
pub(crate) fn push_interface(buffer: &mut Vec<u8>, name: &str, description: &str) {
    push_block(buffer, 1, |buffer| {
        push_u16(buffer, LINK_TYPE);
        push_u16(buffer, 0);
        push_u32(buffer, PACKET_BYTES_MAX as u32);
        push_option(buffer, 2, name.as_bytes());
        push_option(buffer, 3, description.as_bytes());
        push_option(buffer, 9, &[TIME_DIGITS]);
        push_option(buffer, 0, b"");
    });
}

/// What stands around a packet.
pub(crate) struct Packet<'a> {
    /// In nanoseconds since 1970.
    pub(crate) time: u64,
    /// What it had before it was cut.
    pub(crate) bytes: usize,
    pub(crate) direction: Direction,
    /// So many were lost between the packet before and this one.
    pub(crate) lost: u64,
    pub(crate) comment: &'a str,
}

/// Where a packet goes, seen from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In = 1,
    Out = 2,
}

/// Appends an Enhanced Packet Block with `data` in it.
pub(crate) fn push_packet(buffer: &mut Vec<u8>, packet: &Packet<'_>, data: &[&[u8]]) {
    push_block(buffer, 6, |buffer| {
        push_u32(buffer, INTERFACE);
        push_time(buffer, packet.time);
        let captured: usize = data.iter().map(|part| part.len()).sum();
        push_u32(buffer, captured as u32);
        push_u32(buffer, packet.bytes as u32);
        data.iter().for_each(|part| buffer.extend_from_slice(part));
        pad(buffer, captured);
        push_option(buffer, 1, packet.comment.as_bytes());
        push_option(buffer, 2, &(packet.direction as u32).to_le_bytes());
        if packet.lost > 0 {
            push_option(buffer, 4, &packet.lost.to_le_bytes());
        }
        push_option(buffer, 0, b"");
    });
}

/// Appends an Interface Statistics Block: what has come from when to when, and how many were lost.
pub(crate) fn push_statistics(buffer: &mut Vec<u8>, start: u64, end: u64, seen: u64, lost: u64) {
    push_block(buffer, 5, |buffer| {
        push_u32(buffer, INTERFACE);
        push_time(buffer, end);
        push_option(buffer, 2, &time(start));
        push_option(buffer, 3, &time(end));
        push_option(buffer, 4, &(seen + lost).to_le_bytes());
        push_option(buffer, 5, &lost.to_le_bytes());
        push_option(buffer, 0, b"");
    });
}

/// Appends a block: what kind it is, how long it is, what `content` appends, and how long it is again.
fn push_block(buffer: &mut Vec<u8>, kind: u32, content: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    push_u32(buffer, kind);
    push_u32(buffer, 0);
    content(buffer);
    let bytes = ((buffer.len() - start + 4) as u32).to_le_bytes();
    buffer[start + 4..start + 8].copy_from_slice(&bytes);
    buffer.extend_from_slice(&bytes);
}

/// Appends an option. Number 0 is the end of them; texts beyond what an option can have are cut.
fn push_option(buffer: &mut Vec<u8>, number: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    push_u16(buffer, number);
    push_u16(buffer, value.len() as u16);
    buffer.extend_from_slice(value);
    pad(buffer, value.len());
}

/// Appends zeros behind so many bytes, up to a multiple of four.
fn pad(buffer: &mut Vec<u8>, bytes: usize) {
    buffer.resize(buffer.len() + bytes.next_multiple_of(4) - bytes, 0);
}

fn push_time(buffer: &mut Vec<u8>, nanoseconds: u64) {
    buffer.extend_from_slice(&time(nanoseconds));
}

/// A time has its upper half first, whatever the order of bytes in each half.
fn time(nanoseconds: u64) -> [u8; 8] {
    nanoseconds.rotate_left(32).to_le_bytes()
}

fn push_u16(buffer: &mut Vec<u8>, number: u16) {
    buffer.extend_from_slice(&number.to_le_bytes());
}

fn push_u32(buffer: &mut Vec<u8>, number: u32) {
    buffer.extend_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(push: impl FnOnce(&mut Vec<u8>), expected: &str) {
        // What is there before is left alone, whatever its length.
        let mut buffer = b"xyz".to_vec();
        push(&mut buffer);
        let found: String = buffer[3..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected.replace([' ', '\n'], ""));
    }

    #[test]
    fn a_section_header_is_as_the_draft_says() {
        let expected = "0a0d0d0a 3c000000 4d3c2b1a 0100 0000 ffffffffffffffff
             0300 0500 6c696e7578 000000  0400 0b00 706970656275732030 2e31 00  0000 0000  3c000000";
        check(|buffer| push_section(buffer, "linux", "pipebus 0.1"), expected);
    }

    #[test]
    fn an_interface_description_is_as_the_draft_says() {
        let expected = "01000000 34000000 9300 0000 00000400
             0200 0700 73657373696f6e 00  0300 0300 627573 00  0900 0100 09 000000  0000 0000  34000000";
        check(|buffer| push_interface(buffer, "session", "bus"), expected);
    }

    #[test]
    fn an_enhanced_packet_is_as_the_draft_says() {
        let packet = Packet {
            time: 0x0102_0304_0506_0708,
            bytes: 300_000,
            direction: Direction::Out,
            lost: 5,
            comment: "hello",
        };
        let expected = "06000000 4c000000 00000000 04030201 08070605 05000000 e0930400  6162636465 000000
             0100 0500 68656c6c6f 000000  0200 0400 02000000  0400 0800 0500000000000000  0000 0000  4c000000";
        check(|buffer| push_packet(buffer, &packet, &[b"ab", b"", b"cde"]), expected);
        let packet = Packet { bytes: 4, direction: Direction::In, lost: 0, comment: "", ..packet };
        let expected = "06000000 34000000 00000000 04030201 08070605 04000000 04000000  61626364
             0100 0000  0200 0400 01000000  0000 0000  34000000";
        check(|buffer| push_packet(buffer, &packet, &[b"abcd"]), expected);
    }

    #[test]
    fn interface_statistics_are_as_the_draft_says() {
        let expected = "05000000 4c000000 00000000 00000000 09000000
             0200 0800 01000000 02000000  0300 0800 00000000 09000000
             0400 0800 0a00000000000000  0500 0800 0300000000000000  0000 0000  4c000000";
        check(|buffer| push_statistics(buffer, 0x1_0000_0002, 9, 7, 3), expected);
    }

    #[test]
    fn an_option_that_is_too_long_is_cut() {
        let mut buffer = Vec::new();
        push_option(&mut buffer, 1, &[7; 70_000]);
        assert_eq!((buffer.len(), &buffer[..5]), (4 + 65_536, &[1, 0, 0xff, 0xff, 7][..]));
    }
}
