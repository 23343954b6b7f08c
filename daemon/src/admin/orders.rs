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
    let who = describe(orderer);
    info!(instance, by = by.0, who, reason, "to be disconnected by an administrator");
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let text = format!("an administrator ({who}) has disconnected this client{why}");
    outbox.expel(Refused::new(Reason::Forbidden, text), Cause::Administrator);
    Ok(status)
}

/// Shows what is logged, or changes it.
pub(super) fn log(broker: &Broker, order: &[u8], by: InstanceId) -> Result<LogFilter, String> {
    // To be asked without a word is to show it.
    let LogOrder { filter } =
        if order.is_empty() { LogOrder::default() } else { read(order, "filter, such as \"debug\"")? };
    if let Some(filter) = filter {
        // Before as well as after: whichever of the two filters lets it through.
        info!(by = by.0, filter, "what is logged is to change");
        broker.host().set_log_filter(&filter)?;
        info!(by = by.0, filter, "what is logged has changed, until the broker ends");
    }
    Ok(LogFilter { filter: broker.host().log_filter()?, configured: broker.config.log.filter.clone() })
}

/// Begins to drain, or calls it off.
pub(super) fn drain(broker: &Broker, order: &[u8], by: InstanceId) -> Result<Draining, String> {
    match read(order, "perhaps timeout_ms, a number, and cancel, true or false")? {
        DrainOrder { cancel: true, .. } => Ok(drain::cancel(broker, by)),
        DrainOrder { timeout_ms, .. } => drain::begin(broker, by, timeout_ms.map(Duration::from_millis)),
    }
}

fn read<T: DeserializeOwned>(order: &[u8], expected: &str) -> Result<T, String> {
    serde_json::from_slice(order).map_err(|error| format!("the order is no JSON object with {expected}: {error}"))
}
