//! Subscriber: the part that takes what comes, and checks that it is all and in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pipebus_client::{Arrival, Client, Error, InstanceId, Subscription};

use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::failure::Failure;

/// Messages that are missing when none has come for so long are lost.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn play(client: &Client, pattern: &str) -> Result<(), Failure> {
    let mut subscription = client.subscribe(pattern).await?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let mut order = Order::new();
    let per_s = until_all_came(cues, schedule, &meter, receive(&mut subscription, &meter, &mut order)).await?;
    let received = Tally { messages: meter.messages(), per_s };
    say(&Account { received, disordered: order.disordered, ..Account::default() })
}

/// What is measured. Returns when the subscription ends.
async fn receive(subscription: &mut Subscription, meter: &Meter, order: &mut Order) -> Result<(), Failure> {
    let mut received = 0;
    while let Some(arrival) = subscription.next_run().await {
        // What a gap tells of is missing in the count as well.
        let Arrival::Run(run) = arrival else { continue };
        for message in run.iter() {
            order.check(run.sender().id, message.sequence);
            received += 1;
        }
        meter.set(received);
    }
    Err(subscription.error().unwrap_or(Error::Disconnected).into())
}

/// Lets `receiving` go on until what the bench expects has come, and tells the messages a second.
pub(super) async fn until_all_came(
    cues: Cues,
    schedule: Schedule,
    meter: &Arc<Meter>,
    receiving: impl Future<Output = Result<(), Failure>>,
) -> Result<f64, Failure> {
    let follower = schedule.follow(meter);
    let meter = meter.clone();
    let all_came = tokio::task::spawn_blocking(move || {
        let rate = follower.rate();
        meter.wait_for(cues.next()?, PATIENCE);
        Ok(rate)
    });
    tokio::select! {
        biased;
        received = receiving => received.and(Err(Error::Disconnected.into())),
        rate = all_came => rate.map_err(|error| Failure::system("wait for messages", error))?,
    }
}

/// Checks that each publisher's order is kept. What is missing shows in the count of all.
#[derive(Debug)]
struct Order {
    /// Messages come in runs of the same publisher: this one's number, and its last message's.
    current: (InstanceId, u64),
    others: HashMap<InstanceId, u64>,
    disordered: u64,
}

impl Order {
    fn new() -> Order {
        Order { current: (InstanceId::BROKER, 0), others: HashMap::new(), disordered: 0 }
    }

    fn check(&mut self, sender: InstanceId, sequence: u64) {
        if sender != self.current.0 {
            self.others.insert(self.current.0, self.current.1);
            self.current = (sender, self.others.get(&sender).copied().unwrap_or(0));
        }
        if sequence <= self.current.1 {
            self.disordered += 1;
        } else {
            self.current.1 = sequence;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(messages: &[(u32, u64)], disordered: u64) {
        let mut order = Order::new();
        messages.iter().for_each(|&(sender, sequence)| order.check(InstanceId(sender), sequence));
        assert_eq!(order.disordered, disordered, "{messages:?}");
    }

    #[test]
    fn each_publisher_has_an_order_of_its_own() {
        check(&[(1, 1), (2, 1), (1, 2), (2, 2), (2, 3)], 0);
        check(&[(1, 1), (1, 3)], 0);
        check(&[(1, 1), (1, 1)], 1);
        check(&[(1, 2), (2, 1), (1, 1), (1, 3)], 1);
    }
}
