//! Publisher: the part that publishes as fast as it may.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_client::{Client, Publisher};

use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::failure::Failure;

/// What the payloads are made of.
const FILL: u8 = 7;

pub(super) async fn play(client: &Client, topic: &str, size: usize, loan: bool) -> Result<(), Failure> {
    let publisher = client.publisher(topic)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    if loan {
        publish_loans(&publisher, size, &meter).await?;
    } else {
        publish(&publisher, &Bytes::from(vec![FILL; size]), &meter).await?;
    }
    client.flush().await?;
    let published = Tally { messages: meter.messages(), per_s: follower.rate() };
    say(&Account { published, ..Account::default() })
}

/// What is measured.
async fn publish(publisher: &Publisher, payload: &Bytes, meter: &Meter) -> Result<(), Failure> {
    let mut published = 0;
    while !meter.is_stopped() {
        publisher.publish(payload.clone()).await?;
        published += 1;
        meter.set(published);
    }
    Ok(())
}

/// What is measured instead, with loans.
async fn publish_loans(publisher: &Publisher, size: usize, meter: &Meter) -> Result<(), Failure> {
    let mut published = 0;
    while !meter.is_stopped() {
        let mut loan = publisher.loan(size);
        loan.fill(FILL);
        publisher.publish_loan(loan).await?;
        published += 1;
        meter.set(published);
    }
    Ok(())
}
