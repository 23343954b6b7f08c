//! Anything written to the door, arriving in pieces: every whole knock is found, in its order, wherever it stands.
//!
//! The first byte is the size of the pieces. In the rest every byte 0xff is replaced by a whole knock.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipebus_proto::knock::{KNOCK_BYTES, Knock, KnockFinder, KnockId};

fuzz_target!(|input: &[u8]| {
    let [piece, garbage @ ..] = input else { return };
    let mut door = Vec::new();
    for (index, byte) in garbage.iter().enumerate() {
        match byte {
            0xff => door.extend_from_slice(&Knock::new(id(index)).encode()),
            byte => door.push(*byte),
        }
    }
    // The definition, word for word.
    let expected: Vec<(usize, Knock)> = door
        .windows(KNOCK_BYTES)
        .enumerate()
        .filter_map(|(at, window)| Some((at, Knock::decode(window.try_into().ok()?)?)))
        .collect();
    for (_, knock) in &expected {
        assert_eq!(Knock::decode(&knock.encode()), Some(*knock));
    }
    for (index, _) in garbage.iter().enumerate().filter(|(_, byte)| **byte == 0xff) {
        assert!(expected.iter().any(|(_, knock)| knock.id == id(index)));
    }

    let mut finder = KnockFinder::default();
    let mut found = Vec::new();
    for piece in door.chunks(usize::from(*piece).max(1)) {
        finder.push(piece);
        found.extend(std::iter::from_fn(|| finder.next_knock()));
    }
    let (starts, knocks): (Vec<usize>, Vec<Knock>) = expected.into_iter().unzip();
    assert_eq!(found, knocks);

    let searched = door.len().saturating_sub(KNOCK_BYTES - 1);
    let outside = |at: &usize| !starts.iter().any(|start| (*start..start + KNOCK_BYTES).contains(at));
    assert_eq!(finder.take_garbage(), (0..searched).filter(outside).count() as u64);
});

fn id(index: usize) -> KnockId {
    KnockId((index as u128 + 1).to_le_bytes())
}
