//! Ping and pong: the parts that publish to each other in turn.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_client::{Client, Delivery, Error, Message, Publisher, Subscription};

use crate::bench::latencies::Latencies;
use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::bench::subscriber::until_all_came;
use crate::failure::Failure;
use crate::system::clock::now;

/// Measures how long it takes until what it publishes has come back.
pub(super) async fn ping(client: &Client, ping: &str, pong: &str, size: usize) -> Result<(), Failure> {
    let mut pongs = client.subscribe(pong).await?;
    let publisher = client.publisher(ping)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    let payload = Bytes::from(vec![0; size]);
    let mut latencies = Latencies::new();
    let mut trips = 0;
    while !meter.is_stopped() {
        let sent = now();
        publisher.publish(payload.clone()).await?;
        next_message(&mut pongs).await?;
        if schedule.counts(sent) {
            latencies.record(now() - sent);
        }
        trips += 1;
        meter.set(trips);
    }
    let tally = Tally { messages: trips, per_s: follower.rate() };
    say(&Account { published: tally, received: tally, latency: latencies.summary(), ..Account::default() })
}

/// Publishes what comes.
pub(super) async fn pong(client: &Client, ping: &str, pong: &str) -> Result<(), Failure> {
    let mut pings = client.subscribe(ping).await?;
    let publisher = client.publisher(pong)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let per_s = until_all_came(cues, schedule, &meter, answer(&mut pings, &publisher, &meter)).await?;
    let tally = Tally { messages: meter.messages(), per_s };
    say(&Account { published: tally, received: tally, ..Account::default() })
}

async fn answer(pings: &mut Subscription, publisher: &Publisher, meter: &Meter) -> Result<(), Failure> {
    for answered in 1.. {
        let message = next_message(pings).await?;
        publisher.publish(message.payload).await?;
        meter.set(answered);
    }
    Ok(())
}

/// Whatever else comes than a message would never be answered.
async fn next_message(subscription: &mut Subscription) -> Result<Message, Failure> {
    match subscription.next().await {
        Some(Delivery::Message(message)) => Ok(message),
        Some(Delivery::Gap(_)) | None => Err(subscription.error().unwrap_or(Error::Disconnected).into()),
    }
}
