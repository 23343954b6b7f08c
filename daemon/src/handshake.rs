//! Handshake: what client and broker say before the instance exists; nothing but one Hello is listened to.
//!
//! A good client has written its Hello before it knocks, so there is nothing to wait for. Whoever is waited for takes a
//! seat, and no user can take them all.

use std::collections::HashMap;
use std::io::{self, ErrorKind::WouldBlock, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use pipebus_proto::control::{Control, Identity, NAME_BYTES_MAX, Reason, Regarding};
use pipebus_proto::frame::{Kind, PROTOCOL_VERSION};
use pipebus_proto::splitter::next_span;
use pipebus_proto::wire::{decode_control, encode_control};
use tokio::io::Interest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::info;

use crate::core::bus::{Hello, describe};
use crate::core::policy::Peer;
use crate::core::refused::Refused;
use crate::episode::{Sort, may_tell_of};
use crate::transport::{Reader, Writer, try_read, try_write};

/// What may come before Welcome: one Hello is far smaller.
const HELLO_BYTES_MAX: usize = 512;

/// Clients that nobody has looked at yet; further ones wait at the door.
const ARRIVING_MAX: usize = 1024;

/// Clients whose Hello is waited for, of all users.
const WAITING_MAX: usize = 1024;

/// A user may have one of so many free seats.
const SHARE: usize = 8;

/// Clients that are being let in: each takes two file descriptors before it is known.
#[derive(Debug)]
pub(crate) struct Handshakes {
    /// Nobody but the broker itself can make it wait for these.
    arriving: Arc<Semaphore>,
    /// Whose Hello is waited for: how many of each user.
    waiting: Mutex<HashMap<Identity, usize>>,
}

impl Default for Handshakes {
    fn default() -> Handshakes {
        Handshakes { arriving: Arc::new(Semaphore::new(ARRIVING_MAX)), waiting: Mutex::default() }
    }
}

/// A client's turn to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    handshakes: Arc<Handshakes>,
    permit: Option<OwnedSemaphorePermit>,
}

/// A client that is waited for.
#[derive(Debug)]
struct Seat {
    handshakes: Arc<Handshakes>,
    user: Identity,
}

impl Handshakes {
    /// Waits until one more client may come in.
    ///
    /// # Cancel safety
    /// It may be cancelled and called again.
    pub(crate) async fn turn(self: &Arc<Self>) -> Turn {
        // A semaphore that is never closed always has a next permit.
        Turn { permit: self.arriving.clone().acquire_owned().await.ok(), handshakes: self.clone() }
    }

    /// A seat, if the user has less than a part of what is free. So no few users can take all: the more are taken, the
    /// fewer there are for each, and one for who has none.
    fn seat(self: Arc<Self>, user: &Identity) -> Result<Seat, Refused> {
        let mut waiting = self.waiting();
        let free = WAITING_MAX.saturating_sub(waiting.values().sum());
        let of_user = waiting.get(user).copied().unwrap_or(0);
        if free == 0 || of_user >= (free / SHARE).max(1) {
            let text = format!(
                "your user has {of_user} clients at the door that have not said Hello, as many as it may have now; say \
                 Hello first"
            );
            return Err(Refused::new(Reason::UserFull, text));
        }
        waiting.insert(user.clone(), of_user + 1);
        drop(waiting);
        Ok(Seat { handshakes: self, user: user.clone() })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Identity, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut waiting = self.handshakes.waiting();
        if let Some(count) = waiting.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}

/// Reads the client's Hello, and waits for it if it is not there yet.
pub(crate) async fn read_hello(
    turn: Turn,
    user: &Identity,
    reader: &Reader,
    buffer: &mut BytesMut,
) -> Result<Hello, Refused> {
    // Not through tokio, which has not heard of anything yet.
    if let Some(hello) = look(buffer, |room| try_read(reader, room))? {
        return Ok(hello);
    }
    let Turn { handshakes, permit } = turn;
    let _seat = handshakes.seat(user)?;
    drop(permit);
    loop {
        let ready = reader.ready(Interest::READABLE).await.map_err(|_| left())?;
        let before = buffer.len();
        if let Some(hello) = look(buffer, |room| reader.try_read(room))? {
            return Ok(hello);
        }
        // tokio says so for ever once nobody has written for a moment, though a client can open its pipe anew.
        if buffer.len() == before && ready.is_read_closed() {
            return Err(left());
        }
    }
}

/// Reads what there is. Returns the client's Hello, if that is all of it.
fn look(buffer: &mut BytesMut, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> Result<Option<Hello>, Refused> {
    let mut room = [0; HELLO_BYTES_MAX];
    match read(&mut room[..HELLO_BYTES_MAX.saturating_sub(buffer.len())]) {
        Ok(bytes @ 1..) => buffer.extend_from_slice(&room[..bytes]),
        Err(error) if error.kind() == WouldBlock => return Ok(None),
        _ => return Err(left()),
    }
    let Some(span) = next_span(buffer)? else {
        return if buffer.len() >= HELLO_BYTES_MAX { Err(no_hello()) } else { Ok(None) };
    };
    let frame = span.iter().next().filter(|frame| frame.head.kind == Kind::Control);
    let body = frame.map(|frame| frame.body).unwrap_or_default();
    let (version, name, visits) = match decode_control(&body) {
        Ok(Control::Hello { version, name }) => (version, name, false),
        Ok(Control::Visit { version, name }) => (version, name, true),
        _ => return Err(no_hello()),
    };
    if version != PROTOCOL_VERSION {
        return Err(Refused::wrong_version(version));
    }
    Ok(Some(Hello { name: presentable(&name), visits }))
}

fn no_hello() -> Refused {
    Refused::new(Reason::Protocol, "the first frame is no Hello")
}

fn left() -> Refused {
    Refused::new(Reason::Protocol, "the client left before its Hello")
}

/// A name that can be shown on any terminal and put into any frame.
fn presentable(name: &str) -> String {
    let mut short: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    short.truncate(short.floor_char_boundary(NAME_BYTES_MAX));
    short
}

/// Tells a client why it is not let in. Its pipe is empty, so there is room, unless it has filled it itself: nobody
/// waits for that.
pub(crate) fn refuse(writer: Option<Writer>, peer: &Peer, refused: Refused) {
    if may_tell_of(&peer.identity, Sort::Fault) {
        info!(who = describe(&peer.identity), pid = peer.pid, reason = %refused, "refused a client");
    }
    let refusal = encode_control(&refused.about(Regarding::Connection));
    if let Some(writer) = writer {
        let _ = try_write(&writer, &[IoSlice::new(&refusal)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_users_who_take_all_they_get_leave_seats_for_others() {
        let handshakes = Arc::new(Handshakes::default());
        let mut seats = Vec::new();
        for uid in 0..40 {
            let user = Identity::Unix { uid };
            let before = seats.len();
            seats.extend(std::iter::from_fn(|| handshakes.clone().seat(&user).ok()));
            let taken = seats.len() - before;
            assert!((1..=WAITING_MAX / SHARE).contains(&taken), "user {uid} gets {taken}");
        }
        drop(seats);
        assert!(handshakes.waiting().is_empty());
    }
}
