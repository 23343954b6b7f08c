//! Shards: threads that each run some of the instances, so that a broker scales with the processors.
//!
//! Each is a runtime of its own with one thread. A runtime of many threads would wake one of them whenever a pipe is
//! written to, though the one that will read it is about to look anyway: for pipes that are never empty, that is most
//! of the work.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// More would not help: what a broker does is mostly done by the kernel, for one pipe at a time.
const SHARDS_MAX: usize = 16;

/// Threads for instances.
pub(crate) struct Shards {
    shards: Vec<Shard>,
    /// Whose turn it is to get an instance.
    turn: usize,
}

struct Shard {
    runtime: Handle,
    /// Dropped, the thread ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Shards {
    /// One for each processor that this process may use.
    pub(crate) fn start() -> io::Result<Shards> {
        let count = thread::available_parallelism().map_or(1, |count| count.get().min(SHARDS_MAX));
        let shards = (0..count).map(|_| Shard::start()).collect::<io::Result<Vec<_>>>()?;
        Ok(Shards { shards, turn: 0 })
    }

    /// Where the next instance is to live.
    pub(crate) fn home(&self) -> &Handle {
        &self.shards[self.turn].runtime
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Handle> {
        self.shards.iter().map(|shard| &shard.runtime)
    }

    /// An instance has got its home.
    pub(crate) fn taken(&mut self) {
        self.turn = (self.turn + 1) % self.shards.len();
    }
}

impl Shard {
    fn start() -> io::Result<Shard> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let _ = runtime.block_on(stopped);
            // Not waiting for look-ups of users that hang.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("pipebusd-shard".to_owned()).spawn(run)?;
        Ok(Shard { runtime: handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing left to do: the instances have ended, or are dropped with its runtime.
            let _ = thread.join();
        }
    }
}
