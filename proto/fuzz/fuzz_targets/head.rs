//! Any bytes as a head: what decodes encodes back, and keeps the promises of `Head`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipebus_proto::frame::{BODY_BYTES_MAX, CONTROL_BYTES_MAX, HEAD_BYTES, Kind};
use pipebus_proto::splitter::missing;
use pipebus_proto::wire::{decode_head, encode_head};

fuzz_target!(|bytes: &[u8]| {
    let decoded = decode_head(bytes);
    if bytes.len() < HEAD_BYTES {
        assert_eq!(decoded, Ok(None));
        assert_eq!(missing(bytes), 0);
        return;
    }
    let Ok(head) = decoded else { return };
    let head = head.expect("a whole head was there");
    assert_eq!(encode_head(&head), bytes[..HEAD_BYTES]);
    assert_eq!(Kind::from_number(bytes[4]), Some(head.kind));
    let max = if head.kind == Kind::Control { CONTROL_BYTES_MAX } else { BODY_BYTES_MAX };
    assert!(head.body as usize <= max && u32::from(head.metadata) <= head.body);
    assert_eq!(missing(bytes), head.frame_bytes().saturating_sub(bytes.len()));
    if head.metadata > 0 {
        assert!(head.part().begins() && !matches!(head.kind, Kind::Control | Kind::Record));
    }
});
