//! Pulse: whether the broker is alive on all of its threads, for a watchdog.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::shards::Shards;

/// Tells whether the broker is alive.
#[derive(Clone)]
pub struct Pulse {
    broker: Arc<Broker>,
    threads: Vec<Handle>,
}

impl Pulse {
    pub(crate) fn new(broker: Arc<Broker>, shards: &Shards) -> Pulse {
        Pulse { broker, threads: shards.all().cloned().collect() }
    }

    /// Whether every thread that serves clients has looked at the broker's central state within `patience`. One that is
    /// stuck never gets there, and so do all if nobody gives that state free.
    pub async fn beats(&self, patience: Duration) -> bool {
        let look = |thread: &Handle| {
            let broker = self.broker.clone();
            thread.spawn(async move { drop(broker.bus()) })
        };
        let looks: Vec<_> = self.threads.iter().map(look).collect();
        let all = async {
            for look in looks {
                // A thread that has ended is not stuck.
                let _ = look.await;
            }
        };
        timeout(patience, all).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::Daemon;
    use crate::config::Config;
    use pipebus_proto::place::Address;

    /// Far more than an idle thread takes to answer, and far less than one that is stuck.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// For one that is stuck whatever it is given.
    const SHORT: Duration = Duration::from_millis(50);

    fn daemon(directory: &tempfile::TempDir) -> Daemon {
        let mut config = Config::default();
        let pipe = format!(r"\\.\pipe\{}", directory.path().file_name().unwrap().display());
        let mut addresses = [directory.path().join("bus").display().to_string(), pipe].into_iter();
        // A bus is a directory where that can be one, and a pipe elsewhere.
        config.bus.address = addresses.find(|address| address.parse::<Address>().is_ok()).unwrap();
        Daemon::bind(config).unwrap()
    }

    #[tokio::test]
    async fn one_thread_that_is_stuck_stops_the_pulse_until_it_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = daemon(&directory);
        let pulse = daemon.pulse();
        assert!(pulse.beats(PATIENCE).await);
        for thread in daemon.shards.all() {
            let (release, released) = mpsc::channel::<()>();
            thread.spawn(async move { released.recv() });
            assert!(!pulse.beats(SHORT).await);
            drop(release);
            assert!(pulse.beats(PATIENCE).await);
        }
    }

    #[tokio::test]
    async fn a_broker_whose_central_state_is_never_given_free_has_no_pulse() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = daemon(&directory);
        let pulse = daemon.pulse();
        let (broker, (release, released)) = (daemon.broker.clone(), mpsc::channel::<()>());
        let (held, holds) = mpsc::channel();
        let holder = std::thread::spawn(move || {
            let _bus = broker.bus();
            held.send(()).unwrap();
            let _ = released.recv();
        });
        holds.recv().unwrap();
        assert!(!pulse.beats(SHORT).await);
        drop(release);
        holder.join().unwrap();
        assert!(pulse.beats(PATIENCE).await);
    }
}
