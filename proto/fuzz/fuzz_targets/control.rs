//! Any bytes as the body of a control frame: what decodes encodes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipebus_proto::frame::{CONTROL_BYTES_MAX, HEAD_BYTES, Kind};
use pipebus_proto::wire::{decode_control, decode_head, encode_control};

fuzz_target!(|bytes: &[u8]| {
    // No longer body gets past the head.
    if bytes.len() > CONTROL_BYTES_MAX {
        return;
    }
    let Ok(control) = decode_control(bytes) else { return };
    let frame = encode_control(&control);
    assert_eq!(frame[HEAD_BYTES..], *bytes);
    let head = decode_head(&frame).expect("our own head").expect("a whole head");
    assert_eq!((head.kind, head.frame_bytes()), (Kind::Control, frame.len()));
});
