//! Idle: what instances cost that do nothing.

use std::time::Duration;

use pipebus_client::Client;
use pipebus_proto::place::Address;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::bench::actor::{Actor, all_ready, hear_all, tell_all};
use crate::bench::args::Idle;
use crate::bench::clock::{processor_time, sleep_until};
use crate::bench::figures::Figures;
use crate::bench::meter::{Cues, say};
use crate::bench::part::Part;
use crate::bench::progress::Progress;
use crate::bench::report::print_json;
use crate::bench::venue::Venue;
use crate::failure::Failure;
use crate::output::{self, bytes, grouped};
use crate::stage::Stage;
use crate::system::clock::now;
use crate::system::process;

/// Instances of one process, which needs two file descriptors for each, and is allowed thousands.
const INSTANCES_A_PROCESS: u32 = 1000;

/// Instances of one process that connect at a time.
const CONNECTING: usize = 64;

/// How long a client may wait to be let in, while many others are.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the broker is left alone before it counts as being at rest.
const SETTLING: Duration = Duration::from_millis(300);

/// Instances that are connected and do nothing, in processes of their own. Dropped, they are gone.
pub(super) struct Crowd {
    actors: Vec<Actor>,
}

impl Crowd {
    /// Returns when all are connected.
    pub(super) async fn connect(stage: &Stage, venue: &Venue, instances: u32) -> Result<(Crowd, Duration), Failure> {
        let parts = shares(instances).map(|instances| Part::Idle { instances });
        let actors = parts.map(|part| venue.start(stage, "idle process", &part)).collect::<Result<_, _>>()?;
        let mut crowd = Crowd { actors };
        all_ready(&mut crowd.actors).await?;
        let begun = now();
        tell_all(&mut crowd.actors, &()).await?;
        hear_all::<()>(&mut crowd.actors).await?;
        Ok((crowd, now() - begun))
    }

    pub(super) async fn leave(self) -> Result<(), Failure> {
        for actor in self.actors {
            actor.end().await?;
        }
        Ok(())
    }
}

/// How many instances each process has.
fn shares(instances: u32) -> impl Iterator<Item = u32> {
    (0..instances).step_by(INSTANCES_A_PROCESS as usize).map(move |before| INSTANCES_A_PROCESS.min(instances - before))
}

/// What a broker of one's own must be told to let so many in, besides those who take part in a measurement.
pub(super) fn settings(instances: u32) -> Vec<String> {
    const OTHERS: u32 = 4096;
    let max = instances.saturating_add(OTHERS);
    ["limits.instances_max", "limits.instances_per_user_max"].map(|key| format!("{key}={max}")).into()
}

/// The part: connects, and then does nothing.
pub(super) async fn play(bus: &Address, instances: u32) -> Result<(), Failure> {
    process::raise_open_files();
    let cues = Cues::ready()?;
    cues.next::<()>()?;
    let mut connecting = JoinSet::new();
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..instances as usize {
        if number >= CONNECTING {
            clients.extend(next(&mut connecting).await?);
        }
        let client = Client::builder().name("pipebus bench idle").timeout(CONNECT_TIMEOUT);
        let bus = bus.to_string();
        connecting.spawn(async move { client.connect(&bus).await });
    }
    while let Some(client) = next(&mut connecting).await? {
        clients.push(client);
    }
    say(&())?;
    // Until there is nobody any more to give a cue.
    std::future::pending().await
}

async fn next(connecting: &mut JoinSet<pipebus_client::Result<Client>>) -> Result<Option<Client>, Failure> {
    let connected = connecting.join_next().await.transpose();
    let connected = connected.map_err(|error| Failure::system("connect", error))?;
    Ok(connected.transpose()?)
}

pub(super) async fn measure(stage: &mut Stage, bus: Option<&Address>, idle: &Idle) -> Result<(), Failure> {
    let venue = Venue::open(stage, bus, &settings(idle.instances)).await?;
    let progress = Progress::new();
    let before = venue.status().await?;
    progress.show(&format!("connecting {} instances", grouped(u64::from(idle.instances))));
    let (crowd, took) = Crowd::connect(stage, &venue, idle.instances).await?;
    progress.show("watching the broker rest");
    tokio::time::sleep(SETTLING).await;
    let broker = || processor_time([venue.broker()]);
    let (used_before, begun) = (broker(), now());
    sleep_until(begun + idle.seconds).await;
    let (used_after, ended) = (broker(), now());
    let after = venue.status().await?;
    crowd.leave().await?;
    drop(progress);

    let connected = after.instances.saturating_sub(before.instances);
    let cores = used_after.zip(used_before).map(|(after, before)| after.saturating_sub(before).as_secs_f64());
    let growth = after.memory_bytes.zip(before.memory_bytes).map(|(after, before)| after.saturating_sub(before) as f64);
    Report {
        work: "idle",
        instances: idle.instances,
        seconds: idle.seconds.as_secs_f64(),
        connect_seconds: took.as_secs_f64(),
        broker_bytes_before: before.memory_bytes,
        broker_bytes_after: after.memory_bytes,
        broker_bytes_per_instance: growth.map(|growth| growth / f64::from(idle.instances)),
        broker_cpu_percent: cores.map(|used| used / (ended - begun).as_secs_f64() * 100.0),
        figures: Figures { lost: Some(u64::from(idle.instances).saturating_sub(connected)), ..Figures::default() },
        yardstick: None,
        ratio: None,
    }
    .show(idle.json)
}

#[derive(Debug, Serialize)]
struct Report {
    work: &'static str,
    instances: u32,
    seconds: f64,
    connect_seconds: f64,
    broker_bytes_before: Option<u64>,
    broker_bytes_after: Option<u64>,
    broker_bytes_per_instance: Option<f64>,
    broker_cpu_percent: Option<f64>,
    /// Of instances: `lost` are those that are no longer connected.
    #[serde(flatten)]
    figures: Figures,
    /// There is nothing to compare it with; programs find the keys that all reports have.
    yardstick: Option<Figures>,
    ratio: Option<f64>,
}

impl Report {
    fn show(&self, json: bool) -> Result<(), Failure> {
        if json {
            print_json(self)?;
        } else {
            output::write(self.text().as_bytes())?;
        }
        match self.figures.lost {
            None | Some(0) => Ok(()),
            Some(instances) => Err(Failure::Left { instances }),
        }
    }

    fn text(&self) -> String {
        let unknown = || "–".to_owned();
        let memory = |size: Option<u64>| size.map_or_else(unknown, bytes);
        let each = self.broker_bytes_per_instance.map_or_else(unknown, |each| format!("{:.2} KiB", each / 1024.0));
        let percent = self.broker_cpu_percent.map_or_else(unknown, |percent| format!("{percent:.3} %"));
        let per_s = f64::from(self.instances) / self.connect_seconds;
        format!(
            "idle: {} instances, {} s at rest\n\n\
             to connect them  {:.2} s, {per_s:.0} a second\n\
             broker's memory  {} before, {} after: {each} an instance\n\
             broker's CPU     {percent} of one at rest\n",
            grouped(u64::from(self.instances)),
            self.seconds,
            self.connect_seconds,
            memory(self.broker_bytes_before),
            memory(self.broker_bytes_after),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_shared_out_to_processes() {
        let check = |instances, wanted: &[u32]| assert_eq!(shares(instances).collect::<Vec<_>>(), wanted);
        check(1, &[1]);
        check(INSTANCES_A_PROCESS, &[INSTANCES_A_PROCESS]);
        check(2 * INSTANCES_A_PROCESS + 7, &[INSTANCES_A_PROCESS, INSTANCES_A_PROCESS, 7]);
    }
}
