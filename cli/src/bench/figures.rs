//! Figures: what came of a round, and of many.

use serde::Serialize;

use crate::bench::latencies::Summary;
use crate::bench::meter::{Account, Tally};

/// What does not apply, or can't be known, is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Delivered, to all subscribers together.
    pub(crate) messages_per_s: Option<f64>,
    /// Payload that was delivered.
    pub(crate) bytes_per_s: Option<f64>,
    pub(crate) lost: Option<u64>,
    pub(crate) broker_cpu_us_per_message: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    pub(crate) max_us: Option<f64>,
    /// All messages, also those that do not count for the rates.
    pub(crate) published: Option<u64>,
    pub(crate) received: Option<u64>,
    pub(crate) disordered: Option<u64>,
    pub(crate) publisher_cores: Option<f64>,
    pub(crate) broker_cores: Option<f64>,
    pub(crate) subscriber_cores: Option<f64>,
}

/// How many processors each side keeps busy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cores {
    pub(crate) publishers: Option<f64>,
    pub(crate) broker: Option<f64>,
    pub(crate) subscribers: Option<f64>,
}

impl Figures {
    /// Of a round in which each message of a publisher goes to all subscribers, and whatever those publish back to all
    /// publishers.
    pub(crate) fn of(publishers: &[Account], subscribers: &[Account], size: usize, cores: Cores) -> Figures {
        let there = Way::between(publishers, subscribers);
        let back = Way::between(subscribers, publishers);
        let delivered_per_s = there.received.per_s + back.received.per_s;
        let published_per_s = there.published.per_s + back.published.per_s;
        let all = || publishers.iter().chain(subscribers);
        let latency: Option<Summary> = all().find_map(|account| account.latency);
        Figures {
            messages_per_s: Some(delivered_per_s),
            bytes_per_s: Some(delivered_per_s * size as f64),
            lost: Some(there.lost + back.lost),
            broker_cpu_us_per_message: cores
                .broker
                .filter(|_| published_per_s > 0.0)
                .map(|c| c / published_per_s * 1e6),
            p50_us: latency.map(|latency| latency.p50_us),
            p99_us: latency.map(|latency| latency.p99_us),
            p999_us: latency.map(|latency| latency.p999_us),
            max_us: latency.map(|latency| latency.max_us),
            published: Some(there.published.messages + back.published.messages),
            received: Some(there.received.messages + back.received.messages),
            disordered: Some(all().map(|account| account.disordered).sum()),
            publisher_cores: cores.publishers,
            broker_cores: cores.broker,
            subscriber_cores: cores.subscribers,
        }
    }

    /// The median of each rate, and the sum of what was counted.
    pub(crate) fn of_rounds(rounds: &[Figures]) -> Figures {
        let middle = |of: fn(&Figures) -> Option<f64>| median(rounds.iter().filter_map(of).collect());
        let sum = |of: fn(&Figures) -> Option<u64>| rounds.iter().map(of).sum();
        Figures {
            messages_per_s: middle(|figures| figures.messages_per_s),
            bytes_per_s: middle(|figures| figures.bytes_per_s),
            lost: sum(|figures| figures.lost),
            broker_cpu_us_per_message: middle(|figures| figures.broker_cpu_us_per_message),
            p50_us: middle(|figures| figures.p50_us),
            p99_us: middle(|figures| figures.p99_us),
            p999_us: middle(|figures| figures.p999_us),
            max_us: middle(|figures| figures.max_us),
            published: sum(|figures| figures.published),
            received: sum(|figures| figures.received),
            disordered: sum(|figures| figures.disordered),
            publisher_cores: middle(|figures| figures.publisher_cores),
            broker_cores: middle(|figures| figures.broker_cores),
            subscriber_cores: middle(|figures| figures.subscriber_cores),
        }
    }
}

/// What goes one way.
struct Way {
    published: Tally,
    received: Tally,
    lost: u64,
}

impl Way {
    fn between(from: &[Account], to: &[Account]) -> Way {
        let published = sum(from.iter().map(|account| account.published));
        let received = sum(to.iter().map(|account| account.received));
        let lost = (published.messages * to.len() as u64).saturating_sub(received.messages);
        Way { published, received, lost }
    }
}

fn sum(tallies: impl Iterator<Item = Tally>) -> Tally {
    tallies.fold(Tally::default(), |all, tally| Tally {
        messages: all.messages + tally.messages,
        per_s: all.per_s + tally.per_s,
    })
}

/// The value in the middle; of two in the middle the mean.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length.is_multiple_of(2) => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(published: u64, received: u64) -> Account {
        let tally = |messages| Tally { messages, per_s: messages as f64 / 2.0 };
        Account { published: tally(published), received: tally(received), ..Account::default() }
    }

    #[test]
    fn each_message_is_to_reach_all_subscribers() {
        let publishers = [account(10, 0), account(20, 0)];
        let subscribers = [account(0, 30), account(0, 28), account(0, 30)];
        let cores = Cores { broker: Some(0.3), ..Cores::default() };
        let figures = Figures::of(&publishers, &subscribers, 100, cores);
        assert_eq!((figures.published, figures.received, figures.lost), (Some(30), Some(88), Some(2)));
        assert_eq!((figures.messages_per_s, figures.bytes_per_s), (Some(44.0), Some(4400.0)));
        assert_eq!(figures.broker_cpu_us_per_message, Some(20_000.0));
    }

    #[test]
    fn what_comes_back_counts_as_well() {
        let figures = Figures::of(&[account(10, 9)], &[account(10, 10)], 1, Cores::default());
        assert_eq!((figures.published, figures.received, figures.lost), (Some(20), Some(19), Some(1)));
        assert_eq!(figures.broker_cpu_us_per_message, None);
    }

    #[test]
    fn of_several_rounds_the_median_counts_and_all_losses() {
        let round = |rate, lost| Figures { messages_per_s: Some(rate), lost: Some(lost), ..Figures::default() };
        let all = Figures::of_rounds(&[round(9.0, 0), round(1.0, 2), round(2.0, 1)]);
        assert_eq!((all.messages_per_s, all.lost, all.p50_us), (Some(2.0), Some(3), None));
        assert_eq!((median(vec![1.0, 4.0]), median(vec![])), (Some(2.5), None));
    }
}
