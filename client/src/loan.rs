//! Loans: memory of the client's in which an app makes a payload, for large messages that are not copied.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::pages::{Pages, Pool};

/// Payloads from this size on are lent to the pipe. Through a relay with splice(2) to one reader, on two cores and with
/// the copy into the pages counted, lent messages of 32 KiB went at 5.7 GB/s, written ones at 2.2; of 256 KiB, at 9.3
/// and 1.7. Below, telling the sender what is released costs more of what it saves.
pub(crate) const LOAN_BYTES_MIN: usize = 32 * 1024;

/// Memory for the payload of one message; from [`Publisher::loan`](crate::Publisher::loan).
///
/// Published, its pages go to the receivers as they are, without a copy on this side: on Linux, and for 32 KiB or more.
/// Otherwise, and while 32 MiB of this client's are lent already, the message is written as others are. It begins at a
/// page boundary where it is lent. What is in it at first can be anything that the client has published before.
/// Dropped, nothing is published.
#[derive(Debug)]
pub struct Loan {
    /// Where the payload is, if it is to be lent.
    pages: Option<Pages>,
    /// Where it is otherwise.
    plain: BytesMut,
    bytes: usize,
    pool: Arc<Pool>,
}

impl Loan {
    pub(crate) fn new(pool: &Arc<Pool>, bytes: usize) -> Loan {
        let pages = if bytes < LOAN_BYTES_MIN { None } else { pool.take(bytes, Instant::now()) };
        let plain = if pages.is_some() { BytesMut::new() } else { BytesMut::zeroed(bytes) };
        Loan { pages, plain, bytes, pool: pool.clone() }
    }

    /// A copy of a large payload, if it can be lent.
    pub(crate) fn of(pool: &Arc<Pool>, payload: &[u8]) -> Option<Loan> {
        if payload.len() < LOAN_BYTES_MIN {
            return None;
        }
        let pages = pool.take(payload.len(), Instant::now())?;
        let mut loan = Loan { pages: Some(pages), plain: BytesMut::new(), bytes: payload.len(), pool: pool.clone() };
        loan.copy_from_slice(payload);
        Some(loan)
    }

    /// Leaves the first `bytes` bytes, if there are more.
    pub fn truncate(&mut self, bytes: usize) {
        self.bytes = self.bytes.min(bytes);
    }

    /// What is to be written rather than lent.
    ///
    /// # Errors
    /// It is to be lent.
    pub(crate) fn into_plain(mut self) -> Result<Bytes, Loan> {
        match self.pages {
            None => {
                self.plain.truncate(self.bytes);
                Ok(std::mem::take(&mut self.plain).freeze())
            }
            Some(_) if self.bytes < LOAN_BYTES_MIN => Ok(Bytes::copy_from_slice(&self)),
            Some(_) => Err(self),
        }
    }

    /// The pages to be lent. They leave nothing.
    pub(crate) fn take_pages(&mut self) -> Option<Pages> {
        self.bytes = 0;
        self.pages.take()
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages.as_ref().map_or(&self.plain[..], Pages::payload)[..self.bytes]
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut().map_or(&mut self.plain[..], Pages::payload_mut)[..self.bytes]
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take() {
            self.pool.give_back(pages);
        }
    }
}
