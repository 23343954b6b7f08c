//! Handshake: what client and broker say before the instance exists; nothing but one Hello is listened to.

use pipebus_proto::control::{Control, NAME_BYTES_MAX, Reason, Regarding};
use pipebus_proto::frame::{Kind, PROTOCOL_VERSION};
use pipebus_proto::splitter::next_span;
use pipebus_proto::wire::{decode_control, encode_control};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tracing::info;

use crate::core::bus::describe;
use crate::core::policy::Peer;
use crate::core::refused::Refused;
use crate::instance::{FAREWELL_WAIT, write_batch};
use crate::read_buffer::ReadBuffer;
use crate::transport::{Reader, Writer};

/// What may come before Welcome: one Hello is far smaller.
const HELLO_BYTES_MAX: usize = 512;

/// Waits for the client's Hello. Returns its name.
pub(crate) async fn read_hello(reader: &mut Reader, buffer: &mut ReadBuffer) -> Result<String, Refused> {
    let span = loop {
        if let Some(span) = next_span(buffer.bytes())? {
            break span;
        }
        if buffer.bytes().len() >= HELLO_BYTES_MAX {
            return Err(Refused::new(Reason::Protocol, "the first frame is no Hello"));
        }
        match reader.take(HELLO_BYTES_MAX as u64).read_buf(buffer.bytes()).await {
            Ok(1..) => {}
            _ => return Err(Refused::new(Reason::Protocol, "the client left before its Hello")),
        }
    };
    let frame = span.iter().next().filter(|frame| frame.head.kind == Kind::Control);
    let body = frame.map(|frame| frame.body).unwrap_or_default();
    match decode_control(&body) {
        Ok(Control::Hello { version, .. }) if version != PROTOCOL_VERSION => Err(Refused::wrong_version(version)),
        Ok(Control::Hello { name, .. }) => Ok(presentable(&name)),
        _ => Err(Refused::new(Reason::Protocol, "the first frame is no Hello")),
    }
}

/// A name that can be shown on any terminal and put into any frame.
fn presentable(name: &str) -> String {
    let mut short: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    short.truncate(short.floor_char_boundary(NAME_BYTES_MAX));
    short
}

/// Tells a client why it is not let in.
pub(crate) async fn refuse(writer: Option<Writer>, peer: &Peer, refused: Refused) {
    info!(who = describe(&peer.identity), pid = peer.pid, reason = %refused, "refused a client");
    let refusal = refused.about(Regarding::Connection);
    if let Some(writer) = writer {
        let _ = timeout(FAREWELL_WAIT, write_batch(&writer, &mut [encode_control(&refusal)], |_| {})).await;
    }
}
