//! Play: one round of a measurement, on the bus or on the yardstick, which differ only in their cast.

use std::time::Duration;

use crate::bench::actor::{Actor, hear_all, tell_all};
use crate::bench::clock::{processor_time, sleep_until};
use crate::bench::figures::{Cores, Figures};
use crate::bench::meter::{Account, Schedule};
use crate::failure::Failure;
use crate::system::clock::now;

/// Who takes part in a round. All are ready.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) publishers: Vec<Actor>,
    pub(crate) subscribers: Vec<Actor>,
    /// The process of the broker or the relay, if that is known.
    pub(crate) carrier: Option<u32>,
    /// Of a yardstick; a broker outlives the round.
    pub(crate) relay: Option<Actor>,
}

impl Cast {
    /// Plays the round, and tells what came of it.
    pub(crate) async fn play(mut self, length: Duration, size: usize) -> Result<Figures, Failure> {
        let schedule = Schedule::begin(length);
        tell_all(&mut self.subscribers, &schedule).await?;
        tell_all(&mut self.publishers, &schedule).await?;
        let cores = self.cores(schedule).await;
        let publishers: Vec<Account> = hear_all(&mut self.publishers).await?;
        let published: u64 = publishers.iter().map(|publisher| publisher.published.messages).sum();
        tell_all(&mut self.subscribers, &published).await?;
        let subscribers: Vec<Account> = hear_all(&mut self.subscribers).await?;
        self.end().await?;
        Ok(Figures::of(&publishers, &subscribers, size, cores))
    }

    /// How many processors each side keeps busy while messages count.
    async fn cores(&self, schedule: Schedule) -> Cores {
        let processes = |actors: &[Actor]| -> Vec<u32> { actors.iter().filter_map(Actor::process).collect() };
        let (publishers, subscribers) = (processes(&self.publishers), processes(&self.subscribers));
        let read = || {
            let times =
                [processor_time(publishers.clone()), processor_time(self.carrier), processor_time(subscribers.clone())];
            (times, now())
        };
        sleep_until(schedule.from).await;
        let (before, begun) = read();
        sleep_until(schedule.until).await;
        let (after, ended) = read();
        let [publishers, broker, subscribers] = std::array::from_fn(|index| {
            let used = after[index]?.checked_sub(before[index]?)?;
            Some(used.as_secs_f64() / (ended - begun).as_secs_f64())
        });
        Cores { publishers, broker, subscribers }
    }

    async fn end(self) -> Result<(), Failure> {
        for actor in self.publishers.into_iter().chain(self.subscribers).chain(self.relay) {
            actor.end().await?;
        }
        Ok(())
    }
}
