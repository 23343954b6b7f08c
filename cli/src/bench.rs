//! `pipebus bench`: what the bus carries on this machine, beside what its pipes alone would.
//!
//! This file runs rounds and ends what was started. Each process of a round plays a [`part`]; [`play`] is one round.

pub(crate) mod actor;
pub(crate) mod args;
pub(crate) mod clock;
pub(crate) mod figures;
mod idle;
pub(crate) mod latencies;
pub(crate) mod meter;
pub(crate) mod pace;
mod paced;
pub(crate) mod part;
mod ping;
pub(crate) mod play;
pub(crate) mod progress;
mod publisher;
pub(crate) mod report;
mod soak;
mod subscriber;
mod venue;

use pipebus_proto::place::Address;

use crate::bench::args::{Common, Flow, Latency, Relay, Work};
use crate::bench::figures::Figures;
use crate::bench::idle::Crowd;
use crate::bench::pace::STAMP_BYTES;
use crate::bench::play::Cast;
use crate::bench::progress::Progress;
use crate::bench::report::Report;
use crate::bench::venue::Venue;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::stage::Stage;
use crate::transport::ipc;
use crate::transport::yardstick::{self, Yardstick};

/// Measures on this bus, or without one on a bus of its own.
pub(crate) async fn run(bus: Option<&Address>, work: &Work) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let mut stage = Stage::set("bench")?;
    let measured = tokio::select! {
        biased;
        () = interrupt.received() => Err(Failure::Interrupted),
        measured = measure(&mut stage, bus, work) => measured,
    };
    let ended = stage.clear().await;
    measured.and(ended)
}

async fn measure(stage: &mut Stage, bus: Option<&Address>, work: &Work) -> Result<(), Failure> {
    match work {
        Work::Throughput(flow) => measure_flow(stage, bus, "throughput", flow, [1, 1]).await,
        Work::Fanout(flow) => measure_flow(stage, bus, "fanout", flow, [1, 8]).await,
        Work::Mesh(flow) => measure_flow(stage, bus, "mesh", flow, [8, 8]).await,
        Work::Latency(latency) => measure_latency(stage, bus, latency).await,
        Work::Idle(idle) => idle::measure(stage, bus, idle).await,
        Work::Soak(soak) => soak::measure(stage, bus, soak).await,
        Work::Ipc(ipc) => ipc::measure(stage, ipc).await,
    }
}

async fn measure_flow(
    stage: &mut Stage,
    bus: Option<&Address>,
    work: &'static str,
    flow: &Flow,
    [publishers, subscribers]: [u32; 2],
) -> Result<(), Failure> {
    let venue = Venue::open(stage, bus, &idle::settings(flow.idle_instances)).await?;
    let sides = [flow.publishers.unwrap_or(publishers), flow.subscribers.unwrap_or(subscribers)];
    let size = flow.common.size();
    let relay = flow.relay.unwrap_or(Relay::suiting(size));
    let on_bus = async || venue.flow(stage, sides, size, flow.loan).await;
    let on_yardstick = async |yardstick: &Yardstick<'_>| yardstick.flow(sides, size, relay, flow.feed).await;
    let (crowd, _) = Crowd::connect(stage, &venue, flow.idle_instances).await?;
    let (bus, yardstick) = rounds(stage, &flow.common, size, on_bus, on_yardstick).await?;
    crowd.leave().await?;
    let ratio = yardstick.and_then(|yardstick| Some(bus.messages_per_s? / yardstick.messages_per_s?));
    Report {
        idle_instances: flow.idle_instances,
        relay: flow.common.yardstick.then_some(relay),
        feed: flow.common.yardstick.then_some(flow.feed),
        ..Report::of(work, sides, size, &flow.common, (bus, yardstick, ratio))
    }
    .show(flow.common.json)
}

async fn measure_latency(stage: &mut Stage, bus: Option<&Address>, latency: &Latency) -> Result<(), Failure> {
    let venue = Venue::open(stage, bus, &[]).await?;
    let (common, rate) = (&latency.common, latency.rate);
    let size = if rate.is_some() { common.size().max(STAMP_BYTES) } else { common.size() };
    let on_bus = async || match rate {
        Some(rate) => venue.paced(stage, size, rate).await,
        None => venue.ping_pong(stage, size).await,
    };
    let on_yardstick = async |yardstick: &Yardstick<'_>| match rate {
        Some(rate) => yardstick.paced(size, rate).await,
        None => yardstick.ping_pong(size).await,
    };
    let (bus, yardstick) = rounds(stage, common, size, on_bus, on_yardstick).await?;
    let ratio = yardstick.and_then(|yardstick| Some(bus.p50_us? / yardstick.p50_us?));
    Report { rate, ..Report::of("latency", [1, 1], size, common, (bus, yardstick, ratio)) }.show(common.json)
}

/// Bus and yardstick take turns, so that both have their share of what else the machine does.
async fn rounds(
    stage: &Stage,
    common: &Common,
    size: usize,
    on_bus: impl AsyncFn() -> Result<Cast, Failure>,
    on_yardstick: impl AsyncFn(&Yardstick<'_>) -> Result<Cast, Failure>,
) -> Result<(Figures, Option<Figures>), Failure> {
    if common.yardstick {
        yardstick::check()?;
    }
    let progress = Progress::new();
    let (mut of_bus, mut of_yardstick) = (Vec::new(), Vec::new());
    for round in 1..=common.rounds {
        progress.show(&format!("round {round} of {}: bus", common.rounds));
        of_bus.push(on_bus().await?.play(common.seconds, size).await?);
        if common.yardstick {
            progress.show(&format!("round {round} of {}: yardstick", common.rounds));
            let yardstick = Yardstick::lay(stage)?;
            of_yardstick.push(on_yardstick(&yardstick).await?.play(common.seconds, size).await?);
        }
    }
    Ok((Figures::of_rounds(&of_bus), common.yardstick.then(|| Figures::of_rounds(&of_yardstick))))
}
