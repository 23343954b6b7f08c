//! A client that obeys no rules: it speaks the protocol by hand, and as wrongly as a story wants.

use bytes::BytesMut;
use pipebus_proto::control::{Control, Purpose, Welcome};
use pipebus_proto::frame::{Flags, Head, Kind, PROTOCOL_VERSION};
use pipebus_proto::splitter::next_span;
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{decode_control, encode_control, encode_head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::system::{Reader, Writer, open};
use crate::{Bus, soon};

/// An open connection, of which the broker knows nothing but what the story says.
#[derive(Debug)]
pub struct Raw {
    reader: Reader,
    writer: Writer,
    buffer: BytesMut,
}

impl Raw {
    /// Comes, and says nothing.
    pub async fn open(bus: &Bus) -> Raw {
        let (reader, writer) = soon("the pipe", open(bus.address())).await;
        Raw { reader, writer, buffer: BytesMut::new() }
    }

    /// Connects as a good client does.
    pub async fn connect(bus: &Bus) -> (Raw, Welcome) {
        let mut raw = Raw::open(bus).await;
        raw.say(&Raw::hello()).await;
        match raw.hear().await {
            Some(Control::Welcome(welcome)) => (raw, welcome),
            other => panic!("{other:?} instead of Welcome"),
        }
    }

    /// What a good client says first.
    pub fn hello() -> Control {
        Control::Hello { version: PROTOCOL_VERSION, name: "raw".to_owned() }
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) {
        soon("room in the pipe", self.writer.write_all(bytes)).await.unwrap();
    }

    /// Says something.
    pub async fn say(&mut self, control: &Control) {
        self.write(&encode_control(control)).await;
    }

    /// The next control frame; `None` at the end.
    pub async fn hear(&mut self) -> Option<Control> {
        loop {
            if let Some(span) = next_span(&mut self.buffer).unwrap() {
                let frame = span.iter().next().unwrap();
                if span.kind == Kind::Control {
                    return Some(decode_control(&frame.body).unwrap());
                }
                continue;
            }
            if soon("something to read", self.reader.read_buf(&mut self.buffer)).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// So many messages, each by the number in the first 8 bytes of its payload.
    pub async fn count_messages(&mut self, count: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        while (numbers.len() as u64) < count {
            match next_span(&mut self.buffer).unwrap() {
                Some(span) if span.kind == Kind::Message => {
                    numbers
                        .extend(span.iter().map(|frame| u64::from_le_bytes(frame.payload()[..8].try_into().unwrap())));
                }
                Some(_) => {}
                None => {
                    let read = soon("a message", self.reader.read_buf(&mut self.buffer)).await.unwrap();
                    assert!(read > 0, "the connection was closed");
                }
            }
        }
        numbers
    }

    /// Whether the broker closes the connection, whatever it says before.
    pub async fn is_closed(&mut self) -> bool {
        while self.hear().await.is_some() {}
        true
    }

    /// A number for a topic.
    pub async fn declare(&mut self, name: &str) -> TopicId {
        self.say(&Control::Declare { token: 1, topic: name.to_owned(), purpose: Purpose::Publish }).await;
        loop {
            match self.hear().await {
                Some(Control::Declared { topic, .. }) => return topic,
                Some(_) => {}
                None => panic!("the connection was closed"),
            }
        }
    }
}

/// A message as a client sends it.
pub fn message(sender: InstanceId, topic: TopicId, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let head = Head {
        body: payload.len() as u32,
        kind: Kind::Message,
        flags: Flags::NONE,
        metadata: 0,
        topic,
        sender,
        sequence,
    };
    [&encode_head(&head)[..], payload].concat()
}
