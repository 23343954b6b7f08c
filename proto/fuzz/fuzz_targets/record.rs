//! Any bytes as the body of a record: what decodes encodes back, and what it says of the observed frame fits a head.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipebus_proto::frame::{Flags, HEAD_BYTES, Head, Kind};
use pipebus_proto::record::{RECORD_HEAD_BYTES, RecordHead, Watch};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::encode_head;

fuzz_target!(|body: &[u8]| {
    let Ok((record, captured)) = RecordHead::decode(body) else { return };
    assert_eq!(record.encode(), body[..RECORD_HEAD_BYTES]);
    assert_eq!(*captured, body[RECORD_HEAD_BYTES..]);
    let (flags, topic, sender) = (Flags::NONE, TopicId(7), InstanceId(3));
    let outer = Head { body: body.len() as u32, kind: Kind::Record, flags, metadata: 0, topic, sender, sequence: 1 };
    let observed = record.observed(&outer);
    assert_eq!(encode_head(&observed).len(), HEAD_BYTES);
    assert!(observed.kind != Kind::Record && u32::from(observed.metadata) <= observed.body);
    assert!(captured.len() <= observed.body as usize);
    assert!(Watch::default().wants(&observed) && Watch::default().captured(captured.len()) <= captured.len());
});
