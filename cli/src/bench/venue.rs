//! Venue: the bus that is measured, and how its casts are put together.

use pipebus_client::Client;
use pipebus_proto::admin::{STATUS, Status};
use pipebus_proto::place::Address;

use crate::bench::actor::{Actor, all_ready};
use crate::bench::part::Part;
use crate::bench::play::Cast;
use crate::bus::connect;
use crate::failure::Failure;
use crate::look::ask;
use crate::stage::Stage;

/// A bus with a broker that runs.
pub(super) struct Venue {
    bus: String,
    client: Client,
    broker: u32,
    /// Topics of this run begin with it, so that runs on one bus stay apart.
    prefix: String,
}

impl Venue {
    /// The bus that the user has named, or one of the stage's own, whose broker gets these settings.
    pub(super) async fn open(stage: &mut Stage, bus: Option<&Address>, settings: &[String]) -> Result<Venue, Failure> {
        let (bus, client) = match bus {
            Some(bus) => (bus.to_string(), connect(bus, "bench").await?),
            None => {
                let mut arguments = vec!["--log", "error", "--set", "door.access=owner"];
                settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
                stage.start_broker(&arguments)?;
                (stage.bus(), stage.connect().await?)
            }
        };
        let prefix = format!("bench/{}", std::process::id());
        let mut venue = Venue { bus, client, broker: 0, prefix };
        venue.broker = venue.status().await?.pid;
        Ok(venue)
    }

    /// What the broker says of itself.
    pub(super) async fn status(&self) -> Result<Status, Failure> {
        Ok(ask(&self.client, STATUS).await?.json()?)
    }

    /// The broker's process.
    pub(super) fn broker(&self) -> u32 {
        self.broker
    }

    /// What the topics of this run begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn start(&self, stage: &Stage, name: &'static str, part: &Part) -> Result<Actor, Failure> {
        Actor::start(stage, &self.bus, name, part)
    }

    /// Publishers that publish as fast as they may, and subscribers each of which gets it all.
    pub(super) async fn flow(
        &self,
        stage: &Stage,
        [publishers, subscribers]: [u32; 2],
        size: usize,
        loan: bool,
    ) -> Result<Cast, Failure> {
        let publisher = |number| Part::Publisher { topic: format!("{}/{number}", self.prefix), size, loan };
        let subscriber = Part::Subscriber { pattern: format!("{}/*", self.prefix) };
        self.cast(stage, (0..publishers).map(publisher), (0..subscribers).map(|_| subscriber.clone())).await
    }

    /// One who publishes when it has got an answer, and one who answers.
    pub(super) async fn ping_pong(&self, stage: &Stage, size: usize) -> Result<Cast, Failure> {
        let [ping, pong] = ["ping", "pong"].map(|name| format!("{}/{name}", self.prefix));
        let answering = Part::Pong { ping: ping.clone(), pong: pong.clone() };
        self.cast(stage, [Part::Ping { ping, pong, size }], [answering]).await
    }

    /// One who publishes at this rate, and one who subscribes.
    pub(super) async fn paced(&self, stage: &Stage, size: usize, rate: u32) -> Result<Cast, Failure> {
        let topic = format!("{}/paced", self.prefix);
        let subscriber = Part::PacedSubscriber { pattern: topic.clone() };
        self.cast(stage, [Part::PacedPublisher { topic, size, rate }], [subscriber]).await
    }

    /// Subscribers first, so that nothing is published before they hear it.
    async fn cast(
        &self,
        stage: &Stage,
        publishers: impl IntoIterator<Item = Part>,
        subscribers: impl IntoIterator<Item = Part>,
    ) -> Result<Cast, Failure> {
        let start = |name| move |part: Part| self.start(stage, name, &part);
        let subscribers = subscribers.into_iter().map(start("subscriber")).collect::<Result<Vec<_>, _>>();
        let mut subscribers = subscribers?;
        all_ready(&mut subscribers).await?;
        let publishers = publishers.into_iter().map(start("publisher")).collect::<Result<Vec<_>, _>>();
        let mut publishers = publishers?;
        all_ready(&mut publishers).await?;
        Ok(Cast { publishers, subscribers, carrier: Some(self.broker), relay: None })
    }
}
