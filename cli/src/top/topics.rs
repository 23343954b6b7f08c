//! The columns of the view of topics, whose rows are what the broker says.

use pipebus_proto::admin::TopicStatus;

use crate::output::short;
use crate::top::figures::harmless;
use crate::top::instances::NUMBER;
use crate::top::list::{Cell, Column, Heading, Row, Side, Width, contains};
use crate::top::theme::Tone;

impl Row for TopicStatus {
    type Key = u32;
    const COLUMNS: &'static [Column<TopicStatus>] = &[ID, NAME, PUBLISHERS, SUBSCRIBERS, REQUESTERS, SERVERS];
    const SORT: usize = 1;

    fn key(&self) -> u32 {
        self.id
    }

    fn has(&self, text: &str) -> bool {
        contains(&self.name, text)
    }
}

const ID: Column<TopicStatus> = Column {
    heading: Heading { name: "id", title: "ID", width: Width::Whole, rank: 4, largest_first: false, ..NUMBER },
    compare: |one, other| one.id.cmp(&other.id),
    show: |row, _| Cell::new(row.id.to_string(), Tone::Quiet),
};

const NAME: Column<TopicStatus> = Column {
    heading: Heading {
        name: "topic",
        title: "TOPIC",
        side: Side::Left,
        width: Width::Fit(16, 120),
        rank: 0,
        largest_first: false,
    },
    compare: |one, other| one.name.cmp(&other.name),
    show: |row, _| Cell::new(harmless(&row.name), Tone::Strong),
};

const PUBLISHERS: Column<TopicStatus> = Column {
    heading: Heading { name: "publishers", title: "PUBLISHERS", width: Width::Fixed(10), ..NUMBER },
    compare: |one, other| one.publishers.cmp(&other.publishers),
    show: |row, _| count(row.publishers, Tone::In),
};

const SUBSCRIBERS: Column<TopicStatus> = Column {
    heading: Heading { name: "subscribers", title: "SUBSCRIBERS", width: Width::Fixed(11), ..NUMBER },
    compare: |one, other| one.subscribers.cmp(&other.subscribers),
    show: |row, _| count(row.subscribers, Tone::Out),
};

const REQUESTERS: Column<TopicStatus> = Column {
    heading: Heading { name: "requesters", title: "REQUESTERS", width: Width::Fixed(10), rank: 3, ..NUMBER },
    compare: |one, other| one.requesters.cmp(&other.requesters),
    show: |row, _| count(row.requesters, Tone::In),
};

const SERVERS: Column<TopicStatus> = Column {
    heading: Heading { name: "servers", title: "SERVERS", width: Width::Fixed(7), rank: 2, ..NUMBER },
    compare: |one, other| one.servers.cmp(&other.servers),
    show: |row, _| count(row.servers, Tone::Out),
};

fn count(number: u64, tone: Tone) -> Cell {
    Cell::new(short(number), if number > 0 { tone } else { Tone::Quiet })
}
