//! Pages: memory that can be lent to a pipe, and the pool of a client's.
//!
//! What is lent is read by others, so it must not change until the broker says that nobody reads it any more. Where
//! that is not said, the memory is unmapped rather than used again: what is in a pipe stays there without a mapping.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memmap2::MmapMut;
use pipebus_proto::frame::{BODY_BYTES_MAX, FRAME_BYTES_MAX, HEAD_BYTES, Head};
use pipebus_proto::wire::for_each_head;
use tokio::time::Instant;

/// Bytes in front of the payload, for the heads of its frames: a page, so that the payload begins one.
const FRONT_BYTES: usize = 4096;

/// All pages of a client: free, in the app's hands, and lent.
const POOL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The smallest pages. Sizes are powers of two, and the front, so that pages fit other messages as well.
const PAYLOAD_BYTES_MIN: usize = 64 * 1024;

/// How long the broker has to say that lent pages are released.
const RELEASE_WAIT: Duration = Duration::from_secs(2);

const _: () = assert!(POOL_BYTES_MAX.div_ceil(BODY_BYTES_MAX) * HEAD_BYTES <= FRONT_BYTES, "room for all heads");

/// Pages for one message.
#[derive(Debug)]
pub(crate) struct Pages {
    memory: MmapMut,
    _share: Share,
}

/// What pages take of [`POOL_BYTES_MAX`], as long as they are mapped.
#[derive(Debug)]
struct Share {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Pages {
    pub(crate) fn payload(&self) -> &[u8] {
        &self.memory[FRONT_BYTES..]
    }

    pub(crate) fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.memory[FRONT_BYTES..]
    }

    /// Writes the heads of a message with the first `payload` bytes. From now on nothing changes.
    pub(crate) fn seal(mut self, head: Head, payload: usize) -> Lent {
        let mut at = 0;
        for_each_head(head, 0, payload, |head, _| {
            self.memory[at..at + HEAD_BYTES].copy_from_slice(&head);
            at += HEAD_BYTES;
        });
        Lent { pages: Arc::new(self), payload, at: 0 }
    }
}

/// A message that is lent: what of it is not in the pipe yet.
#[derive(Debug)]
pub(crate) struct Lent {
    pages: Arc<Pages>,
    payload: usize,
    /// How many bytes of its frames are in the pipe.
    at: usize,
}

impl Lent {
    /// The bytes of its frames that are not in the pipe yet.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let (front, payload) = self.pages.memory.split_at(FRONT_BYTES);
        let frames = front.chunks(HEAD_BYTES).zip(payload[..self.payload].chunks(BODY_BYTES_MAX));
        let mut skipped = self.at % FRAME_BYTES_MAX;
        frames.skip(self.at / FRAME_BYTES_MAX).flat_map(|(head, body)| [head, body]).filter_map(move |slice| {
            let rest = &slice[skipped.min(slice.len())..];
            skipped -= slice.len() - rest.len();
            (!rest.is_empty()).then_some(rest)
        })
    }

    /// How many bytes are not in the pipe yet.
    pub(crate) fn len(&self) -> usize {
        self.payload + self.payload.div_ceil(BODY_BYTES_MAX) * HEAD_BYTES - self.at
    }

    /// So many more are.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

/// The pages of a client.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
    taken: Arc<AtomicUsize>,
    /// The system does not take pages.
    useless: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The last that came back is the first that goes out: it may still be in the processor's cache.
    free: Vec<Pages>,
    /// By the number of the message, and since when.
    lent: BTreeMap<u64, (Instant, Arc<Pages>)>,
}

impl Pool {
    /// Pages for a payload of so many bytes, with anything in them. `None` if there may be no more.
    pub(crate) fn take(&self, payload: usize, now: Instant) -> Option<Pages> {
        if payload > POOL_BYTES_MAX || self.useless.load(Ordering::Relaxed) {
            return None;
        }
        let bytes = payload.next_power_of_two().max(PAYLOAD_BYTES_MIN) + FRONT_BYTES;
        let mut state = self.lock();
        while let Some(oldest) = state.lent.first_entry().filter(|entry| entry.get().0 + RELEASE_WAIT <= now) {
            oldest.remove();
        }
        if let Some(index) = state.free.iter().rposition(|pages| pages.memory.len() == bytes) {
            return Some(state.free.remove(index));
        }
        let room = || POOL_BYTES_MAX.saturating_sub(self.taken.load(Ordering::Acquire));
        while room() < bytes && !state.free.is_empty() {
            state.free.remove(0);
        }
        if room() < bytes {
            return None;
        }
        let memory = MmapMut::map_anon(bytes).ok()?;
        self.taken.fetch_add(bytes, Ordering::AcqRel);
        Some(Pages { memory, _share: Share { taken: self.taken.clone(), bytes } })
    }

    /// Pages that were taken and not lent.
    pub(crate) fn give_back(&self, pages: Pages) {
        if !self.useless.load(Ordering::Relaxed) {
            self.lock().free.push(pages);
        }
    }

    /// The message with this number is lent.
    pub(crate) fn lend(&self, sequence: u64, lent: &Lent, now: Instant) {
        self.lock().lent.insert(sequence, (now, lent.pages.clone()));
    }

    /// Nobody reads the pages of these messages any more.
    pub(crate) fn release(&self, sequences: &[u64]) {
        let mut state = self.lock();
        for sequence in sequences {
            // What is not wholly in the pipe is not released, whatever is said.
            let pages = state.lent.remove(sequence).and_then(|(_, pages)| Arc::into_inner(pages));
            state.free.extend(pages);
        }
    }

    /// Nobody will say when what is lent is released.
    pub(crate) fn forget_lent(&self) {
        self.lock().lent.clear();
    }

    /// The system does not take pages: from now on there are none.
    pub(crate) fn give_up(&self) {
        self.useless.store(true, Ordering::Relaxed);
        self.lock().free.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipebus_proto::frame::{Flags, Kind};
    use pipebus_proto::topic::{InstanceId, TopicId};

    const HEAD: Head = Head {
        body: 0,
        kind: Kind::Message,
        flags: Flags::LOANED,
        metadata: 0,
        topic: TopicId(1),
        sender: InstanceId(2),
        sequence: 3,
    };

    fn lend(pool: &Pool, sequence: u64, payload: usize, now: Instant) {
        let lent = pool.take(payload, now).unwrap().seal(HEAD, payload);
        pool.lend(sequence, &lent, now);
    }

    fn counts(pool: &Pool) -> (usize, usize) {
        let state = pool.lock();
        (state.free.len(), state.lent.len())
    }

    #[test]
    fn pages_come_back_when_they_are_released_and_the_last_goes_out_first() {
        let (pool, now) = (Pool::default(), Instant::now());
        for sequence in 1..=3 {
            lend(&pool, sequence, 100_000, now);
        }
        assert_eq!(counts(&pool), (0, 3));
        pool.release(&[3, 1, 9]);
        assert_eq!(counts(&pool), (2, 1));
        let mut pages = pool.take(100_000, now).unwrap();
        pages.payload_mut()[0] = 7;
        pool.give_back(pages);
        assert_eq!(pool.take(70_000, now).unwrap().payload()[0], 7);
    }

    #[test]
    fn what_is_not_wholly_in_the_pipe_is_not_used_again() {
        let (pool, now) = (Pool::default(), Instant::now());
        let lent = pool.take(100_000, now).unwrap().seal(HEAD, 100_000);
        pool.lend(1, &lent, now);
        pool.release(&[1]);
        assert_eq!(counts(&pool), (0, 0));
        drop(lent);
        assert_eq!((counts(&pool), pool.taken.load(Ordering::Relaxed)), ((0, 0), 0));
    }

    #[test]
    fn what_is_not_released_in_time_or_on_this_connection_is_unmapped() {
        let (pool, now) = (Pool::default(), Instant::now());
        lend(&pool, 1, 40_000, now);
        lend(&pool, 2, 40_000, now + Duration::from_secs(1));
        drop(pool.take(40_000, now + RELEASE_WAIT));
        assert_eq!(counts(&pool), (0, 1));
        pool.release(&[1]);
        assert_eq!(counts(&pool), (0, 1));
        pool.forget_lent();
        pool.release(&[2]);
        assert_eq!((counts(&pool), pool.taken.load(Ordering::Relaxed)), ((0, 0), 0));
    }

    #[test]
    fn a_pool_has_an_end_and_makes_room_for_other_sizes() {
        let (pool, now) = (Pool::default(), Instant::now());
        assert!(pool.take(POOL_BYTES_MAX + 1, now).is_none());
        let all: Vec<_> = std::iter::from_fn(|| pool.take(4 << 20, now)).collect();
        assert_eq!(all.len(), 7);
        assert!(pool.take(40_000, now).is_some());
        all.into_iter().for_each(|pages| pool.give_back(pages));
        assert_eq!(counts(&pool), (7, 0));
        assert!(pool.take(16 << 20, now).is_some());
        assert_eq!(counts(&pool), (3, 0));
        pool.give_up();
        assert!(pool.take(40_000, now).is_none());
    }
}
