//! State: all that is seen, as a value. Samples, keys, outcomes and the time go in; what is to be done comes out.
//!
//! What keys do is in [`pressed`], what it looks like in [`crate::top::draw`].

mod pressed;
#[cfg(test)]
pub(super) mod tests;

use std::time::Duration;

use pipebus_proto::admin::{Status, TopicStatus};
use tokio::time::Instant;

use crate::top::figures::harmless;
use crate::top::instances::{self, InstanceRow};
use crate::top::list::{List, Listed, Row};
use crate::top::rates::{Counts, Histories, Rates};
use crate::top::sample::{Names, Sample};
use crate::top::theme::Tone;
use crate::top::users::{self, UserRow};

/// The intervals that keys choose among.
pub(crate) const INTERVALS: [Duration; 9] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// After so long without an answer what is seen is old.
const SLOW: Duration = Duration::from_secs(2);

/// For how long a notice is seen, unless a key is pressed.
const NOTICE_TIME: Duration = Duration::from_secs(10);

/// What the tabs show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Instances,
    Topics,
    Users,
}

impl View {
    pub(super) const ALL: [View; 3] = [View::Instances, View::Topics, View::Users];
}

/// What lies over the view and takes the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Overlay {
    None,
    /// With so many of its lines above the screen.
    Help(usize),
    /// The filter is being written.
    Filter,
    Confirm(Target),
}

/// Whom to disconnect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) user: String,
    pub(super) pid: Option<u32>,
}

/// What the keys want done by whoever keeps the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    /// Ask the broker now.
    Ask,
    /// Ask it at another interval from now on.
    Retime,
    Disconnect(Target),
    Suspend,
    Redraw,
}

/// All about one instance.
pub(super) struct Detail {
    /// As it was last seen.
    pub(super) row: InstanceRow,
    pub(super) has_left: bool,
    /// So many of its subscriptions are above the screen.
    pub(super) scrolled: usize,
}

pub(super) struct Notice {
    pub(super) text: String,
    pub(super) tone: Tone,
    until: Instant,
}

pub(super) struct State {
    pub(super) status: Status,
    /// None in the first sample, and in the first of a new broker.
    pub(super) rates: Option<Rates>,
    pub(super) histories: Histories,
    pub(super) instances: List<InstanceRow>,
    pub(super) topics: List<TopicStatus>,
    pub(super) users: List<UserRow>,
    names: Names,
    pub(super) view: View,
    pub(super) overlay: Overlay,
    pub(super) detail: Option<Detail>,
    pub(super) notice: Option<Notice>,
    pub(super) interval: Duration,
    pub(super) is_paused: bool,
    /// This program's own instance.
    own: Option<u32>,
    /// When the last sample came.
    sampled: Instant,
    /// Since when a question waits for its answer.
    asked: Option<Instant>,
    /// Since when there is no connection.
    lost: Option<Instant>,
    /// Why the last question failed.
    failed: Option<String>,
    pub(super) now: Instant,
    /// So many rows are seen at once.
    pub(super) page: usize,
}

impl State {
    pub(super) fn new(sample: Sample, sort: usize, interval: Duration, now: Instant) -> State {
        let mut state = State {
            status: Status::default(),
            rates: None,
            histories: Histories::default(),
            instances: List::new(sort),
            topics: List::new(TopicStatus::SORT),
            users: List::new(UserRow::SORT),
            names: Names::default(),
            view: View::Instances,
            overlay: Overlay::None,
            detail: None,
            notice: None,
            interval,
            is_paused: false,
            own: None,
            sampled: now,
            asked: None,
            lost: None,
            failed: None,
            now,
            page: 1,
        };
        state.show(sample, None);
        state
    }

    pub(super) fn names(&self) -> Names {
        self.names.clone()
    }

    pub(super) fn handle_time(&mut self, now: Instant) {
        self.now = now;
        if self.notice.as_ref().is_some_and(|notice| notice.until <= now) {
            self.notice = None;
        }
    }

    /// A question was asked, perhaps in place of one that has not been answered either.
    pub(super) fn handle_asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    pub(super) fn handle_sample(&mut self, sample: Sample, now: Instant) {
        let is_same_broker = sample.status.pid == self.status.pid && sample.status.uptime_ms >= self.status.uptime_ms;
        if is_same_broker {
            let time = Duration::from_millis(sample.status.uptime_ms - self.status.uptime_ms);
            self.show(sample, Some(time));
        } else {
            // Its instances are others, whatever their ids, and its counts begin at nothing.
            self.instances.take();
            self.cancel_question();
            self.histories.add(&Rates::default(), now.saturating_duration_since(self.sampled));
            self.say("this is another broker: the rates begin anew", Tone::Notice);
            self.show(sample, None);
        }
        self.sampled = now;
        (self.asked, self.failed) = (None, None);
    }

    /// Shows a sample that comes so long after another one of the same broker.
    fn show(&mut self, sample: Sample, time: Option<Duration>) {
        let (before, after) = (Counts::from(&self.status), Counts::from(&sample.status));
        self.rates = time.and_then(|time| Rates::between(before, after, time));
        if let (Some(rates), Some(time)) = (&self.rates, time) {
            self.histories.add(rates, time);
        }
        self.status = sample.status;
        self.names = sample.names;
        let rows = instances::rows(self.instances.take(), sample.instances, time, &self.names);
        if let Some(users) = sample.users {
            self.users.replace(users::rows(users, &rows, &self.names));
        }
        if let Some(topics) = sample.topics {
            self.topics.replace(topics);
        }
        self.instances.replace(rows);
        // Who has left stays what it was last seen as: another broker may give its id to somebody else.
        if let Some(detail) = self.detail.as_mut().filter(|detail| !detail.has_left) {
            let row = self.instances.rows().iter().find(|row| row.key() == detail.row.key());
            match row.filter(|_| time.is_some()) {
                Some(row) => detail.row = row.clone(),
                None => detail.has_left = true,
            }
        }
    }

    pub(super) fn handle_failure(&mut self, why: String) {
        (self.asked, self.failed) = (None, Some(why));
    }

    /// The connection is lost, and will be made again.
    pub(super) fn handle_lost(&mut self, now: Instant) {
        self.asked = None;
        self.lost.get_or_insert(now);
        self.cancel_question();
    }

    /// There is a connection, and this program is this instance.
    pub(super) fn handle_connected(&mut self, instance: u32) {
        (self.lost, self.failed, self.own) = (None, None, Some(instance));
    }

    /// By the time of the answer the id may be somebody else's.
    fn cancel_question(&mut self) {
        if let Overlay::Confirm(_) = self.overlay {
            self.overlay = Overlay::None;
        }
    }

    /// What has become of an order to disconnect.
    pub(super) fn handle_outcome(&mut self, target: &Target, outcome: Result<(), String>) {
        let who = format!("{} {}", target.id, target.name);
        match outcome {
            Ok(()) => self.say(format!("disconnected: {who}"), Tone::Calm),
            Err(why) => self.say(format!("not disconnected: {who}: {}", harmless(&why)), Tone::Alarm),
        }
    }

    fn say(&mut self, text: impl Into<String>, tone: Tone) {
        self.notice = Some(Notice { text: text.into(), tone, until: self.now + NOTICE_TIME });
    }

    /// Why what is seen is not true any more, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        let seconds = |since: Instant| self.now.saturating_duration_since(since).as_secs();
        if let Some(lost) = self.lost {
            return Some(format!("the connection to the broker was lost {} s ago; connecting again", seconds(lost)));
        }
        if let Some(asked) = self.asked.filter(|asked| self.now.saturating_duration_since(*asked) >= SLOW) {
            return Some(format!("the broker has not answered for {} s", seconds(asked)));
        }
        self.failed.as_ref().map(|why| format!("{}; asking again", harmless(why)))
    }

    pub(super) fn list(&self) -> &dyn Listed {
        match self.view {
            View::Instances => &self.instances,
            View::Topics => &self.topics,
            View::Users => &self.users,
        }
    }

    fn list_mut(&mut self) -> &mut dyn Listed {
        match self.view {
            View::Instances => &mut self.instances,
            View::Topics => &mut self.topics,
            View::Users => &mut self.users,
        }
    }
}
