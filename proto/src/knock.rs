//! The knock: the one record that is written to a bus's door, and finding knocks among garbage.
//!
//! Anyone who may connect may write anything to the door. A knock is far shorter than PIPE_BUF, so that the kernel
//! never mixes two (pipe(7)), and has a magic and a checksum, so that a reader finds every whole one whatever lies
//! between.

use std::fmt;

use crate::frame::PROTOCOL_VERSION;

/// The bytes of a knock.
pub const KNOCK_BYTES: usize = 32;

const MAGIC: [u8; 8] = *b"PIPEBUS\n";

/// A client at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knock {
    /// [`PROTOCOL_VERSION`] of the client.
    pub version: u16,
    /// Names the client's two FIFOs.
    pub id: KnockId,
}

/// 128 random bits: who does not know them can't guess them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KnockId(pub [u8; 16]);

impl fmt::Display for KnockId {
    /// As 32 lower-case hexadecimal digits, the stem of the file names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KnockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Knock {
    /// A knock in this version of the protocol.
    pub fn new(id: KnockId) -> Knock {
        Knock { version: PROTOCOL_VERSION, id }
    }

    /// Magic, version, two zero bytes, id, CRC-32 of all before; numbers little-endian.
    pub fn encode(&self) -> [u8; KNOCK_BYTES] {
        let mut bytes = [0; KNOCK_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.id.0);
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The knock that these bytes are, if they are one.
    pub fn decode(bytes: &[u8; KNOCK_BYTES]) -> Option<Knock> {
        let crc = u32::from_le_bytes([bytes[28], bytes[29], bytes[30], bytes[31]]);
        if bytes[..8] != MAGIC || bytes[10..12] != [0, 0] || crc32fast::hash(&bytes[..28]) != crc {
            return None;
        }
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[12..28]);
        Some(Knock { version: u16::from_le_bytes([bytes[8], bytes[9]]), id: KnockId(id) })
    }
}

/// Finds knocks in what is read from the door.
#[derive(Debug, Default)]
pub struct KnockFinder {
    waiting: Vec<u8>,
    at: usize,
    /// How many of the bytes from `at` belong to a knock that has been found.
    known: usize,
    garbage: u64,
}

impl KnockFinder {
    /// Takes more bytes. Keeps what may be the beginning of a knock, less than [`KNOCK_BYTES`].
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.drain(..self.at);
        self.at = 0;
        self.waiting.extend_from_slice(bytes);
    }

    /// The next whole knock, byte by byte past what is none.
    ///
    /// A knock's own bytes are looked through too: 28 bytes of garbage can be such that the beginning of the next knock
    /// is their checksum, and that next one must be found as well.
    pub fn next_knock(&mut self) -> Option<Knock> {
        while let Some((window, _)) = self.waiting[self.at..].split_first_chunk() {
            let knock = Knock::decode(window);
            if knock.is_some() {
                self.known = KNOCK_BYTES;
            }
            self.at += 1;
            match self.known.checked_sub(1) {
                Some(known) => self.known = known,
                None => self.garbage += 1,
            }
            if knock.is_some() {
                return knock;
            }
        }
        None
    }

    /// How many bytes have been passed over since the last time this was asked.
    pub fn take_garbage(&mut self) -> u64 {
        std::mem::take(&mut self.garbage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNENDED: KnockId = KnockId([9; 16]);

    #[test]
    fn a_knock_has_32_bytes() {
        let knock = Knock::new(KnockId(*b"0123456789abcdef"));
        let bytes = knock.encode();
        assert_eq!(&bytes[..12], b"PIPEBUS\n\x01\0\0\0");
        assert_eq!(&bytes[12..28], b"0123456789abcdef");
        assert_eq!(Knock::decode(&bytes), Some(knock));
        assert_eq!(knock.id.to_string(), "30313233343536373839616263646566");
    }

    #[test]
    fn garbage_cannot_swallow_the_knock_behind_it() {
        // With the first four bytes of any knock as its checksum, this is a knock too.
        let bait = [&MAGIC[..], b"\x01\0\0\0overlapping!Ir\xf7l"].concat();
        let knock = Knock::new(KnockId(*b"0123456789abcdef"));
        let mut finder = KnockFinder::default();
        finder.push(b"xyz");
        finder.push(&bait);
        finder.push(&knock.encode());
        finder.push(&knock.encode());
        let found: Vec<_> = std::iter::from_fn(|| finder.next_knock()).map(|knock| knock.id).collect();
        assert_eq!(found, [KnockId(*b"overlapping!Ir\xf7l"), knock.id, knock.id]);
        assert_eq!(finder.take_garbage(), 3);
    }

    proptest! {
        #[test]
        fn every_whole_knock_is_found_among_garbage(
            parts in prop::collection::vec(
                prop_oneof![
                    any::<[u8; 16]>().prop_map(|id| Ok(KnockId(id))),
                    prop::collection::vec(any::<u8>(), 0..40).prop_map(Err),
                    // The beginning of a knock that never ends.
                    (1..KNOCK_BYTES).prop_map(|n| Err(Knock::new(UNENDED).encode()[..n].to_vec())),
                ],
                0..20,
            ),
            step in 1usize..70,
        ) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for part in parts {
                match part {
                    Ok(id) => {
                        expected.push(id);
                        stream.extend_from_slice(&Knock::new(id).encode());
                    }
                    Err(garbage) => stream.extend_from_slice(&garbage),
                }
            }
            let mut finder = KnockFinder::default();
            let mut found = Vec::new();
            for piece in stream.chunks(step) {
                finder.push(piece);
                found.extend(std::iter::from_fn(|| finder.next_knock()).map(|knock| knock.id));
                prop_assert!(finder.waiting.len() - finder.at < KNOCK_BYTES);
            }
            // What follows the unended one may happen to end it.
            found.retain(|id| *id != UNENDED);
            prop_assert_eq!(found, expected);
        }
    }
}
