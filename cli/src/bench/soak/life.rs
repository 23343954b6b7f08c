//! Life: what one client does from its coming to its going; and the part, which is one life after another.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use pipebus_client::{Client, Delivery, Error, Overflow};
use pipebus_proto::place::Address;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::bench::clock::sleep_until;
use crate::bench::meter::{Cues, say};
use crate::bench::soak::dice::Dice;
use crate::failure::Failure;
use crate::system::clock::now;

/// Clients of one process at a time.
const LIVES: usize = 8;

/// Topics that are published to.
const TOPICS: u64 = 64;

/// Topics that one client publishes to which goes from one to the next: more than stay declared when they are no longer
/// used, so that some are retracted.
const WANDERINGS: u64 = 1100;

/// Topics that are served: so few that an asker mostly finds a server.
const SERVED: u64 = 4;

/// How long one client stays in one role at most.
const STAY: Duration = Duration::from_millis(400);

/// How long a slow subscriber does nothing after each message.
const SLOWNESS: Duration = Duration::from_millis(30);

/// How long to wait for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// How long a client may wait to be let in, while many others come.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

const OVERFLOWS: [Overflow; 5] =
    [Overflow::Block, Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect];

/// What a process has done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(in crate::bench) struct Deeds {
    pub(super) clients: u64,
    pub(super) published: u64,
    pub(super) received: u64,
    pub(super) answered: u64,
    /// What did not work, as may be under such a load.
    pub(super) failed: u64,
}

impl std::ops::AddAssign for Deeds {
    fn add_assign(&mut self, more: Deeds) {
        self.clients += more.clients;
        self.published += more.published;
        self.received += more.received;
        self.answered += more.answered;
        self.failed += more.failed;
    }
}

/// The part: lives until it gets its cue, and then says what it has done.
pub(in crate::bench) async fn play(bus: &Address, prefix: &str, seed: u64) -> Result<(), Failure> {
    let cues = Cues::ready()?;
    let (stop, stopped) = watch::channel(false);
    std::thread::spawn(move || {
        // Whatever comes: nobody wants it to go on.
        let _ = cues.next::<()>();
        stop.send_replace(true);
    });
    let deeds = Rc::new(Cell::new(Deeds::default()));
    let world = World { bus: bus.to_string(), prefix: prefix.to_owned(), deeds: deeds.clone(), stopped };
    let mut dice = Dice::new(seed);
    let lives = async {
        let mut living = JoinSet::new();
        for _ in 0..LIVES {
            living.spawn_local(world.clone().live_on(dice.split()));
        }
        while let Some(ended) = living.join_next().await {
            ended.map_err(|error| Failure::system("go on", error))??;
        }
        Ok::<(), Failure>(())
    };
    LocalSet::new().run_until(lives).await?;
    say(&deeds.get())
}

/// What lives have in common.
#[derive(Clone)]
struct World {
    bus: String,
    prefix: String,
    deeds: Rc<Cell<Deeds>>,
    stopped: watch::Receiver<bool>,
}

impl World {
    /// One life after another.
    async fn live_on(self, mut dice: Dice) -> Result<(), Failure> {
        while !*self.stopped.borrow() {
            match self.live(&mut dice).await {
                Ok(()) => {}
                Err(error) if is_of_life(&error) => self.count(|deeds| deeds.failed += 1),
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(Duration::from_millis(dice.below(20))).await;
        }
        Ok(())
    }

    async fn live(&self, dice: &mut Dice) -> Result<(), Error> {
        let builder = Client::builder().name("pipebus bench soak").timeout(CONNECT_WAIT);
        let client = builder.connect(&self.bus).await?;
        self.count(|deeds| deeds.clients += 1);
        match dice.below(16) {
            0 => self.wander(&client, dice).await?,
            1..=5 => self.publish(&client, dice).await?,
            6 | 7 => self.subscribe(&client, dice, Duration::ZERO).await?,
            8 | 9 => self.subscribe(&client, dice, SLOWNESS).await?,
            10..=12 => self.serve(&client, dice).await?,
            _ => self.ask(&client, dice).await?,
        }
        // Some just go.
        if dice.below(3) > 0 { client.close().await } else { Ok(()) }
    }

    async fn publish(&self, client: &Client, dice: &mut Dice) -> Result<(), Error> {
        for _ in 0..=dice.below(40) {
            let publisher = client.publisher(&format!("{}/{}", self.prefix, dice.below(TOPICS)))?;
            let size = dice.size();
            if dice.below(2) == 0 {
                publisher.publish(vec![7; size]).await?;
            } else {
                let mut loan = publisher.loan(size);
                loan.fill(7);
                publisher.publish_loan(loan).await?;
            }
            self.count(|deeds| deeds.published += 1);
        }
        if dice.below(2) == 0 { client.flush().await } else { Ok(()) }
    }

    /// Publishes to one topic after another.
    async fn wander(&self, client: &Client, dice: &mut Dice) -> Result<(), Error> {
        let first = dice.below(1 << 40);
        for number in first..first + WANDERINGS {
            client.publish(&format!("{}/wander/{number}", self.prefix), "here").await?;
            self.count(|deeds| deeds.published += 1);
            if *self.stopped.borrow() {
                break;
            }
        }
        Ok(())
    }

    /// Takes what comes for a while, and rests after each.
    async fn subscribe(&self, client: &Client, dice: &mut Dice, rest: Duration) -> Result<(), Error> {
        let pattern = match dice.below(3) {
            0 => format!("{}/*", self.prefix),
            1 => format!("{}/**", self.prefix),
            _ => format!("{}/{}", self.prefix, dice.below(TOPICS)),
        };
        let overflow = OVERFLOWS[usize::try_from(dice.below(5)).unwrap_or(0)];
        let mut subscription = client.subscribe_with(&pattern, overflow).await?;
        let until = now() + STAY;
        while now() < until {
            let next = tokio::select! {
                next = subscription.next() => next,
                () = sleep_until(until) => break,
            };
            match next {
                Some(Delivery::Message(_)) => self.count(|deeds| deeds.received += 1),
                Some(Delivery::Gap(_)) => {}
                None => return subscription.error().map_or(Ok(()), Err),
            }
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
        }
        if dice.below(2) == 0 { subscription.unsubscribe().await } else { Ok(()) }
    }

    /// Answers for a while, and now and then does not.
    async fn serve(&self, client: &Client, dice: &mut Dice) -> Result<(), Error> {
        let mut server = client.serve(&format!("{}/ask/{}", self.prefix, dice.below(SERVED))).await?;
        let until = now() + STAY;
        loop {
            let request = tokio::select! {
                request = server.next() => request,
                () = sleep_until(until) => return Ok(()),
            };
            let Some(request) = request else { return server.error().map_or(Ok(()), Err) };
            match dice.below(8) {
                0 => drop(request),
                1 => request.fail("as it happens").await?,
                _ => request.reply(vec![7; dice.size()]).await?,
            }
        }
    }

    async fn ask(&self, client: &Client, dice: &mut Dice) -> Result<(), Error> {
        for _ in 0..=dice.below(10) {
            let topic = format!("{}/ask/{}", self.prefix, dice.below(SERVED));
            match client.request(&topic, vec![7; dice.size()], ANSWER_WAIT).await {
                Ok(_) => self.count(|deeds| deeds.answered += 1),
                // There will be another.
                Err(error) if is_of_life(&error) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn count(&self, change: impl FnOnce(&mut Deeds)) {
        let mut deeds = self.deeds.get();
        change(&mut deeds);
        self.deeds.set(deeds);
    }
}

/// Where others die, are too slow, or are too many, some things do not work.
fn is_of_life(error: &Error) -> bool {
    matches!(
        error,
        Error::NoServer { .. }
            | Error::Unanswered { .. }
            | Error::Failed(_)
            | Error::TimedOut { .. }
            | Error::Disconnected
            | Error::Unconfirmed { .. }
            | Error::Full(_)
            | Error::Exhausted(_)
    )
}
