//! Any bytes as an app's value: no panic, no large allocation, and what decodes encodes back.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use pipebus_proto::control::Control;
use pipebus_proto::frame::Metadata;
use pipebus_proto::wire::{decode_value, encode_value};

fuzz_target!(|bytes: &[u8]| {
    check::<(bool, i16, Option<String>, Option<u8>, Vec<u16>, char, f64)>(bytes);
    check::<Vec<Vec<Option<char>>>>(bytes);
    check::<Vec<String>>(bytes);
    check::<Option<Box<(u128, f32)>>>(bytes);
    check::<Result<[i8; 3], String>>(bytes);
    check::<(Metadata, Control)>(bytes);
});

/// Compared as bytes, since a NaN is not equal to itself.
fn check<T: serde::Serialize + serde::de::DeserializeOwned + Debug>(bytes: &[u8]) {
    if let Ok(value) = decode_value::<T>(bytes) {
        assert_eq!(encode_value(&value).as_deref(), Ok(bytes), "{value:?}");
    }
}
