//! `pipebus bench ipc`: what two processes can say to each other on this machine, by each means that it has.
//!
//! No bus takes part: this shows what its pipes stand beside.

mod ends;
mod file;
mod means;
mod report;

use serde::{Deserialize, Serialize};

use crate::bench::actor::{Actor, hear_all, tell_all};
use crate::bench::args::Ipc;
use crate::bench::figures::Figures;
use crate::bench::meter::{Account, Schedule};
use crate::bench::part;
use crate::bench::play::Cast;
use crate::bench::progress::Progress;
use crate::failure::Failure;
use crate::output;
use crate::stage::Stage;
use crate::transport::fifo::ipc::means::Means;
use crate::transport::fifo::ipc::report::{Cell, Report};
use crate::transport::fifo::temporary::scratch;

/// Of the messages: what fits a pipe's page, what fills a pipe, and more.
const SIZES: [usize; 5] = [64, 1 << 10, 16 << 10, 64 << 10, 1 << 20];

/// What one of two processes does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// Sends to the far end.
    Near(ends::Plan),
    /// Takes what comes from the near end.
    Far(ends::Plan),
    /// Appends to a file.
    FileWriter(file::Plan),
    /// Reads what is in the file.
    FileReader(file::Plan),
}

impl Part {
    /// Plays it to its end.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match self {
            Part::Near(plan) => ends::near(plan),
            Part::Far(plan) => ends::far(plan),
            Part::FileWriter(plan) => file::writer(plan),
            Part::FileReader(plan) => file::reader(plan),
        }
    }
}

pub(crate) async fn measure(stage: &Stage, ipc: &Ipc) -> Result<(), Failure> {
    let progress = Progress::new();
    let mut cells = Vec::new();
    for size in SIZES {
        for means in Means::ALL {
            progress.show(&format!("{} over {}", output::bytes(size as u64), means.name()));
            cells.push(measure_cell(stage, ipc, means, size).await?);
        }
    }
    drop(progress);
    Report { work: "ipc", seconds: ipc.seconds.as_secs_f64(), cells }.show(ipc.json)
}

async fn measure_cell(stage: &Stage, ipc: &Ipc, means: Means, size: usize) -> Result<Cell, Failure> {
    let (messages_per_s, p50_us) = if means == Means::File {
        // Nobody is told that there is something in a file, so there is no answer to wait for.
        (measure_file(stage, ipc, size).await?, None)
    } else {
        let flow = measure_ends(stage, ipc, means, size, false).await?;
        let trips = measure_ends(stage, ipc, means, size, true).await?;
        (flow.messages_per_s, trips.p50_us)
    };
    let bytes_per_s = messages_per_s.map(|messages| messages * size as f64);
    Ok(Cell { means, size, messages_per_s, bytes_per_s, round_trip_p50_us: p50_us })
}

async fn measure_ends(stage: &Stage, ipc: &Ipc, means: Means, size: usize, trips: bool) -> Result<Figures, Failure> {
    let directory = scratch(stage)?;
    let plan = ends::Plan { means, directory: directory.path().to_owned(), message_bytes: size, trips };
    let [near, far] = start(stage, [Part::Near(plan.clone()), Part::Far(plan)]).await?;
    let cast = Cast { publishers: vec![near], subscribers: vec![far], carrier: None, relay: None };
    cast.play(ipc.seconds, size).await
}

/// The reader begins when the writer has ended, so that their times add up.
async fn measure_file(stage: &Stage, ipc: &Ipc, size: usize) -> Result<Option<f64>, Failure> {
    let directory = scratch(stage)?;
    let plan = file::Plan { path: directory.path().join("file"), message_bytes: size };
    let mut actors = start(stage, [Part::FileWriter(plan.clone()), Part::FileReader(plan)]).await?;
    tell_all(&mut actors[..1], &Schedule::begin(ipc.seconds / 2)).await?;
    let mut accounts: Vec<Account> = hear_all(&mut actors[..1]).await?;
    tell_all(&mut actors[1..], &()).await?;
    accounts.extend(hear_all::<Account>(&mut actors[1..]).await?);
    for actor in actors {
        actor.end().await?;
    }
    let seconds_a_message = 1.0 / accounts[0].published.per_s + 1.0 / accounts[1].received.per_s;
    Ok(Some(1.0 / seconds_a_message))
}

/// The far end first: it is there when the near one comes.
async fn start(stage: &Stage, [near, far]: [Part; 2]) -> Result<[Actor; 2], Failure> {
    // Neither looks at a bus.
    let mut far = Actor::start(stage, &stage.bus(), "far end", &part::Part::Ipc(far))?;
    far.ready().await?;
    let mut near = Actor::start(stage, &stage.bus(), "near end", &part::Part::Ipc(near))?;
    near.ready().await?;
    Ok([near, far])
}
