//! Any bytes as metadata: what decodes encodes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipebus_proto::frame::METADATA_BYTES_MAX;
use pipebus_proto::wire::{decode_metadata, encode_metadata};

fuzz_target!(|bytes: &[u8]| {
    // No longer metadata gets past the head.
    if bytes.len() > METADATA_BYTES_MAX {
        return;
    }
    let Ok(metadata) = decode_metadata(bytes) else { return };
    assert_eq!(encode_metadata(&metadata).as_deref(), Some(bytes));
});
