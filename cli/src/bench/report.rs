//! Report: what was measured, as JSON for programs or as a table for people.

use serde::Serialize;

use crate::bench::args::{Common, Feed, Relay};
use crate::bench::figures::Figures;
use crate::failure::Failure;
use crate::output::{self, grouped};
use crate::table::{finish, table};

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) work: &'static str,
    pub(crate) size: usize,
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    pub(crate) seconds: f64,
    pub(crate) rounds: u32,
    /// Connected meanwhile, besides those who take part.
    pub(crate) idle_instances: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relay: Option<Relay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) feed: Option<Feed>,
    #[serde(flatten)]
    pub(crate) bus: Figures,
    pub(crate) yardstick: Option<Figures>,
    pub(crate) ratio: Option<f64>,
}

impl Report {
    pub(crate) fn of(
        work: &'static str,
        [publishers, subscribers]: [u32; 2],
        size: usize,
        common: &Common,
        (bus, yardstick, ratio): (Figures, Option<Figures>, Option<f64>),
    ) -> Report {
        let (seconds, rounds) = (common.seconds.as_secs_f64(), common.rounds);
        Report {
            work,
            size,
            publishers,
            subscribers,
            seconds,
            rounds,
            idle_instances: 0,
            rate: None,
            relay: None,
            feed: None,
            bus,
            yardstick,
            ratio,
        }
    }

    /// Shows it, and fails if a message was lost.
    pub(crate) fn show(&self, json: bool) -> Result<(), Failure> {
        if json {
            print_json(self)?;
        } else {
            output::write(format!("{}\n\n{}\n", self.title(), self.table()).as_bytes())?;
        }
        match (self.bus.lost.unwrap_or(0), self.bus.disordered.unwrap_or(0)) {
            (0, 0) => Ok(()),
            (lost, disordered) => Err(Failure::Lossy { lost, disordered }),
        }
    }

    fn title(&self) -> String {
        let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let [publishers, subscribers] = [count(self.publishers, "publisher"), count(self.subscribers, "subscriber")];
        let rounds = if self.rounds == 1 { String::new() } else { format!(", median of {} rounds", self.rounds) };
        let rate = self.rate.map_or(String::new(), |rate| format!(", {} a second", grouped(u64::from(rate))));
        let idle = match self.idle_instances {
            0 => String::new(),
            instances => format!(", {} idle instances", grouped(u64::from(instances))),
        };
        let size = grouped(self.size as u64);
        format!("{}: {publishers}, {subscribers}{idle}, {size} bytes{rate}, {} s{rounds}", self.work, self.seconds)
    }

    fn table(&self) -> String {
        let all: Vec<&Figures> = [Some(&self.bus), self.yardstick.as_ref()].into_iter().flatten().collect();
        let relay = match (self.relay, self.feed) {
            (Some(relay), Some(feed)) => format!("RELAY ({relay:?}, {feed:?})").to_lowercase(),
            _ => "relay".to_owned(),
        };
        let header = ["", "BUS", &relay.to_uppercase()];
        let mut table = table(&header[..=all.len()], None);
        for (label, of) in ROWS {
            let cells: Vec<Option<String>> = all.iter().map(|figures| of(figures)).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(Option::unwrap_or_default);
                table.add_row(std::iter::once((*label).to_owned()).chain(cells));
            }
        }
        let numbers: Vec<usize> = (1..=all.len()).collect();
        let ratio = self.ratio.map_or(String::new(), |ratio| format!("\n\nratio  {ratio:.3}"));
        finish(table, &numbers) + &ratio
    }
}

pub(crate) fn print_json(report: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(report).map_err(|error| Failure::system("write JSON", error))?;
    text.push(b'\n');
    output::write(&text)
}

/// A label, and what is beside it.
type Row = (&'static str, fn(&Figures) -> Option<String>);

const ROWS: &[Row] = &[
    ("messages/s", |figures| figures.messages_per_s.map(whole)),
    ("MB/s", |figures| figures.bytes_per_s.map(|bytes| format!("{:.1}", bytes / 1e6))),
    ("p50, us", |figures| figures.p50_us.map(tenths)),
    ("p99, us", |figures| figures.p99_us.map(tenths)),
    ("p99.9, us", |figures| figures.p999_us.map(tenths)),
    ("max, us", |figures| figures.max_us.map(tenths)),
    ("its CPU, s per million messages", |figures| figures.broker_cpu_us_per_message.map(|us| format!("{us:.3}"))),
    ("its cores", |figures| figures.broker_cores.map(|cores| format!("{cores:.2}"))),
    ("publishers' cores", |figures| figures.publisher_cores.map(|cores| format!("{cores:.2}"))),
    ("subscribers' cores", |figures| figures.subscriber_cores.map(|cores| format!("{cores:.2}"))),
    ("published", |figures| figures.published.map(grouped)),
    ("received", |figures| figures.received.map(grouped)),
    ("lost", |figures| figures.lost.map(grouped)),
];

/// Rates are far below what a `u64` holds.
fn whole(value: f64) -> String {
    grouped(value.round() as u64)
}

fn tenths(value: f64) -> String {
    format!("{value:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(yardstick: Option<Figures>) -> Report {
        let bus = Figures {
            messages_per_s: Some(1_234_567.4),
            bytes_per_s: Some(158e6),
            lost: Some(0),
            broker_cpu_us_per_message: Some(0.2512),
            ..Figures::default()
        };
        Report {
            work: "throughput",
            size: 128,
            publishers: 1,
            subscribers: 8,
            seconds: 0.5,
            rounds: 3,
            idle_instances: 0,
            rate: None,
            relay: Some(Relay::Copy),
            feed: Some(Feed::Write),
            bus,
            yardstick,
            ratio: yardstick.map(|_| 0.5),
        }
    }

    #[test]
    fn a_report_shows_what_applies() {
        let report = report(None);
        assert_eq!(report.title(), "throughput: 1 publisher, 8 subscribers, 128 bytes, 0.5 s, median of 3 rounds");
        let expected = "\
BUS
messages/s                       1,234,567
MB/s                                 158.0
its CPU, s per million messages      0.251
lost                                     0";
        assert_eq!(report.table().lines().map(str::trim).collect::<Vec<_>>().join("\n"), expected);
    }

    #[test]
    fn the_yardstick_stands_beside_the_bus() {
        let text = report(Some(Figures { messages_per_s: Some(2e6), ..Figures::default() })).table();
        assert!(text.contains("BUS  RELAY (COPY, WRITE)"), "{text}");
        assert!(text.ends_with("ratio  0.500"), "{text}");
    }

    #[test]
    fn what_programs_read_has_all_keys() {
        let json = serde_json::to_value(report(Some(Figures::default()))).unwrap();
        let keys = ["messages_per_s", "bytes_per_s", "lost", "broker_cpu_us_per_message"];
        for key in keys.into_iter().chain(["p50_us", "p99_us", "p999_us", "max_us"]) {
            assert!(json.get(key).is_some() && json["yardstick"].get(key).is_some(), "{key}: {json}");
        }
        assert_eq!((&json["ratio"], &json["relay"]), (&0.5.into(), &"copy".into()));
    }
}
