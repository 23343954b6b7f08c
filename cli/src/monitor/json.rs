//! What passes on the bus as JSON, an object a line.

use humantime::format_rfc3339_nanos;
use pipebus_client::{Control, Flags, Kind, Part, Record};
use serde::Serialize;
use serde_json::{Map, Value};

use super::words::words;
use crate::format::{base64, headers, push_object, sid_of};

/// Appends a record as a JSON object and a newline.
pub(crate) fn push_record(buffer: &mut Vec<u8>, record: &Record) {
    let head = &record.head;
    let metadata = record.metadata().unwrap_or_default();
    let control = record.control();
    let is_control = head.kind == Kind::Control;
    let payload = if is_control && control.is_some() { None } else { Some(record.payload()) };
    let text = payload.map(str::from_utf8);
    let object = Object {
        // Times of records are after 1970 and before 2555.
        time: format_rfc3339_nanos(record.time).to_string(),
        kind: kind_name(head.kind),
        topic: if is_control { None } else { Some(record.topic.as_str()) },
        sender: record.sender.id.0,
        uid: record.sender.uid(),
        sid: sid_of(&record.sender),
        name: &record.sender.name,
        to: record.to.map(|to| to.0),
        sequence: head.sequence,
        part: part_name(head.part()),
        failed: head.flags.has(Flags::FAILED),
        loaned: head.flags.has(Flags::LOANED),
        bytes: head.body,
        subscribers: record.subscribers,
        waiting: record.waiting,
        dropped: record.dropped,
        cut: record.is_cut(),
        call: metadata.call.map(|call| CallOf { requester: call.requester.0, correlation: call.correlation }),
        headers: headers(metadata.headers),
        says: control.as_ref().map(words),
        control,
        payload_base64: if let (Some(payload), Some(Err(_))) = (payload, text) { Some(base64(payload)) } else { None },
        payload: text.and_then(Result::ok),
    };
    push_object(buffer, &object);
}

#[derive(Serialize)]
struct Object<'a> {
    time: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    sender: u32,
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
    name: &'a str,
    to: Option<u32>,
    sequence: u64,
    part: &'static str,
    #[serde(skip_serializing_if = "is_not")]
    failed: bool,
    #[serde(skip_serializing_if = "is_not")]
    loaned: bool,
    bytes: u32,
    subscribers: u32,
    waiting: u32,
    dropped: u32,
    #[serde(skip_serializing_if = "is_not")]
    cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<CallOf>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    says: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<Control>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

#[derive(Serialize)]
struct CallOf {
    requester: u32,
    correlation: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_not(flag: &bool) -> bool {
    !flag
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Control => "control",
        Kind::Message => "message",
        Kind::Request => "request",
        Kind::Reply => "reply",
        Kind::Record => "record",
    }
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Whole => "whole",
        Part::First => "first",
        Part::Middle => "middle",
        Part::Last => "last",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{control, message, with_metadata};
    use super::*;
    use pipebus_client::{InstanceId, Metadata};
    use pipebus_proto::frame::Call;
    use serde_json::json;

    fn text_of(record: &Record) -> String {
        let mut buffer = Vec::new();
        push_record(&mut buffer, record);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn a_message_is_an_object_without_keys_for_what_is_not_there() {
        let expected = concat!(
            r#"{"time":"1970-01-02T03:04:05.006007100Z","kind":"message","topic":"sensors/kitchen/temp","#,
            r#""sender":12,"uid":1000,"name":"thermometer","to":null,"sequence":17,"part":"whole","bytes":4,"#,
            r#""subscribers":3,"waiting":0,"dropped":0,"payload":"21.5"}"#,
        );
        assert_eq!(text_of(&message(b"21.5")), format!("{expected}\n"));
    }

    #[test]
    fn a_reply_has_its_call_and_headers_and_a_payload_of_any_bytes() {
        let call = Some(Call { requester: InstanceId(3), correlation: 42 });
        let metadata = Metadata { call, headers: vec![("unit".to_owned(), "C".to_owned())] };
        let mut record = with_metadata(Kind::Reply, &metadata, b"\xff");
        record.head.flags = Flags::FAILED.with(Flags::MORE);
        record.head.body += 1;
        let object: Value = serde_json::from_str(&text_of(&record)).unwrap();
        assert_eq!(object["call"], json!({ "requester": 3, "correlation": 42 }));
        assert_eq!((&object["headers"], &object["payload_base64"]), (&json!({ "unit": "C" }), &json!("/w==")));
        assert_eq!((&object["failed"], &object["cut"], &object["part"]), (&json!(true), &json!(true), &json!("first")));
        assert!(object.get("payload").is_none() && object.get("loaned").is_none());
    }

    #[test]
    fn a_control_frame_is_there_as_fields_and_in_words() {
        let object: Value = serde_json::from_str(&text_of(&control(&Control::Ping { token: 9 }, None))).unwrap();
        assert_eq!((&object["control"], &object["says"]), (&json!({ "Ping": { "token": 9 } }), &json!("ping 9")));
        assert!(object.get("topic").is_none() && object.get("payload").is_none());
        let mut unreadable = control(&Control::Ping { token: 9 }, None);
        unreadable.body.truncate(1);
        let object: Value = serde_json::from_str(&text_of(&unreadable)).unwrap();
        assert_eq!((&object["payload"], &object["cut"]), (&json!("\u{11}"), &json!(true)));
    }
}
