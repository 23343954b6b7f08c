//! Yardstick: what the kernel's pipes alone carry, with as many bytes, hops and copies for each as on the bus.
//!
//! Between its publishers and subscribers is a relay that only reads and writes. What a bus does besides, such as
//! finding out what goes where, costs what is missing to the relay's speed.

mod feed;
mod paced;
mod ping;
mod pipes;
mod reader;
mod relay;

use std::path::{Path, PathBuf};

use pipebus_proto::frame::HEAD_BYTES;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::bench::actor::{Actor, all_ready};
use crate::bench::args::{Feed, Relay};
use crate::bench::part;
use crate::bench::play::Cast;
use crate::failure::Failure;
use crate::stage::Stage;
use crate::transport::fifo::temporary::scratch;
use crate::transport::fifo::yardstick::pipes::make_fifo;
use crate::transport::fifo::yardstick::relay::Group;

/// What a process of a yardstick does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// Reads and writes between pipes.
    Relay(relay::Plan),
    /// The publisher.
    Writer(feed::Plan),
    /// The subscriber.
    Reader(reader::Plan),
    Ping(ping::Plan),
    Pong(ping::Plan),
    PacedWriter(paced::Plan),
    PacedReader(paced::Plan),
}

impl Part {
    /// Plays it to its end.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match self {
            Part::Relay(plan) => relay::run(plan),
            Part::Writer(plan) => feed::run(plan),
            Part::Reader(plan) => reader::run(plan),
            Part::Ping(plan) => ping::ping(plan),
            Part::Pong(plan) => ping::pong(plan),
            Part::PacedWriter(plan) => paced::writer(plan),
            Part::PacedReader(plan) => paced::reader(plan),
        }
    }
}

/// Whether there can be a yardstick on this system.
pub(crate) fn check() -> Result<(), Failure> {
    Ok(())
}

/// FIFOs, and the stage for those who use them.
pub(crate) struct Yardstick<'a> {
    stage: &'a Stage,
    directory: TempDir,
}

impl Yardstick<'_> {
    pub(crate) fn lay(stage: &Stage) -> Result<Yardstick<'_>, Failure> {
        Ok(Yardstick { stage, directory: scratch(stage)? })
    }

    /// Each writer's bytes go to all readers.
    pub(crate) async fn flow(
        &self,
        [writers, readers]: [u32; 2],
        size: usize,
        relay: Relay,
        feed: Feed,
    ) -> Result<Cast, Failure> {
        let message_bytes = size + HEAD_BYTES;
        let inputs = self.fifos("in", writers)?;
        let outputs = self.fifos("out", readers)?;
        let writers = inputs.iter().map(|to| Part::Writer(feed::Plan { to: to.clone(), message_bytes, feed }));
        let readers = outputs.iter().map(|from| Part::Reader(reader::Plan { from: from.clone(), message_bytes }));
        let (writers, readers): (Vec<_>, Vec<_>) = (writers.collect(), readers.collect());
        let group = Group { inputs, outputs };
        self.cast(writers, readers, relay::Plan { groups: vec![group], relay, polls: false }).await
    }

    /// Two hops through the relay there, and two back.
    pub(crate) async fn ping_pong(&self, size: usize) -> Result<Cast, Failure> {
        let message_bytes = size + HEAD_BYTES;
        let [a, b, c, d] = self.fifos("hop", 4)?.try_into().expect("four were asked for");
        let ping = ping::Plan { to: a.clone(), from: d.clone(), message_bytes };
        let pong = ping::Plan { to: c.clone(), from: b.clone(), message_bytes };
        let groups = [(a, b), (c, d)].map(|(from, to)| Group { inputs: vec![from], outputs: vec![to] });
        let relay = relay::Plan { groups: groups.into(), relay: Relay::Copy, polls: true };
        self.cast(vec![Part::Ping(ping)], vec![Part::Pong(pong)], relay).await
    }

    /// One who writes at this rate, and one who reads.
    pub(crate) async fn paced(&self, size: usize, rate: u32) -> Result<Cast, Failure> {
        let message_bytes = size + HEAD_BYTES;
        let [from, to] = self.fifos("hop", 2)?.try_into().expect("two were asked for");
        let writer = paced::Plan { pipe: from.clone(), message_bytes, rate };
        let reader = paced::Plan { pipe: to.clone(), message_bytes, rate };
        let group = Group { inputs: vec![from], outputs: vec![to] };
        let relay = relay::Plan { groups: vec![group], relay: Relay::Copy, polls: true };
        self.cast(vec![Part::PacedWriter(writer)], vec![Part::PacedReader(reader)], relay).await
    }

    fn fifos(&self, name: &str, count: u32) -> Result<Vec<PathBuf>, Failure> {
        let path = |number| self.directory.path().join(format!("{name}-{number}"));
        (0..count).map(|number| make_fifo(path(number))).collect()
    }

    /// Starts them all before it waits for any: whoever opens a FIFO waits for who opens its other end.
    async fn cast(&self, writers: Vec<Part>, readers: Vec<Part>, relay: relay::Plan) -> Result<Cast, Failure> {
        // None of them looks at the bus.
        let bus = self.stage.bus();
        let start = |name| {
            let bus = &bus;
            move |part: &Part| Actor::start(self.stage, bus, name, &part::Part::Yardstick(part.clone()))
        };
        let mut subscribers = readers.iter().map(start("reader")).collect::<Result<Vec<_>, _>>()?;
        let mut publishers = writers.iter().map(start("writer")).collect::<Result<Vec<_>, _>>()?;
        let mut relay = start("relay")(&Part::Relay(relay))?;
        relay.ready().await?;
        all_ready(&mut subscribers).await?;
        all_ready(&mut publishers).await?;
        Ok(Cast { publishers, subscribers, carrier: relay.process(), relay: Some(relay) })
    }
}

/// What is wrong with a pipe at a path.
fn failed(doing: &str, path: &Path, error: impl Into<std::io::Error>) -> Failure {
    Failure::system(format!("{doing} {}", path.display()), error)
}
