//! The rows of the view of users, and its columns.

use std::cmp::Ordering;
use std::collections::HashMap;

use pipebus_client::Identity;
use pipebus_proto::admin::UserStatus;

use crate::output::{bytes, short};
use crate::top::figures::{bar, byte_rate, harmless};
use crate::top::instances::{InstanceRow, NUMBER, rate_cell};
use crate::top::list::{Cell, Column, Heading, Row, Side, Width, contains};
use crate::top::rates::Rates;
use crate::top::sample::Names;
use crate::top::theme::Tone;

/// A user, as the broker last told of it.
pub(super) struct UserRow {
    status: UserStatus,
    name: String,
    /// Of all its instances together.
    rates: Option<Rates>,
}

/// The rows of a sample, given those of its instances.
pub(super) fn rows(users: Vec<UserStatus>, instances: &[InstanceRow], names: &Names) -> Vec<UserRow> {
    let mut sums: HashMap<&Identity, Rates> = HashMap::new();
    for instance in instances {
        if let Some(rates) = instance.rates {
            *sums.entry(&instance.status.identity).or_default() += rates;
        }
    }
    let row = |status: UserStatus| UserRow {
        name: names.of(&status.identity),
        rates: sums.get(&status.identity).copied(),
        status,
    };
    users.into_iter().map(row).collect()
}

impl UserRow {
    fn rate(&self, of: fn(&Rates) -> f64) -> Option<f64> {
        self.rates.as_ref().map(of)
    }

    fn compare_rates(&self, other: &UserRow, of: fn(&Rates) -> f64) -> Ordering {
        let value = |row: &UserRow| row.rate(of).unwrap_or(-1.0);
        value(self).total_cmp(&value(other))
    }
}

impl Row for UserRow {
    type Key = Identity;
    const COLUMNS: &'static [Column<UserRow>] =
        &[NAME, INSTANCES, SUBSCRIPTIONS, TOPICS, IN, OUT, BYTES, QUEUE, QUEUED, LOST];
    const SORT: usize = 6;

    fn key(&self) -> Identity {
        self.status.identity.clone()
    }

    fn has(&self, text: &str) -> bool {
        contains(&self.name, text)
    }
}

const NAME: Column<UserRow> = Column {
    heading: Heading {
        name: "user",
        title: "USER",
        side: Side::Left,
        width: Width::Fit(10, 40),
        rank: 0,
        largest_first: false,
    },
    compare: |one, other| one.name.cmp(&other.name),
    show: |row, _| Cell::new(harmless(&row.name), Tone::Strong),
};

const INSTANCES: Column<UserRow> = Column {
    heading: Heading { name: "instances", title: "INSTANCES", width: Width::Fixed(9), ..NUMBER },
    compare: |one, other| one.status.instances.cmp(&other.status.instances),
    show: |row, _| Cell::plain(short(row.status.instances)),
};

const SUBSCRIPTIONS: Column<UserRow> = Column {
    heading: Heading { name: "subscriptions", title: "SUBS", width: Width::Fixed(4), rank: 6, ..NUMBER },
    compare: |one, other| one.status.subscriptions.cmp(&other.status.subscriptions),
    show: |row, _| Cell::plain(short(row.status.subscriptions)),
};

const TOPICS: Column<UserRow> = Column {
    heading: Heading { name: "topics", title: "TOPICS", width: Width::Fixed(6), rank: 7, ..NUMBER },
    compare: |one, other| one.status.topics.cmp(&other.status.topics),
    show: |row, _| Cell::plain(short(row.status.topics)),
};

const IN: Column<UserRow> = Column {
    heading: Heading { name: "in", title: "IN/S", ..NUMBER },
    compare: |one, other| one.compare_rates(other, |rates| rates.messages_in),
    show: |row, _| rate_cell(row.rate(|rates| rates.messages_in), Tone::In),
};

const OUT: Column<UserRow> = Column {
    heading: Heading { name: "out", title: "OUT/S", ..NUMBER },
    compare: |one, other| one.compare_rates(other, |rates| rates.messages_out),
    show: |row, _| rate_cell(row.rate(|rates| rates.messages_out), Tone::Out),
};

const BYTES: Column<UserRow> = Column {
    heading: Heading { name: "bytes", title: "BYTES/S", width: Width::Fixed(8), rank: 4, ..NUMBER },
    compare: |one, other| one.compare_rates(other, Rates::bytes),
    show: |row, _| Cell::plain(byte_rate(row.rate(Rates::bytes))),
};

const QUEUE: Column<UserRow> = Column {
    heading: Heading {
        name: "queue",
        title: "QUEUE",
        side: Side::Left,
        width: Width::Fixed(7),
        rank: 3,
        largest_first: true,
    },
    compare: |one, other| one.status.queued_bytes.cmp(&other.status.queued_bytes),
    show: |row, width| {
        let (text, tone) = bar(row.status.queued_bytes, row.status.queued_bytes_max, width);
        Cell::new(text, tone)
    },
};

const QUEUED: Column<UserRow> = Column {
    heading: Heading { name: "queued", title: "QUEUED", width: Width::Fixed(8), rank: 5, ..NUMBER },
    compare: |one, other| one.status.queued_bytes.cmp(&other.status.queued_bytes),
    show: |row, _| Cell::plain(bytes(row.status.queued_bytes)),
};

const LOST: Column<UserRow> = Column {
    heading: Heading { name: "lost", title: "LOST/S", width: Width::Fixed(6), rank: 2, ..NUMBER },
    compare: |one, other| one.compare_rates(other, |rates| rates.lost),
    show: |row, _| rate_cell(row.rate(|rates| rates.lost), Tone::Alarm),
};
