//! Reading from real pipes: what the app gets is what was sent, wherever the stream is cut.

#![cfg(unix)]

use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::control::{Control, Identity, Overflow, Role, Welcome};
use pipebus_proto::frame::{Kind, Metadata};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{encode_control, encode_head, encode_metadata, for_each_frame};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::inbox::{Inbox, Item};
use crate::shared::Shared;
use crate::subscription::{Gap, GapCause};
use crate::transport::Writer;
use crate::transport::fake::{pipe, waiting};

const TOPIC: TopicId = TopicId(7);
const A: InstanceId = InstanceId(3);
const B: InstanceId = InstanceId(4);

/// What an app gets: a message by its sender and number, with its headers and payload, or how many were lost.
#[derive(Clone, Debug, PartialEq)]
enum Got {
    Message(InstanceId, u64, usize, Bytes),
    Lost(u64),
}

/// A message without headers.
fn got(sender: InstanceId, sequence: u64, payload: impl Into<Bytes>) -> Got {
    Got::Message(sender, sequence, 0, payload.into())
}

/// A client that is connected and subscribes to everything, and what the broker says first.
fn client(message_bytes_max: u64) -> (Arc<Shared>, Vec<u8>) {
    let shared = Arc::new(Shared::new());
    let welcome = Welcome { client: InstanceId(9), broker_version: String::new(), message_bytes_max };
    assert!(shared.connected(&welcome));
    let identity = Identity::Unix { uid: 0 };
    let sender = |sender| Control::SenderInfo { sender, identity: identity.clone(), name: String::new() };
    let subscribed = Control::Subscribed { subscription: 1 };
    let topic = Control::TopicInfo { topic: TOPIC, name: "a".to_owned() };
    (shared, [subscribed, topic, sender(A), sender(B)].iter().flat_map(says).collect())
}

/// What an app gets of a stream that comes in these pieces, each when the one before has been read.
async fn read_in_pieces(message_bytes_max: usize, pieces: &[&[u8]], pipe_bytes: usize) -> Vec<Got> {
    let (shared, first) = client(message_bytes_max as u64);
    let (mut writer, reader) = pipe(pipe_bytes);
    let write = async {
        for piece in [&first[..]].iter().chain(pieces) {
            write_until_read(&mut writer, piece).await;
        }
        drop(writer);
    };
    let mut incoming = Incoming::new(shared.clone(), message_bytes_max);
    let read = async {
        read_loop(&mut incoming, reader, BytesMut::new()).await.unwrap();
        shared.closed(&crate::error::Error::Closed);
    };
    let take = async {
        let everything = Pattern::new("**").unwrap();
        let (_, inbox) = shared.subscribe(everything, Role::Subscribe, Overflow::Block).await.unwrap();
        take_all(&inbox).await
    };
    tokio::join!(take, write, read).0
}

async fn write_until_read(writer: &mut Writer, bytes: &[u8]) {
    writer.write_all(bytes).await.unwrap();
    while waiting(writer) > 0 {
        tokio::task::yield_now().await;
    }
}

async fn take_all(inbox: &Inbox) -> Vec<Got> {
    let mut all = Vec::new();
    while let Some(item) = std::future::poll_fn(|context| inbox.poll_pop(context)).await {
        match item {
            Item::Run(run) => all.extend(run.map(|message| {
                let headers = message.headers().unwrap().len();
                Got::Message(message.sender().id, message.sequence, headers, message.payload)
            })),
            Item::Gap(Gap { messages, cause: GapCause::Reassembly, .. }) => all.push(Got::Lost(messages.unwrap())),
            other => panic!("{other:?}"),
        }
    }
    all
}

/// What the broker says for itself.
fn says(control: &Control) -> Vec<u8> {
    encode_control(control).to_vec()
}

fn head(sender: InstanceId, sequence: u64) -> Head {
    Head { body: 0, kind: Kind::Message, flags: Flags::NONE, metadata: 0, topic: TOPIC, sender, sequence }
}

/// A message in these fragments, or whole if it is one.
fn fragments(sender: InstanceId, sequence: u64, metadata: &[u8], payload: &[&str]) -> Vec<Vec<u8>> {
    let mut metadata = metadata;
    let last = payload.len() - 1;
    let fragment = |(at, piece): (usize, &&str)| {
        let continued = if at > 0 { Flags::CONTINUED } else { Flags::NONE };
        let flags = continued.with(if at < last { Flags::MORE } else { Flags::NONE });
        let metadata = std::mem::take(&mut metadata);
        let body = [metadata, piece.as_bytes()].concat();
        let head = Head { flags, metadata: metadata.len() as u16, body: body.len() as u32, ..head(sender, sequence) };
        [&encode_head(&head)[..], &body].concat()
    };
    payload.iter().enumerate().map(fragment).collect()
}

/// A message in fragments of the largest size.
fn large(flags: Flags, sequence: u64, payload: &Bytes) -> Vec<u8> {
    let mut bytes = Vec::new();
    for_each_frame(Head { flags, ..head(A, sequence) }, &[], payload, |head, _, piece| {
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&piece);
    });
    bytes
}

/// Checks that an app gets the same wherever the stream is cut in two, and if it comes byte by byte.
async fn check(message_bytes_max: usize, frames: &[Vec<u8>], expected: &[Got]) {
    let stream = frames.concat();
    for cut in 0..=stream.len() {
        let (before, after) = stream.split_at(cut);
        let seen = read_in_pieces(message_bytes_max, &[before, after], 4096).await;
        assert_eq!(seen, expected, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read_in_pieces(message_bytes_max, &bytes, 4096).await, expected, "byte by byte");
}

#[tokio::test]
async fn several_senders_fragments_come_mixed_and_each_message_is_put_together() {
    let headers = vec![("unit".to_owned(), "C".to_owned())];
    let metadata = encode_metadata(&Metadata { call: None, headers }).unwrap();
    let [a1, a2, a3] = &fragments(A, 1, &metadata, &["ab", "cd", "e"])[..] else { panic!() };
    let [b1, b2, b3] = &fragments(B, 5, &[], &["uvw", "", "xyz"])[..] else { panic!() };
    let small = |sequence| fragments(A, sequence, &[], &["small"]).remove(0);
    let pong = says(&Control::Pong { token: 0 });
    let frames = [a1, b1, &pong, a2, b2, a3, &small(2), &small(3), b3, &small(4)].map(Clone::clone);
    let a = Got::Message(A, 1, 1, "abcde".into());
    let expected = [a, got(A, 2, "small"), got(A, 3, "small"), got(B, 5, "uvwxyz"), got(A, 4, "small")];
    check(1000, &frames, &expected).await;
}

#[tokio::test]
async fn what_will_not_be_whole_is_forgotten() {
    let message = |sequence, payload: &[&str]| fragments(A, sequence, &[], payload);
    let aborted = [&message(1, &["ab", "cd", "ef"])[..2], &[says(&Control::Abort { sender: A })]].concat();
    let rest_of_aborted = message(1, &["ab", "cd", "ef"]).remove(2);
    let begun = message(3, &["gh", "ij"]).remove(0);
    let of_another = message(4, &["kl", "mn"]).remove(1);
    let gone = says(&Control::SenderGone { sender: A });
    let frames = [
        aborted,
        vec![rest_of_aborted],
        message(2, &["whole"]),
        vec![begun.clone(), of_another.clone()],
        vec![begun.clone()],
        message(5, &["op", "qr"]),
        vec![begun],
        message(6, &["st"]),
        vec![of_another, message(7, &["uv", "wx"]).remove(0), gone],
    ];
    check(1000, &frames.concat(), &[got(A, 2, "whole"), got(A, 5, "opqr"), got(A, 6, "st")]).await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_a_gap_and_what_follows_it_comes() {
    let message = |sequence, payload: &[&str]| fragments(A, sequence, &[], payload);
    let frames = [message(1, &["12345", "67890"]), message(2, &["12345", "67890!", "", "1"]), message(3, &["1", "2"])];
    check(10, &frames.concat(), &[got(A, 1, "1234567890"), Got::Lost(1), got(A, 3, "12")]).await;
}

#[tokio::test]
async fn large_and_small_messages_keep_their_order_however_they_come() {
    let sizes = [10, 1 << 20, 1 << 20, 40_000, 0, 262_144, 262_145, 70, 100, 600_000, 5, 524_288, 300_000];
    let payload =
        |(sequence, size): (u64, &usize)| (0..*size).map(|at| (at as u64 / 7 + sequence * 31) as u8).collect();
    let payloads: Vec<Bytes> = (1..).zip(&sizes).map(payload).collect();
    let stream: Vec<u8> =
        (1..).zip(&payloads).flat_map(|(sequence, payload)| large(Flags::NONE, sequence, payload)).collect();
    let expected: Vec<Got> = (1..).zip(payloads).map(|(sequence, payload)| got(A, sequence, payload)).collect();
    for pipe_bytes in [4096, 65_536, 1 << 20] {
        for step in [4099, 262_168, 1 << 24] {
            let pieces: Vec<&[u8]> = stream.chunks(step).collect();
            let seen = read_in_pieces(1 << 20, &pieces, pipe_bytes).await;
            assert!(seen == expected, "pipe of {pipe_bytes}, {step} at once");
        }
    }
}

#[tokio::test]
async fn a_loaned_message_is_consumed_when_all_of_it_has_been_read() {
    let (shared, _) = client(1 << 20);
    let (mut writer, reader) = pipe(4096);
    let mut incoming = Incoming::new(shared.clone(), 1 << 20);
    let stream = large(Flags::LOANED, 1, &vec![7; 600_000].into());
    let (last, before) = stream.split_last().unwrap();
    let said = || {
        let mut batch = std::collections::VecDeque::new();
        shared.take_outgoing(&mut batch);
        !batch.is_empty()
    };
    let write = async {
        write_until_read(&mut writer, before).await;
        assert!(!said());
        write_until_read(&mut writer, &[*last]).await;
        drop(writer);
    };
    let (_, ended) = tokio::join!(write, read_loop(&mut incoming, reader, BytesMut::new()));
    ended.unwrap();
    assert!(said());
}
