//! `pipebus status`, `instances`, `subscriptions`, `topics` and `users`: what the broker says about itself, as tables.

use std::fmt::Write as _;
use std::time::Duration;

use pipebus_client::{Client, Message, Overflow};
use pipebus_proto::admin::{
    self, Draining, InstanceStatus, Status, SubscriptionListed, SubscriptionStatus, TopicStatus, UserStatus,
};
use pipebus_proto::place::Address;

use crate::args::Look;
use crate::bus::visit;
use crate::failure::Failure;
use crate::format::{escape, escaped};
use crate::output::{self, bytes, grouped, short, time};
use crate::system::account::user_name;
use crate::system::terminal;
use crate::table::{finish, table};

/// How long the broker may take to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// A client's name may be longer, but then the table would be mostly names.
const NAME_CHARACTERS_MAX: usize = 20;

/// What is shown for what nobody knows.
pub(crate) const UNKNOWN: &str = "–";

pub(crate) async fn status(bus: &Address, arguments: &Look) -> Result<(), Failure> {
    look(bus, arguments, admin::STATUS, |answer| Ok(status_lines(&answer.json()?))).await
}

pub(crate) async fn instances(bus: &Address, arguments: &Look) -> Result<(), Failure> {
    let show = |answer: &Message| Ok(instance_table(&answer.json::<Vec<InstanceStatus>>()?, terminal::width()));
    look(bus, arguments, admin::INSTANCES, show).await
}

pub(crate) async fn subscriptions(bus: &Address, arguments: &Look) -> Result<(), Failure> {
    let show = |answer: &Message| Ok(subscription_table(&answer.json::<Vec<SubscriptionListed>>()?, terminal::width()));
    look(bus, arguments, admin::SUBSCRIPTIONS, show).await
}

pub(crate) async fn topics(bus: &Address, arguments: &Look) -> Result<(), Failure> {
    let show = |answer: &Message| Ok(topic_table(&answer.json::<Vec<TopicStatus>>()?, terminal::width()));
    look(bus, arguments, admin::TOPICS, show).await
}

pub(crate) async fn users(bus: &Address, arguments: &Look) -> Result<(), Failure> {
    let show = |answer: &Message| Ok(user_table(&answer.json::<Vec<UserStatus>>()?, terminal::width()));
    look(bus, arguments, admin::USERS, show).await
}

async fn look(
    bus: &Address,
    arguments: &Look,
    topic: &str,
    show: impl Fn(&Message) -> pipebus_client::Result<String>,
) -> Result<(), Failure> {
    let client = visit(bus, topic.trim_start_matches("$bus/")).await?;
    let answer = ask(&client, topic).await?;
    let mut text = if arguments.json { answer.payload.to_vec() } else { show(&answer)?.into_bytes() };
    text.push(b'\n');
    output::write(&text)
}

/// Asks the broker.
pub(crate) async fn ask(client: &Client, topic: &str) -> Result<Message, Failure> {
    Ok(client.request(topic, "", TIMEOUT).await?)
}

fn status_lines(status: &Status) -> String {
    let memory = status.memory_bytes.map_or(UNKNOWN.to_owned(), bytes);
    let counted = |messages, size| format!("{} messages, {}", grouped(messages), bytes(size));
    let reached = status.limits_reached.iter().map(|(limit, times)| format!("{limit} {}", grouped(*times)));
    let reached = reached.collect::<Vec<_>>().join(", ");
    let lines = [
        ("bus", status.bus.clone()),
        ("broker", format!("pipebusd {}, process {}", status.version, status.pid)),
        ("uptime", time(Duration::from_millis(status.uptime_ms))),
        ("instances", format!("{} of {}", grouped(status.instances), grouped(status.instances_max))),
        ("subscriptions", grouped(status.subscriptions)),
        ("topics", grouped(status.topics)),
        ("in", counted(status.messages_in, status.bytes_in)),
        ("out", counted(status.messages_out, status.bytes_out)),
        ("dropped", format!("{} messages", grouped(status.dropped))),
        ("queued", bytes(status.queued_bytes)),
        ("memory", memory),
        ("limits reached", reached),
        ("draining", status.draining.as_ref().map(draining).unwrap_or_default()),
    ];
    let mut text = String::new();
    for (key, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(text, "{key:<15}");
        escape(&mut text, &value);
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// What a broker that drains waits for, and for how long.
pub(crate) fn draining(draining: &Draining) -> String {
    let instances = match draining.instances {
        1 => "1 instance".to_owned(),
        count => format!("{} instances", grouped(count)),
    };
    match draining.timeout_ms.map(|left| Duration::from_secs(left.div_ceil(1000))) {
        Some(left) => format!("waits for {instances} to leave, for {} at most", time(left)),
        None => format!("waits for {instances} to leave"),
    }
}

fn instance_table(instances: &[InstanceStatus], width: Option<u16>) -> String {
    let mut table = table(&["ID", "NAME", "USER", "PID", "FOR", "IN", "OUT", "LOST", "QUEUED", "SUBSCRIPTIONS"], width);
    for instance in instances {
        table.add_row([
            instance.id.to_string(),
            name(&instance.name),
            user_name(&instance.identity),
            instance.pid.map_or(UNKNOWN.to_owned(), |pid| pid.to_string()),
            age(Duration::from_millis(instance.connected_ms)),
            short(instance.messages_in),
            short(instance.messages_out),
            short(instance.dropped),
            if instance.stalled { "stalled".to_owned() } else { bytes(instance.queued_bytes) },
            patterns(&instance.subscriptions),
        ]);
    }
    finish(table, &[0, 3, 4, 5, 6, 7, 8])
}

fn subscription_table(subscriptions: &[SubscriptionListed], width: Option<u16>) -> String {
    let mut table = table(&["INSTANCE", "NAME", "USER", "PATTERN", "TOPICS", "KIND"], width);
    for listed in subscriptions {
        table.add_row([
            listed.instance.to_string(),
            name(&listed.name),
            user_name(&listed.identity),
            escaped(&listed.subscription.pattern),
            listed.topics.map_or(UNKNOWN.to_owned(), grouped),
            kind(&listed.subscription).to_owned(),
        ]);
    }
    finish(table, &[0, 4])
}

fn user_table(users: &[UserStatus], width: Option<u16>) -> String {
    let mut table = table(&["USER", "INSTANCES", "SUBSCRIPTIONS", "TOPICS", "QUEUED"], width);
    for of in users {
        table.add_row([
            user_name(&of.identity),
            grouped(of.instances),
            grouped(of.subscriptions),
            grouped(of.topics),
            bytes(of.queued_bytes),
        ]);
    }
    finish(table, &[1, 2, 3, 4])
}

fn topic_table(topics: &[TopicStatus], width: Option<u16>) -> String {
    let mut table = table(&["ID", "TOPIC", "PUBLISHERS", "SUBSCRIBERS", "SERVERS"], width);
    for topic in topics {
        table.add_row([
            topic.id.to_string(),
            topic.name.clone(),
            grouped(topic.publishers),
            grouped(topic.subscribers),
            grouped(topic.servers),
        ]);
    }
    finish(table, &[0, 2, 3, 4])
}

/// A client can call itself anything.
fn name(text: &str) -> String {
    let mut escaped = String::new();
    match text.char_indices().nth(NAME_CHARACTERS_MAX) {
        Some((end, _)) => {
            escape(&mut escaped, &text[..end]);
            escaped.push_str("...");
        }
        None => escape(&mut escaped, text),
    }
    escaped
}

/// The largest unit of a time alone.
fn age(duration: Duration) -> String {
    let text = time(duration);
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn patterns(all: &[SubscriptionStatus]) -> String {
    let lines: Vec<String> = all.iter().map(subscription).collect();
    if lines.is_empty() { UNKNOWN.to_owned() } else { lines.join("\n") }
}

fn subscription(subscription: &SubscriptionStatus) -> String {
    let pattern = &subscription.pattern;
    match kind(subscription) {
        "block" => pattern.clone(),
        kind => format!("{pattern} ({kind})"),
    }
}

/// What it does when it is slow, or that it serves or monitors.
pub(crate) fn kind(subscription: &SubscriptionStatus) -> &'static str {
    match subscription.overflow {
        _ if subscription.serves => "serves",
        _ if subscription.monitors => "monitors",
        overflow => overflow_name(overflow),
    }
}

/// As people write it.
pub(crate) fn overflow_name(overflow: Overflow) -> &'static str {
    match overflow {
        Overflow::Block => "block",
        Overflow::DropOldest => "drop-oldest",
        Overflow::DropNewest => "drop-newest",
        Overflow::Latest => "latest",
        Overflow::Disconnect => "disconnect",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipebus_client::Identity;

    fn instance() -> InstanceStatus {
        let subscription = |pattern: &str, overflow, serves| SubscriptionStatus {
            pattern: pattern.into(),
            overflow,
            serves,
            monitors: false,
        };
        InstanceStatus {
            id: 12,
            name: "pipebus sub\u{1b}[2J".into(),
            identity: Identity::Unix { uid: u32::MAX - 7 },
            pid: None,
            connected_ms: 7_260_000,
            subscriptions: vec![
                subscription("sensors/**", Overflow::DropOldest, false),
                subscription("host/uptime", Overflow::Block, true),
            ],
            messages_in: 0,
            bytes_in: 0,
            messages_out: 1_500_000,
            bytes_out: 0,
            dropped: 3,
            queued_bytes: 1 << 21,
            queue_bytes_max: 1 << 22,
            stalled: false,
        }
    }

    #[test]
    fn the_table_of_instances_is_aligned_and_shows_no_control_characters() {
        let text = instance_table(&[instance()], None);
        let expected = "\
ID  NAME                  USER        PID  FOR  IN   OUT  LOST   QUEUED  SUBSCRIPTIONS
12  pipebus sub\\u{1b}[2J  4294967288    –   2h   0  1.5M     3  2.0 MiB  sensors/** (drop-oldest)
                                                                         host/uptime (serves)";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_table_of_instances_fits_a_narrow_terminal() {
        let text = instance_table(&[instance(), instance()], Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn the_table_of_topics_is_aligned() {
        let topic = |id, name: &str| TopicStatus {
            id,
            name: name.into(),
            publishers: 1,
            requesters: 0,
            subscribers: 1200,
            servers: 0,
        };
        let text = topic_table(&[topic(1, "a"), topic(20, "sensors/kitchen")], Some(80));
        let expected = "\
ID  TOPIC            PUBLISHERS  SUBSCRIBERS  SERVERS
 1  a                         1        1,200        0
20  sensors/kitchen           1        1,200        0";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_table_of_subscriptions_has_a_row_for_each() {
        let of = instance();
        let listed = of.subscriptions.iter().map(|subscription| SubscriptionListed {
            instance: of.id,
            name: "web".into(),
            identity: of.identity.clone(),
            subscription: subscription.clone(),
            topics: Some(1200),
        });
        let text = subscription_table(&listed.collect::<Vec<_>>(), None);
        let expected = "\
INSTANCE  NAME  USER        PATTERN      TOPICS  KIND
      12  web   4294967288  sensors/**    1,200  drop-oldest
      12  web   4294967288  host/uptime   1,200  serves";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_status_has_units() {
        let status =
            Status { bus: "/x".into(), uptime_ms: 61_000, bytes_in: 2048, messages_in: 1000, ..Status::default() };
        let text = status_lines(&status);
        assert!(text.contains("uptime         1m 1s\n"), "{text}");
        assert!(text.contains("in             1,000 messages, 2.0 KiB\n"), "{text}");
        assert!(text.ends_with("memory         –"), "{text}");
    }

    #[test]
    fn a_broker_that_drains_says_for_what_it_waits() {
        let of = |instances, timeout_ms| draining(&Draining { draining: true, instances, timeout_ms });
        assert_eq!(of(1, None), "waits for 1 instance to leave");
        assert_eq!(of(1200, Some(61_500)), "waits for 1,200 instances to leave, for 1m 2s at most");
        let status = Status { draining: Some(Draining::default()), ..Status::default() };
        assert!(status_lines(&status).ends_with("\ndraining       waits for 0 instances to leave"));
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(name(&"x".repeat(64)), format!("{}...", "x".repeat(NAME_CHARACTERS_MAX)));
        assert_eq!(name(&"x".repeat(NAME_CHARACTERS_MAX)), "x".repeat(NAME_CHARACTERS_MAX));
    }
}
