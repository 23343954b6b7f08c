//! Soak: whether a broker has what it had before, after a long time in which clients came and went in every way.

mod dice;
pub(super) mod life;
mod sample;

use std::time::Duration;

use pipebus_proto::place::Address;
use serde::Serialize;

use crate::bench::actor::{Actor, hear_all, tell_all};
use crate::bench::args::Soak;
use crate::bench::figures::Figures;
use crate::bench::part::Part;
use crate::bench::progress::Progress;
use crate::bench::report::print_json;
use crate::bench::soak::dice::Dice;
use crate::bench::soak::life::Deeds;
use crate::bench::soak::sample::{ROWS, Sample};
use crate::bench::venue::Venue;
use crate::failure::Failure;
use crate::output::{self, bytes, grouped, time};
use crate::stage::Stage;
use crate::system::clock::now;
use crate::table::{finish, table};

/// Processes whose clients leave in good order.
const STEADY: u64 = 2;

/// Processes that are killed, again and again.
const MORTAL: usize = 2;

/// How long one of those lives at most.
const LIFE_MS_MAX: u64 = 1500;

/// How often the broker is looked at meanwhile.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// The part of the time, and the most of it, before what the broker has is taken for what it needs.
const WARM_UP: u32 = 10;
const WARM_UP_MAX: Duration = Duration::from_secs(60);

/// How long the broker may take until all that has ended is gone.
const SETTLING_MAX: Duration = Duration::from_secs(30);

/// How often it is looked at then.
const SETTLING_INTERVAL: Duration = Duration::from_millis(200);

/// So much more memory than after the warm-up is no leak: allocators keep what was once needed at a time.
const MEMORY_MORE_MAX: u64 = 16 << 20;

/// What a broker of one's own is told, so that queues overflow all the time.
const SETTINGS: [&str; 3] =
    ["queue.bytes_max=1048576", "queue.stall_timeout_ms=500", "limits.instances_per_user_max=4096"];

pub(super) async fn measure(stage: &mut Stage, bus: Option<&Address>, soak: &Soak) -> Result<(), Failure> {
    let venue = Venue::open(stage, bus, &SETTINGS.map(str::to_owned)).await?;
    let progress = Progress::new();
    let mut run = Run { stage, venue: &venue, progress: &progress, dice: Dice::new(u64::from(std::process::id())) };
    let cold = Sample::take(&venue.status().await?);
    progress.show("warming up");
    run.churn((soak.minutes / WARM_UP).min(WARM_UP_MAX), "warming up").await?;
    // Counts are held against those before anybody came.
    let warm = run.settle(&cold).await?;
    let before = Sample { instances: cold.instances, topics: cold.topics, subscriptions: cold.subscriptions, ..warm };
    let churned = run.churn(soak.minutes, "clients come and go").await?;
    progress.show("waiting until all are gone");
    let after = run.settle(&before).await?;
    drop(progress);

    let kept = kept_by_threads(&cold).saturating_sub(warm.open_files.unwrap_or_default());
    let leaks = after.leaks(&before, kept, MEMORY_MORE_MAX);
    let Churned { most, deeds, killed } = churned;
    let figures = Figures {
        lost: u64::try_from(leaks.len()).ok(),
        published: Some(deeds.published),
        received: Some(deeds.received),
        ..Figures::default()
    };
    let seconds = soak.minutes.as_secs_f64();
    let report = Report {
        work: "soak",
        seconds,
        before,
        most,
        after,
        clients: deeds.clients,
        answered: deeds.answered,
        failed: deeds.failed,
        killed,
        leaks,
        figures,
        yardstick: None,
        ratio: None,
    };
    report.show(soak.json)
}

/// How many files a broker may have open that had so many when it was new: each of its threads keeps two pipes to move
/// pages with, and one file to end them in, from when it first needs them.
fn kept_by_threads(cold: &Sample) -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    cold.open_files.unwrap_or_default() + 1 + 4 * u64::try_from(threads).unwrap_or_default()
}

struct Run<'a> {
    stage: &'a Stage,
    venue: &'a Venue,
    progress: &'a Progress,
    dice: Dice,
}

/// What there was in the meantime.
struct Churned {
    most: Sample,
    deeds: Deeds,
    killed: u64,
}

impl Run<'_> {
    /// Lets clients come and go for so long. Returns when all processes have ended.
    async fn churn(&mut self, length: Duration, what: &str) -> Result<Churned, Failure> {
        let begun = now();
        let mut steady = Vec::new();
        for _ in 0..STEADY {
            steady.push(self.start().await?);
        }
        let mut mortal = Vec::new();
        let mut churned = Churned { most: Sample::default(), deeds: Deeds::default(), killed: 0 };
        let mut sampled = begun;
        while now() - begun < length {
            mortal.push(self.start().await?);
            let rest = length.saturating_sub(now() - begun);
            let pause = Duration::from_millis(self.dice.below(LIFE_MS_MAX / MORTAL as u64));
            tokio::time::sleep(pause.min(rest)).await;
            if mortal.len() >= MORTAL {
                // Dropped, it is killed.
                drop(mortal.remove(0));
                churned.killed += 1;
            }
            if now() - sampled >= SAMPLE_INTERVAL {
                sampled = now();
                let sample = Sample::take(&self.venue.status().await?);
                churned.most = churned.most.or_more(sample);
                self.tell(&sample, what, (now() - begun, length));
            }
        }
        churned.most = churned.most.or_more(Sample::take(&self.venue.status().await?));
        churned.killed += u64::try_from(mortal.len()).unwrap_or_default();
        drop(mortal);
        tell_all(&mut steady, &()).await?;
        for deeds in hear_all::<Deeds>(&mut steady).await? {
            churned.deeds += deeds;
        }
        for actor in steady {
            actor.end().await?;
        }
        Ok(churned)
    }

    async fn start(&mut self) -> Result<Actor, Failure> {
        let part = Part::Soak { prefix: self.venue.prefix().to_owned(), seed: self.dice.below(u64::MAX) };
        let mut actor = self.venue.start(self.stage, "client process", &part)?;
        actor.ready().await?;
        Ok(actor)
    }

    fn tell(&self, sample: &Sample, what: &str, (past, length): (Duration, Duration)) {
        let number = |number: Option<u64>| number.map_or_else(unknown, grouped);
        self.progress.show(&format!(
            "{what}: {} of {}; {} instances, {} topics, {} open files, {}",
            time(past),
            time(length),
            number(sample.instances),
            number(sample.topics),
            number(sample.open_files),
            sample.memory_bytes.map_or_else(unknown, bytes),
        ));
    }

    /// Waits until nobody is there any more who was not there before, and nothing changes; but not for ever.
    async fn settle(&self, before: &Sample) -> Result<Sample, Failure> {
        let begun = now();
        let mut last = Sample::take(&self.venue.status().await?);
        loop {
            tokio::time::sleep(SETTLING_INTERVAL).await;
            let sample = Sample::take(&self.venue.status().await?);
            let gone = sample.leaks(before, u64::MAX, u64::MAX).is_empty();
            let still = sample.open_files == last.open_files;
            if gone && still || now() - begun > SETTLING_MAX {
                return Ok(sample);
            }
            last = sample;
        }
    }
}

fn unknown() -> String {
    "–".to_owned()
}

#[derive(Debug, Serialize)]
struct Report {
    work: &'static str,
    seconds: f64,
    /// After the warm-up, when all were gone.
    before: Sample,
    /// The most of each that was seen.
    most: Sample,
    /// When all were gone.
    after: Sample,
    clients: u64,
    answered: u64,
    failed: u64,
    /// Processes, each with several clients.
    killed: u64,
    leaks: Vec<String>,
    /// `lost` is how many of the counts have not come back.
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
        if self.leaks.is_empty() { Ok(()) } else { Err(Failure::Leaked { what: self.leaks.join("; ") }) }
    }

    fn text(&self) -> String {
        let mut rows = table(&["", "BEFORE", "MOST", "AFTER"], None);
        for (name, of, show) in ROWS {
            let cell = |sample: &Sample| of(sample).map_or_else(unknown, show);
            rows.add_row([name.to_owned(), cell(&self.before), cell(&self.most), cell(&self.after)]);
        }
        format!(
            "soak: {} clients came and went in {:.0} s, besides those in {} processes that were killed\n\
             {} messages published, {} received, {} requests answered; {} times something did not work, as may be\n\n{}\n",
            grouped(self.clients),
            self.seconds,
            grouped(self.killed),
            grouped(self.figures.published.unwrap_or_default()),
            grouped(self.figures.received.unwrap_or_default()),
            grouped(self.answered),
            grouped(self.failed),
            finish(rows, &[1, 2, 3]),
        )
    }
}
