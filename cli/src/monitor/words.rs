//! Control frames, senders and receivers in words, readable at a glance.

use pipebus_client::{Control, Identity, InstanceId, Kind, Overflow, Record, Sender};
use pipebus_proto::control::{Purpose, Regarding, Role};
use pipebus_proto::topic::TopicId;

use crate::look::overflow_name;
use crate::output::grouped;

/// What a control frame says. Not escaped: much of it is a client's.
pub(crate) fn words(control: &Control) -> String {
    match control {
        Control::Hello { version, name } => format!("hello from {name} (version {version})"),
        Control::Visit { version, name } => format!("visit of {name} (version {version})"),
        Control::LastCall => "last call".to_owned(),
        Control::Goodbye { cause } => format!("goodbye ({cause:?})"),
        Control::Declare { token, topic, purpose } => format!("declare {topic} to {} as {token}", verb(*purpose)),
        Control::Retract { topic: TopicId(topic) } => format!("retract topic {topic}"),
        Control::Subscribe { subscription, pattern, role, overflow } => {
            format!("{} as {subscription}", subscribe(pattern, role, *overflow))
        }
        Control::Unsubscribe { subscription } => format!("unsubscribe {subscription}"),
        Control::Ping { token } => format!("ping {token}"),
        Control::Cancel { correlation } => format!("cancel request {correlation}"),
        Control::Consumed { sender, sequence } => format!("consumed messages of {sender} up to {sequence}"),
        answer => answer_words(answer),
    }
}

fn answer_words(control: &Control) -> String {
    match control {
        Control::Welcome(welcome) => {
            format!("welcome as client {} (broker {})", welcome.client, welcome.broker_version)
        }
        Control::Refused { regarding, reason, text } => {
            format!("refused {} ({reason:?}): {text}", regarded(*regarding))
        }
        Control::Declared { token, topic: TopicId(topic) } => format!("declared {token} is topic {topic}"),
        Control::Subscribed { subscription } => format!("subscribed {subscription}"),
        Control::Unsubscribed { subscription } => format!("unsubscribed {subscription}"),
        Control::TopicInfo { topic: TopicId(topic), name } => format!("topic {topic} is {name}"),
        Control::TopicGone { topic: TopicId(topic) } => format!("topic {topic} is gone"),
        Control::SenderInfo { sender, identity, name } => format!("sender {sender} is {}", person(name, identity)),
        Control::SenderGone { sender } => format!("sender {sender} is gone"),
        Control::Gap { topic: TopicId(0), messages } => format!("gap of {} on several topics", grouped(*messages)),
        Control::Gap { topic: TopicId(topic), messages } => format!("gap of {} on topic {topic}", grouped(*messages)),
        Control::Abort { sender } => format!("abort of what {sender} was sending"),
        Control::Pong { token } => format!("pong {token}"),
        Control::RequestFailed { correlation, failure } => format!("request {correlation} failed ({failure:?})"),
        Control::Released { sequences } => format!("released {sequences:?}"),
        Control::Revoked { topic: TopicId(topic), purpose, text } => {
            format!("revoked the right to {} to topic {topic}: {text}", verb(*purpose))
        }
        other => format!("{other:?}"),
    }
}

fn subscribe(pattern: &str, role: &Role, overflow: Overflow) -> String {
    match role {
        Role::Subscribe => format!("subscribe {pattern} ({})", overflow_name(overflow)),
        Role::Serve => format!("serve {pattern}"),
        Role::Monitor(_) => format!("monitor {pattern}"),
    }
}

fn regarded(regarding: Regarding) -> String {
    match regarding {
        Regarding::Connection => "connection".to_owned(),
        Regarding::Declare(token) => format!("declare {token}"),
        Regarding::Subscription(subscription) => format!("subscription {subscription}"),
    }
}

fn verb(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Publish => "publish",
        Purpose::Request => "request",
    }
}

/// Who has sent a frame: `12 thermometer (uid 1000)`.
pub(crate) fn sender(sender: &Sender) -> String {
    match sender.id {
        InstanceId::BROKER => "broker".to_owned(),
        id => format!("{id} {}", person(&sender.name, &sender.identity)),
    }
}

fn person(name: &str, identity: &Identity) -> String {
    match identity {
        Identity::Unix { uid } => format!("{name} (uid {uid})"),
        Identity::Windows { sid } => format!("{name} ({sid})"),
    }
}

/// Who has got a frame: `3 subscribers`, or a client's number.
pub(crate) fn receivers(record: &Record) -> String {
    match (record.head.kind, record.to, record.subscribers) {
        (_, Some(to), _) => to.to_string(),
        (Kind::Control, None, _) => "broker".to_owned(),
        (_, None, 0) => "nobody".to_owned(),
        (_, None, 1) => "1 subscriber".to_owned(),
        (_, None, subscribers) => format!("{} subscribers", grouped(u64::from(subscribers))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipebus_client::Watch;
    use pipebus_proto::control::{Failure, Farewell, Reason, Welcome};

    fn check(control: Control, expected: &str) {
        assert_eq!(words(&control), expected);
    }

    #[test]
    fn what_a_client_says_is_readable_at_a_glance() {
        let subscribe = |role| Control::Subscribe {
            subscription: 6,
            pattern: "sensors/**".to_owned(),
            role,
            overflow: Overflow::DropOldest,
        };
        check(subscribe(Role::Subscribe), "subscribe sensors/** (drop-oldest) as 6");
        check(subscribe(Role::Serve), "serve sensors/** as 6");
        check(subscribe(Role::Monitor(Watch::default())), "monitor sensors/** as 6");
        check(Control::Hello { version: 1, name: "lamp".to_owned() }, "hello from lamp (version 1)");
        let declare = Control::Declare { token: 5, topic: "lamp/on".to_owned(), purpose: Purpose::Request };
        check(declare, "declare lamp/on to request as 5");
        check(Control::Goodbye { cause: Farewell::Leaving }, "goodbye (Leaving)");
        check(Control::Consumed { sender: InstanceId(3), sequence: 9 }, "consumed messages of 3 up to 9");
    }

    #[test]
    fn what_the_broker_says_is_readable_at_a_glance() {
        let welcome =
            Welcome { client: InstanceId(3), broker_version: "0.1.0".to_owned(), message_bytes_max: 16_777_216 };
        check(Control::Welcome(welcome), "welcome as client 3 (broker 0.1.0)");
        let refused = |regarding| Control::Refused { regarding, reason: Reason::Forbidden, text: "no".to_owned() };
        check(refused(Regarding::Connection), "refused connection (Forbidden): no");
        check(refused(Regarding::Declare(5)), "refused declare 5 (Forbidden): no");
        let info = Control::SenderInfo {
            sender: InstanceId(3),
            identity: Identity::Unix { uid: 1000 },
            name: "lamp".to_owned(),
        };
        check(info, "sender 3 is lamp (uid 1000)");
        check(Control::Gap { topic: TopicId(7), messages: 1200 }, "gap of 1,200 on topic 7");
        check(Control::Gap { topic: TopicId(0), messages: 1 }, "gap of 1 on several topics");
        check(Control::RequestFailed { correlation: 42, failure: Failure::NoServer }, "request 42 failed (NoServer)");
        check(Control::Released { sequences: vec![9, 10] }, "released [9, 10]");
        let revoked = Control::Revoked { topic: TopicId(7), purpose: Purpose::Publish, text: "rule 3".to_owned() };
        check(revoked, "revoked the right to publish to topic 7: rule 3");
    }
}
