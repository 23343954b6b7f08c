//! Orders: what an administrator tells the broker to do.

use std::sync::Arc;
use std::time::Duration;

use pipebus_proto::admin::{Cause, DisconnectOrder, DrainOrder, Draining, InstanceStatus, LogFilter, LogOrder};
use pipebus_proto::control::{Identity, Reason};
use pipebus_proto::topic::InstanceId;
use serde::de::DeserializeOwned;
use tracing::info;

use super::looks::instance_status;
use crate::broker::Broker;
use crate::core::bus::describe;
use crate::core::refused::Refused;
use crate::drain;

/// The longest reason for which somebody is disconnected: it has to fit a frame, and a line.
const REASON_BYTES_MAX: usize = 400;

/// Disconnects an instance. Returns what it was at that moment.
pub(super) fn disconnect(
    broker: &Broker,
    order: &[u8],
    by: InstanceId,
    orderer: &Identity,
) -> Result<InstanceStatus, String> {
    let DisconnectOrder { instance, reason } = read(order, "instance, a client id, and perhaps reason, a text")?;
    let reason = reason.unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX || reason.contains(char::is_control) {
        return Err(format!("reason: give one line of at most {REASON_BYTES_MAX} bytes"));
    }
    let id = InstanceId(instance);
    if id == by {
        return Err(format!("instance {instance} is the one that says so; it may leave by itself"));
    }
    let (status, outbox) = {
        let bus = broker.bus();
        let unknown = || format!("there is no instance {instance}; pipebus instances lists those that there are");
        let found = bus.instance(id).ok_or_else(unknown)?;
        (instance_status(id, found), Arc::clone(&found.to))
    };
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let text = format!("an administrator ({}) has disconnected this client{why}", describe(orderer));
    broker.expel(&outbox, Refused::new(Reason::Forbidden, text), Cause::Administrator);
    Ok(status)
}

/// Shows what is logged, or changes it.
pub(super) fn log(broker: &Broker, order: &[u8]) -> Result<LogFilter, String> {
    // To be asked without a word is to show it.
    let LogOrder { filter } =
        if order.is_empty() { LogOrder::default() } else { read(order, "filter, such as \"debug\"")? };
    if let Some(filter) = filter {
        broker.host().set_log_filter(&filter)?;
        info!(filter, "what is logged has changed, until the broker ends");
    }
    Ok(LogFilter { filter: broker.host().log_filter()?, configured: broker.config.log.filter.clone() })
}

/// Begins to drain, or calls it off.
pub(super) fn drain(broker: &Broker, order: &[u8], by: InstanceId) -> Result<Draining, String> {
    let DrainOrder { timeout_ms, cancel } = read(order, "perhaps timeout_ms, a number, and cancel, true or false")?;
    if cancel {
        return Ok(drain::cancel(broker, by));
    }
    Ok(drain::begin(broker, by, timeout_ms.map(Duration::from_millis)))
}

fn read<T: DeserializeOwned>(order: &[u8], expected: &str) -> Result<T, String> {
    serde_json::from_slice(order).map_err(|error| format!("the order is no JSON object with {expected}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::topics;
    use crate::config::Config;
    use crate::core::account::Account;
    use crate::core::bus::Hello;
    use crate::core::limits::Limits;
    use crate::core::policy::{Peer, Policy, Who};
    use crate::host::Host;
    use crate::outbox::Outbox;
    use crate::reload::reload;
    use pipebus_proto::place::Place;
    use std::sync::Mutex;
    use tokio::time::Instant;

    const BY: InstanceId = InstanceId(1);

    fn broker() -> Arc<Broker> {
        let policy = Policy::allowing(vec![Who::Any]);
        Arc::new(Broker::new(Config::default(), policy, Place::new("/nowhere"), Identity::Unix { uid: 1 }, &topics()))
    }

    /// A program that has a configuration, right or wrong, and says what it hears.
    #[derive(Debug)]
    struct Program {
        configuration: Result<Config, String>,
        heard: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Host for Program {
        fn configuration(&self) -> Result<Config, String> {
            self.heard.lock().unwrap().push("read");
            self.configuration.clone()
        }

        fn reloading(&self) {
            self.heard.lock().unwrap().push("reloading");
        }

        fn reloaded(&self) {
            self.heard.lock().unwrap().push("reloaded");
        }
    }

    fn hosted(configuration: Result<Config, String>) -> (Arc<Broker>, Arc<Mutex<Vec<&'static str>>>) {
        let (broker, heard) = (broker(), Arc::default());
        let program = Program { configuration, heard: Arc::clone(&heard) };
        broker.host.set(Box::new(program)).unwrap();
        (broker, heard)
    }

    #[tokio::test]
    async fn a_broker_inside_another_program_says_what_only_that_can_do() {
        let broker = broker();
        for refused in [
            reload(&broker).await.map(drop),
            log(&broker, b"").map(drop),
            log(&broker, br#"{"filter":"debug"}"#).map(drop),
        ] {
            let text = refused.unwrap_err();
            assert!(text.contains("inside another program"), "{text}");
        }
        // All else it can do itself.
        assert!(drain(&broker, b"{}", BY).unwrap().draining);
    }

    #[tokio::test]
    async fn a_reload_obeys_the_limits_that_its_program_reads_and_says_for_what_to_start_anew() {
        let mut config = Config::default();
        config.limits.instances_max = 20;
        config.timeouts.shutdown_ms = 1;
        let (broker, heard) = hosted(Ok(config));
        assert_eq!(reload(&broker).await.unwrap().restart_for, ["[timeouts]"]);
        assert_eq!(broker.bus().limits().instances_max, 20);
        assert_eq!(*heard.lock().unwrap(), ["reloading", "read", "reloaded"]);
    }

    #[tokio::test]
    async fn reloads_at_the_same_time_are_one_after_another() {
        let (broker, heard) = hosted(Err("it is wrong".to_owned()));
        let (one, other) = tokio::join!(reload(&broker), reload(&broker));
        assert_eq!((one, other), (Err("it is wrong".to_owned()), Err("it is wrong".to_owned())));
        let once = ["reloading", "read", "reloaded"];
        assert_eq!(*heard.lock().unwrap(), [once, once].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_its_time_is_over() {
        let broker = broker();
        let identity = Identity::Unix { uid: 1 };
        let (peer, hello) =
            (Peer { identity: identity.clone(), pid: None }, Hello { name: String::new(), visits: false });
        let make = |limits: &Limits, account: &Arc<Account>| Outbox::new(limits, account, None, identity);
        assert!(broker.connect(peer, Some(&[]), hello, make).unwrap().is_some());
        let begun = Instant::now();
        let draining = drain(&broker, br#"{"timeout_ms":5000}"#, InstanceId(9)).unwrap();
        assert_eq!((draining.instances, draining.timeout_ms), (1, Some(5000)));
        drain::drained(&broker).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_nobody_is_left_and_not_if_it_was_called_off() {
        let broker = broker();
        let mut drained = std::pin::pin!(drain::drained(&broker));
        let mut is_drained = async || tokio::time::timeout(Duration::from_secs(3600), &mut drained).await.is_ok();
        assert!(!is_drained().await);
        drain(&broker, br#"{"timeout_ms":5000}"#, BY).unwrap();
        drain(&broker, br#"{"cancel":true}"#, BY).unwrap();
        assert!(!is_drained().await, "it was called off");
        drain(&broker, b"{}", BY).unwrap();
        assert!(is_drained().await, "nobody is there");
    }
}
