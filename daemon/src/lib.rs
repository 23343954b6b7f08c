//! The broker of pipebus: as a library, so that a test or an app can run one inside itself.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pipebusd::{Daemon, config::Config};
//! let mut config = Config::default();
//! config.bus.address = "/run/user/1000/my-app/bus".into();
//! let daemon = Daemon::bind(config)?;
//! daemon.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
//! # Ok(()) }
//! ```
//!
//! `ARCHITECTURE.md` in the repository is the map of what is in here.

mod admin;
mod audit;
mod broker;
pub mod config;
pub mod core;
mod counters;
mod delivery;
mod drain;
mod episode;
mod events;
mod handshake;
mod host;
mod inlet;
mod instance;
mod loans;
mod membership;
mod metrics;
mod outbox;
mod pulse;
mod read_buffer;
mod relay;
mod reload;
mod review;
pub mod rules;
pub mod service;
mod shards;
mod shutdown;
mod totals;
pub mod transport;

use std::sync::Arc;
use std::time::Duration;

use pipebus_proto::admin::Reloaded;
use pipebus_proto::place::Place;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info};

use crate::broker::Broker;
use crate::config::Config;
use crate::episode::Episode;
use crate::handshake::Handshakes;
pub use crate::host::Host;
pub use crate::pulse::Pulse;
use crate::shards::Shards;
use crate::shutdown::Conductor;
use crate::transport::{BindError, Closed, Inherited, Listener, Lost};

/// How long a failing door rests before it is listened to again.
const DOOR_RETRY: Duration = Duration::from_millis(100);

/// A broker that has its bus and lets nobody in yet; clients that knock wait.
pub struct Daemon {
    broker: Arc<Broker>,
    shards: Shards,
    listener: Listener,
}

impl Daemon {
    /// Takes the bus that the configuration names: makes its directory and its door, or takes over what a killed
    /// broker left there.
    ///
    /// # Errors
    /// Another broker has the bus, its directory can't be trusted, or the system says no.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub fn bind(config: Config) -> Result<Daemon, BindError> {
        Daemon::bind_inherited(config, None)
    }

    /// The same, with a door that another process, such as systemd, made and holds.
    ///
    /// # Errors
    /// As [`Daemon::bind`].
    ///
    /// # Panics
    /// As [`Daemon::bind`].
    pub fn bind_inherited(config: Config, door: Option<Inherited>) -> Result<Daemon, BindError> {
        let place = config.address()?.place(&transport::surroundings());
        let mut listener = Listener::bind(&place, &config.door, door)?;
        let shards = Shards::start().map_err(|source| BindError::System {
            doing: "start threads for",
            path: place.path().to_owned(),
            source,
        })?;
        let owner = transport::own_identity();
        let policy = rules::resolve(&config.policy.rules, &owner).map_err(BindError::Policy)?;
        let broker = Arc::new(Broker::new(config, policy, place, owner, &admin::topics()));
        listener.count_in(broker.tally.clone());
        Ok(Daemon { broker, shards, listener })
    }

    /// Lets those who may order this broker over the bus have of its program what only that can do. To be said once.
    #[must_use]
    pub fn hosted_by(self, host: impl Host) -> Daemon {
        let _ = self.broker.host.set(Box::new(host));
        self
    }

    /// The bus's place.
    pub fn place(&self) -> &Place {
        &self.broker.place
    }

    /// A way to see whether the broker is stuck.
    pub fn pulse(&self) -> Pulse {
        Pulse::new(self.broker.clone(), &self.shards)
    }

    /// A way to change what the broker obeys.
    pub fn reloader(&self) -> Reloader {
        Reloader { broker: self.broker.clone() }
    }

    /// Serves clients until `shutdown` is done, or it has been drained, as an administrator ordered over the bus. Then
    /// nobody new is let in, what clients have written and what waits for them is delivered, for at most the configured
    /// time, all are told goodbye, and what was made is removed.
    ///
    /// Clients are served by threads of the broker's own, one for each processor; here is only the door.
    ///
    /// # Errors
    /// It ended by itself, in the same steps, since nobody new could reach it any more: somebody has removed the bus's
    /// directory, or what in it this broker can't or must not make anew.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Lost> {
        let conductor = Conductor::new();
        let mut instances = JoinSet::new();
        let handshakes = Arc::new(Handshakes::default());
        let mut shutdown = std::pin::pin!(shutdown);
        let broker = self.broker.clone();
        let mut review = std::pin::pin!(review::keep_reviewing(&broker));
        let mut refresh = std::pin::pin!(review::keep_refreshing(&broker));
        let mut metrics = std::pin::pin!(metrics::file::keep_writing(&broker));
        let mut drained = std::pin::pin!(drain::drained(&broker));
        let mut failures = Episode::default();
        let ended = loop {
            let next = async {
                // Others wait at the door.
                (handshakes.turn().await, self.listener.accept(self.shards.home()).await)
            };
            tokio::select! {
                (turn, arrived) = next => match arrived {
                    Ok(arrived) => {
                        let instance = instance::serve(self.broker.clone(), arrived, turn, conductor.view());
                        instances.spawn_on(instance, self.shards.home());
                        self.shards.taken();
                    }
                    Err(Closed::Lost(lost)) => {
                        error!(error = %lost, "the bus is lost");
                        break Err(lost);
                    }
                    Err(Closed::Door(error)) => {
                        failures.add(1);
                        if let Some(times) = failures.due() {
                            error!(%error, times, "the door fails, so that nobody is let in");
                        }
                        tokio::time::sleep(DOOR_RETRY).await;
                    }
                },
                Some(ended) = instances.join_next() => {
                    if let Err(error) = ended {
                        error!(%error, "an instance ended in a panic; please report this");
                    }
                }
                () = &mut review => {}
                () = &mut refresh => {}
                () = &mut metrics => {}
                () = &mut shutdown => break Ok(()),
                () = &mut drained => break Ok(()),
            }
        };
        self.broker.host().stopping();
        info!(instances = instances.len(), "shutting down");
        let deadline = Instant::now() + self.broker.config.shutdown_timeout();
        conductor.conduct(deadline, || self.broker.wake_all()).await;
        instances.shutdown().await;
        ended
    }
}

/// Changes what a running broker obeys.
#[derive(Clone)]
pub struct Reloader {
    broker: Arc<Broker>,
}

impl Reloader {
    /// Obeys the policy and the limits of the configuration as its [`Host`] reads it now, also for clients that are
    /// connected. Returns the sections that differ otherwise: for those the broker has to be started anew.
    ///
    /// # Errors
    /// What is wrong with it: a rule names somebody who does not exist, or the groups of somebody who is connected can't be
    /// looked up; or there is no host that could read it. Then all stays as it was.
    pub async fn reload(&self) -> Result<Reloaded, String> {
        reload::reload(&self.broker).await
    }
}
