//! Metrics: what the broker counts and has, for monitoring systems. `docs/metrics.md` tells what each is.
//!
//! All is gathered when somebody asks, from what is counted anyway. Nothing is told of single users, instances or topics:
//! clients could make as many series as they like, and who looks after a bus has `pipebus users`, `instances` and `topics`
//! for that. What is said of a name here never changes: of two brokers that say different things, node_exporter shows one.

pub(crate) mod file;
mod text;

use std::time::SystemTime;

use pipebus_proto::admin::{MetricsFormat, MetricsQuestion};
use pipebus_proto::control::{Failure, Farewell, Reason};

use self::text::Text;
use crate::broker::Broker;
use crate::core::limits::Limit;
use crate::service;
use crate::totals::Totals;

/// Answers a request for them.
pub(crate) fn answer(broker: &Broker, question: &[u8]) -> Result<Vec<u8>, String> {
    let question = match question {
        [] => MetricsQuestion::default(),
        json => {
            serde_json::from_slice(json).map_err(|error| format!("the question is no JSON with format: {error}"))?
        }
    };
    Ok(write(broker, question.format).into_bytes())
}

/// All of them.
fn write(broker: &Broker, format: MetricsFormat) -> String {
    let mut text = Text::new(format, &broker.place.path().display().to_string());
    text.info("pipebus_build", "The broker.", "version", env!("CARGO_PKG_VERSION"));
    let started = broker.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    text.gauge("pipebus_start_time_seconds", "When the broker started, in Unix time.", started.as_secs_f64());
    let totals = look(broker, &mut text);
    write_passed(broker, &totals, &mut text);
    write_happened(broker, &mut text);
    write_process(&mut text);
    text.finish()
}

/// What there is now.
fn look(broker: &Broker, text: &mut Text) -> Totals {
    let bus = broker.bus();
    let totals = Totals::of(broker, &bus);
    let (instances, limits) = (bus.instances().len(), bus.limits().clone());
    let (users, requests) = (bus.users().iter().count(), bus.open_requests());
    let topics = bus.topics().filter(|(_, declared)| !declared.name.is_reserved()).count();
    drop(bus);
    text.gauge("pipebus_instances", "Clients that are connected.", instances);
    text.gauge("pipebus_instances_max", "Clients that may be connected.", limits.instances_max);
    text.gauge("pipebus_instances_stalled", "Clients that take nothing, so that messages are dropped.", totals.stalled);
    text.gauge("pipebus_users", "Users who have clients connected.", users);
    text.gauge("pipebus_subscriptions", "Subscriptions.", totals.subscriptions);
    text.gauge("pipebus_topics", "Topics that clients have declared.", topics);
    text.gauge("pipebus_requests_open", "Requests that wait for their answer.", requests);
    text.gauge("pipebus_monitors", "Clients that watch what others send.", totals.monitors);
    text.gauge("pipebus_publishers_waiting", "Clients that wait for a slow subscriber's room.", totals.waiting);
    text.gauge("pipebus_queued_bytes", "What waits in all queues.", totals.queued_bytes);
    text.gauge("pipebus_queued_max_bytes", "What may wait in all queues.", limits.queued_bytes_max);
    text.gauge("pipebus_queue_fullest_ratio", "How full the fullest queue is.", totals.fullest);
    totals
}

/// What has passed since the broker started.
fn write_passed(broker: &Broker, totals: &Totals, text: &mut Text) {
    let passed = &totals.passed;
    text.counter("pipebus_messages_received", "Messages read from clients.", passed.messages_in.read());
    text.counter("pipebus_received_bytes", "All bytes read from clients.", passed.bytes_in.read());
    text.counter("pipebus_control_frames_received", "Control frames read from clients.", passed.controls_in.read());
    text.counter("pipebus_messages_sent", "Messages written to clients.", passed.messages_out.read());
    text.counter("pipebus_sent_bytes", "All bytes written to clients.", passed.bytes_out.read());
    text.counter("pipebus_messages_dropped", "Messages lost to slow subscribers.", totals.dropped.read());
    let help = "How long messages are in the broker, of a sample.";
    text.histogram("pipebus_latency_seconds", help, &broker.latency.read());
}

/// What has happened to clients since the broker started.
fn write_happened(broker: &Broker, text: &mut Text) {
    let tally = &broker.tally;
    text.counter("pipebus_connections", "Clients that were let in.", tally.connected.read());
    let ended = tally.ended.read().map(|(farewell, times)| (Farewell::word(farewell), times));
    text.counters("pipebus_disconnections", "Clients that have left or were sent away.", "cause", ended);
    let turned_away = tally.turned_away.read().map(|(reason, times)| (Reason::word(reason), times));
    text.counters("pipebus_clients_refused", "Clients that were not let in.", "reason", turned_away);
    let refused = tally.refused.read().map(|(reason, times)| (Reason::word(reason), times));
    text.counters("pipebus_refusals", "What connected clients were refused.", "reason", refused);
    text.counter(
        "pipebus_knocks_unfit",
        "Clients that came to the door and left nothing to answer to.",
        tally.unfit_knocks.read(),
    );
    text.counter("pipebus_requests", "Requests that went to a server or to the broker.", tally.requests.read());
    let unanswered = tally.unanswered.read().map(|(failure, times)| (Failure::word(failure), times));
    text.counters("pipebus_requests_failed", "Requests that nobody answers.", "reason", unanswered);
    let limits = Limit::ALL.into_iter().map(|limit| (limit.key(), broker.reviewed.times(limit)));
    text.counters("pipebus_limits_reached", "How often a limit was reached.", "limit", limits);
}

/// What the system says. Not under the names that processes usually have: node_exporter itself has those.
fn write_process(text: &mut Text) {
    let mut gauge = |name, help, value: Option<u64>| value.into_iter().for_each(|value| text.gauge(name, help, value));
    gauge("pipebus_process_resident_memory_bytes", "Memory that the broker has in use.", service::resident_bytes());
    gauge("pipebus_process_open_fds", "Files that the broker has open.", service::open_files());
    gauge("pipebus_process_max_fds", "Files that it may have open.", service::open_files_max());
    let used = service::processor_time().as_secs_f64();
    text.counter("pipebus_process_cpu_seconds", "Time that the broker was on a processor.", used);
}
