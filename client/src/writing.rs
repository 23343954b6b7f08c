//! Writing: what waits, into the connection's pipe.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::connection::{FULL_PIPE_BYTES, LARGE_PIPE_BYTES};
use crate::outgoing::Piece;
use crate::pages::{Lent, Pool};
use crate::shared::Shared;
use crate::transport::{Writer, grow, lend};

/// Slices in one vectored write, or lent at once: of large messages, half as many.
const SLICES_MAX: usize = 64;

/// How long after a message, if not so many follow that it is asked anyway, the broker is asked to confirm it: without
/// that, all that was published slowly would be in doubt when the connection is lost.
const CONFIRM_WAIT: Duration = Duration::from_millis(100);

/// Writes what waits, for ever.
pub(crate) async fn write_loop(shared: &Shared, writer: Writer) {
    let mut outlet = Outlet { writer, pipe_bytes: 0, pool: &shared.pool };
    let mut batch = VecDeque::new();
    // When to ask the broker to confirm what it has not been asked to confirm yet.
    let mut confirm_at = None;
    loop {
        let unasked = shared.take_outgoing(&mut batch);
        confirm_at = if unasked { confirm_at.or_else(|| Some(Instant::now() + CONFIRM_WAIT)) } else { None };
        if batch.is_empty() {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(confirm_at.unwrap_or_else(Instant::now)), if unasked => {
                    shared.ask_to_confirm();
                }
                () = shared.work.notified() => {}
            }
            continue;
        }
        if outlet.write(&mut batch).await.is_err() {
            // The reader learns the same, after it has read what is left: even if nobody takes that.
            let _reading_on = shared.awaiting_answer();
            return std::future::pending().await;
        }
    }
}

/// The pipe to the broker.
struct Outlet<'a> {
    writer: Writer,
    /// What the pipe has been made to hold.
    pipe_bytes: usize,
    pool: &'a Pool,
}

impl Outlet<'_> {
    /// Writes all of it. What has been written is gone from `batch`, even if this fails.
    async fn write(&mut self, batch: &mut VecDeque<Piece>) -> io::Result<()> {
        while let Some(first) = batch.front() {
            match first {
                Piece::Bytes(_) => self.write_some(batch).await?,
                Piece::Lent(_) => self.lend_some(batch).await?,
            }
        }
        Ok(())
    }

    /// Writes of the first pieces that are bytes as much as the pipe takes at once.
    async fn write_some(&mut self, batch: &mut VecDeque<Piece>) -> io::Result<()> {
        let pieces =
            batch.iter().map_while(|piece| if let Piece::Bytes(bytes) = piece { Some(&bytes[..]) } else { None });
        let (written, all) = self.write_slices(pieces).await?;
        if written < all {
            self.grow(FULL_PIPE_BYTES);
        }
        advance(batch, written);
        Ok(())
    }

    /// Lends of the first pieces that are to be lent as much as the pipe takes at once.
    async fn lend_some(&mut self, batch: &mut VecDeque<Piece>) -> io::Result<()> {
        self.grow(LARGE_PIPE_BYTES);
        let lent = batch.iter().map_while(|piece| if let Piece::Lent(lent) = piece { Some(lent) } else { None });
        let slices: Vec<_> = lent.flat_map(Lent::slices).take(SLICES_MAX).collect();
        let taken = match lend(&self.writer, &slices).await {
            // The system can't do it. Written, it is the same for whoever reads it.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.pool.give_up();
                self.write_slices(slices.into_iter()).await?.0
            }
            taken => taken?,
        };
        advance(batch, taken);
        Ok(())
    }

    /// How many bytes the pipe has taken, and how many it was given.
    async fn write_slices<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>) -> io::Result<(usize, usize)> {
        let mut vector = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        let mut bytes = 0;
        for (entry, slice) in vector.iter_mut().zip(slices) {
            *entry = IoSlice::new(slice);
            count += 1;
            bytes += slice.len();
        }
        Ok((self.writer.write_vectored(&vector[..count]).await?, bytes))
    }

    fn grow(&mut self, bytes: usize) {
        if self.pipe_bytes < bytes {
            self.pipe_bytes = bytes;
            grow(&self.writer, bytes);
        }
    }
}

/// So many of the first bytes are in the pipe.
fn advance(batch: &mut VecDeque<Piece>, mut bytes: usize) {
    while bytes > 0
        && let Some(first) = batch.front_mut()
    {
        let of_first = bytes.min(first.len());
        first.advance(of_first);
        bytes -= of_first;
        if first.len() == 0 {
            batch.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
