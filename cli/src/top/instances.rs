//! The rows of the view of instances, and its columns.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use pipebus_proto::admin::InstanceStatus;

use crate::look::UNKNOWN;
use crate::output::short;
use crate::top::figures::{bar, byte_rate, harmless, rate};
use crate::top::list::{Cell, Column, Heading, Row, Side, Width, contains};
use crate::top::rates::{Counts, Histories, Rates};
use crate::top::sample::Names;
use crate::top::theme::Tone;

/// An instance, as the broker last told of it.
#[derive(Clone, Debug)]
pub(crate) struct InstanceRow {
    pub(super) status: InstanceStatus,
    pub(super) user: String,
    /// None in the first sample.
    pub(super) rates: Option<Rates>,
    pub(super) histories: Histories,
}

/// The rows of a sample, given those of the one before and the time between the two, if there was one.
pub(super) fn rows(
    before: Vec<InstanceRow>,
    now: Vec<InstanceStatus>,
    time: Option<Duration>,
    names: &Names,
) -> Vec<InstanceRow> {
    let mut known: HashMap<u32, InstanceRow> = before.into_iter().map(|row| (row.status.id, row)).collect();
    now.into_iter().map(|status| row(known.remove(&status.id), status, time, names)).collect()
}

fn row(before: Option<InstanceRow>, status: InstanceStatus, time: Option<Duration>, names: &Names) -> InstanceRow {
    let mut histories = Histories::default();
    let mut counted = Counts::default();
    // By the broker's clock, since its answer may have been on its way for a while. Who is new has come since then.
    let mut over = time.map(|time| time.min(Duration::from_millis(status.connected_ms)));
    if let Some(before) = before {
        counted = Counts::from(&before.status);
        over = over.map(|_| Duration::from_millis(status.connected_ms.saturating_sub(before.status.connected_ms)));
        histories = before.histories;
    }
    let rates = over.and_then(|over| Rates::between(counted, Counts::from(&status), over));
    if let (Some(rates), Some(over)) = (&rates, over) {
        histories.add(rates, over);
    }
    InstanceRow { user: names.of(&status.identity), status, rates, histories }
}

impl InstanceRow {
    fn rate(&self, of: fn(&Rates) -> f64) -> Option<f64> {
        self.rates.as_ref().map(of)
    }

    fn compare_rates(&self, other: &InstanceRow, of: fn(&Rates) -> f64) -> Ordering {
        let value = |row: &InstanceRow| row.rate(of).unwrap_or(-1.0);
        value(self).total_cmp(&value(other))
    }

    fn patterns(&self) -> impl Iterator<Item = &str> {
        self.status.subscriptions.iter().map(|subscription| subscription.pattern.as_str())
    }
}

impl Row for InstanceRow {
    type Key = u32;
    const COLUMNS: &'static [Column<InstanceRow>] =
        &[ID, NAME, USER, PID, IN, OUT, BYTES, QUEUE, LOST, LOST_TOTAL, SUBSCRIPTIONS, PATTERNS];
    const SORT: usize = 6;

    fn key(&self) -> u32 {
        self.status.id
    }

    fn has(&self, text: &str) -> bool {
        let pid = self.status.pid.is_some_and(|pid| pid.to_string() == text);
        pid || self.status.id.to_string() == text
            || contains(&self.status.name, text)
            || contains(&self.user, text)
            || self.patterns().any(|pattern| contains(pattern, text))
    }
}

const ID: Column<InstanceRow> = Column {
    heading: Heading { name: "id", title: "ID", side: Side::Right, width: Width::Whole, rank: 0, largest_first: false },
    compare: |one, other| one.status.id.cmp(&other.status.id),
    show: |row, _| Cell::plain(row.status.id.to_string()),
};

const NAME: Column<InstanceRow> = Column {
    heading: Heading {
        name: "name",
        title: "NAME",
        side: Side::Left,
        width: Width::Fit(10, 40),
        rank: 0,
        largest_first: false,
    },
    compare: |one, other| one.status.name.cmp(&other.status.name),
    show: |row, _| Cell::new(harmless(&row.status.name), Tone::Strong),
};

const USER: Column<InstanceRow> = Column {
    heading: Heading {
        name: "user",
        title: "USER",
        side: Side::Left,
        width: Width::Fit(8, 16),
        rank: 5,
        largest_first: false,
    },
    compare: |one, other| one.user.cmp(&other.user),
    show: |row, _| Cell::plain(harmless(&row.user)),
};

const PID: Column<InstanceRow> = Column {
    heading: Heading {
        name: "pid",
        title: "PID",
        side: Side::Right,
        width: Width::Whole,
        rank: 6,
        largest_first: false,
    },
    compare: |one, other| one.status.pid.cmp(&other.status.pid),
    show: |row, _| Cell::new(row.status.pid.map_or(UNKNOWN.to_owned(), |pid| pid.to_string()), Tone::Quiet),
};

const IN: Column<InstanceRow> = Column {
    heading: Heading { name: "in", title: "IN/S", ..NUMBER },
    compare: |one, other| one.compare_rates(other, |rates| rates.messages_in),
    show: |row, _| rate_cell(row.rate(|rates| rates.messages_in), Tone::In),
};

const OUT: Column<InstanceRow> = Column {
    heading: Heading { name: "out", title: "OUT/S", ..NUMBER },
    compare: |one, other| one.compare_rates(other, |rates| rates.messages_out),
    show: |row, _| rate_cell(row.rate(|rates| rates.messages_out), Tone::Out),
};

const BYTES: Column<InstanceRow> = Column {
    heading: Heading { name: "bytes", title: "BYTES/S", width: Width::Fixed(8), rank: 4, ..NUMBER },
    compare: |one, other| one.compare_rates(other, Rates::bytes),
    show: |row, _| {
        let rate = row.rate(Rates::bytes);
        Cell::new(byte_rate(rate), if rate > Some(0.0) { Tone::Normal } else { Tone::Quiet })
    },
};

const QUEUE: Column<InstanceRow> = Column {
    heading: Heading {
        name: "queue",
        title: "QUEUE",
        side: Side::Left,
        width: Width::Fixed(7),
        rank: 2,
        largest_first: true,
    },
    compare: |one, other| fill(one).cmp(&fill(other)),
    show: |row, width| match row.status.stalled {
        true => Cell::new("stalled", Tone::Alarm),
        false => {
            let (text, tone) = bar(row.status.queued_bytes, row.status.queue_bytes_max, width);
            Cell::new(text, tone)
        }
    },
};

const LOST: Column<InstanceRow> = Column {
    heading: Heading { name: "lost", title: "LOST/S", width: Width::Fixed(6), rank: 3, ..NUMBER },
    compare: |one, other| {
        one.compare_rates(other, |rates| rates.lost).then(one.status.dropped.cmp(&other.status.dropped))
    },
    show: |row, _| rate_cell(row.rate(|rates| rates.lost), Tone::Alarm),
};

const LOST_TOTAL: Column<InstanceRow> = Column {
    heading: Heading { name: "lost-total", title: "LOST", rank: 7, ..NUMBER },
    compare: |one, other| one.status.dropped.cmp(&other.status.dropped),
    show: |row, _| {
        let tone = if row.status.dropped > 0 { Tone::Warning } else { Tone::Quiet };
        Cell::new(short(row.status.dropped), tone)
    },
};

const SUBSCRIPTIONS: Column<InstanceRow> = Column {
    heading: Heading { name: "subscriptions", title: "SUBS", width: Width::Fixed(4), rank: 8, ..NUMBER },
    compare: |one, other| one.status.subscriptions.len().cmp(&other.status.subscriptions.len()),
    show: |row, _| {
        let tone = if row.status.subscriptions.is_empty() { Tone::Quiet } else { Tone::Normal };
        Cell::new(short(row.status.subscriptions.len() as u64), tone)
    },
};

const PATTERNS: Column<InstanceRow> = Column {
    heading: Heading {
        name: "patterns",
        title: "PATTERNS",
        side: Side::Left,
        width: Width::Rest(16),
        rank: 9,
        largest_first: false,
    },
    compare: |one, other| one.patterns().cmp(other.patterns()),
    show: |row, width| {
        let mut text = String::new();
        // One may have very many, of which only some are seen.
        for pattern in row.patterns() {
            text.push_str(&harmless(pattern));
            text.push(' ');
            if text.len() > 4 * width {
                break;
            }
        }
        Cell::new(text.trim_end(), Tone::Quiet)
    },
};

/// Of a column of numbers.
pub(super) const NUMBER: Heading =
    Heading { name: "", title: "", side: Side::Right, width: Width::Fixed(5), rank: 1, largest_first: true };

/// A rate that is quiet unless there is one.
pub(super) fn rate_cell(value: Option<f64>, tone: Tone) -> Cell {
    Cell::new(rate(value), if value > Some(0.0) { tone } else { Tone::Quiet })
}

/// Whoever is stalled comes before all whose queues merely are full.
fn fill(row: &InstanceRow) -> (bool, u64) {
    (row.status.stalled, row.status.queued_bytes)
}
