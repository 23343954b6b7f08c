//! Paced: the parts that tell how long a message is on its way, at a rate that leaves the bus room.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_client::{Client, Delivery, Error, Publisher, Subscription};

use crate::bench::latencies::Latencies;
use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::bench::pace::{due, interval, stamp, stamp_of};
use crate::bench::subscriber::until_all_came;
use crate::failure::Failure;
use crate::system::clock::{Timer, now};

pub(super) async fn publisher(client: &Client, topic: &str, size: usize, rate: u32) -> Result<(), Failure> {
    let publisher = client.publisher(topic)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    publish(&publisher, size, rate, &meter).await?;
    client.flush().await?;
    let published = Tally { messages: meter.messages(), per_s: follower.rate() };
    say(&Account { published, ..Account::default() })
}

async fn publish(publisher: &Publisher, size: usize, rate: u32, meter: &Meter) -> Result<(), Failure> {
    let mut timer = Timer::start(interval(rate))?;
    let mut published = 0;
    while !meter.is_stopped() {
        for time in due(timer.count().await?, rate) {
            let mut payload = vec![0; size];
            stamp(&mut payload, time);
            publisher.publish(Bytes::from(payload)).await?;
            published += 1;
            meter.set(published);
        }
    }
    Ok(())
}

pub(super) async fn subscriber(client: &Client, pattern: &str) -> Result<(), Failure> {
    let mut subscription = client.subscribe(pattern).await?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let mut latencies = Latencies::new();
    let receiving = receive(&mut subscription, schedule, &meter, &mut latencies);
    let per_s = until_all_came(cues, schedule, &meter, receiving).await?;
    let received = Tally { messages: meter.messages(), per_s };
    say(&Account { received, latency: latencies.summary(), ..Account::default() })
}

async fn receive(
    subscription: &mut Subscription,
    schedule: Schedule,
    meter: &Meter,
    latencies: &mut Latencies,
) -> Result<(), Failure> {
    let mut received = 0;
    while let Some(delivery) = subscription.next().await {
        if let Delivery::Message(message) = delivery {
            if let Some(sent) = stamp_of(&message.payload).filter(|sent| schedule.counts(*sent)) {
                latencies.record(now().saturating_sub(sent));
            }
            received += 1;
            meter.set(received);
        }
    }
    Err(subscription.error().unwrap_or(Error::Disconnected).into())
}
