//! Part: what one process of a measurement does. The bench starts this program again for each.

use pipebus_client::Client;
use pipebus_proto::place::Address;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

use crate::bench::{idle, paced, ping, publisher, soak, subscriber};
use crate::bus::connect;
use crate::failure::Failure;
use crate::transport::{ipc, yardstick};

/// Written as JSON on the command line of the part's process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// Publishes as fast as it may.
    Publisher { topic: String, size: usize, loan: bool },
    /// Takes what comes.
    Subscriber { pattern: String },
    /// Publishes, and waits for the answer before it publishes again.
    Ping { ping: String, pong: String, size: usize },
    /// Publishes what comes.
    Pong { ping: String, pong: String },
    /// Publishes so many messages a second, with the time in each.
    PacedPublisher { topic: String, size: usize, rate: u32 },
    /// Takes what comes, and how long it was on its way.
    PacedSubscriber { pattern: String },
    /// Connects so often, and does nothing.
    Idle { instances: u32 },
    /// Comes and goes as many clients, in every way.
    Soak { prefix: String, seed: u64 },
    /// One of the yardstick's.
    Yardstick(yardstick::Part),
    /// One of two who talk without a bus.
    Ipc(ipc::Part),
}

/// Plays a part to its end.
pub(crate) fn run(bus: &Address, part: &Part) -> Result<(), Failure> {
    match part {
        Part::Publisher { topic, size, loan } => {
            on_bus(bus, async |client| publisher::play(client, topic, *size, *loan).await)
        }
        Part::Subscriber { pattern } => on_bus(bus, async |client| subscriber::play(client, pattern).await),
        Part::Ping { ping, pong, size } => on_bus(bus, async |client| ping::ping(client, ping, pong, *size).await),
        Part::Pong { ping, pong } => on_bus(bus, async |client| ping::pong(client, ping, pong).await),
        Part::PacedPublisher { topic, size, rate } => {
            on_bus(bus, async |client| paced::publisher(client, topic, *size, *rate).await)
        }
        Part::PacedSubscriber { pattern } => on_bus(bus, async |client| paced::subscriber(client, pattern).await),
        Part::Idle { instances } => alone(idle::play(bus, *instances)),
        Part::Soak { prefix, seed } => alone(soak::life::play(bus, prefix, *seed)),
        Part::Yardstick(part) => part.run(),
        Part::Ipc(part) => part.run(),
    }
}

/// All in one thread: publishing and receiving then cost no switch to the thread that keeps the connection.
pub(super) fn alone<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::system("start", error))?.block_on(work)
}

fn on_bus(bus: &Address, play: impl AsyncFnOnce(&Client) -> Result<(), Failure>) -> Result<(), Failure> {
    alone(async {
        let client = connect(bus, "bench").await?;
        play(&client).await
    })
}
