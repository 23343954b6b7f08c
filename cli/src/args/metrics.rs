//! Arguments of `metrics`.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = METRICS_EXAMPLES)]
pub(crate) struct Metrics {
    /// How to write them
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "openmetrics")]
    pub(crate) format: Format,
}

const METRICS_EXAMPLES: &str = "\
The policy must let you admin $bus/metrics. The broker can write a file for node_exporter by itself: see [metrics] in its \
configuration. Who can't change that lets cron or a timer write it, to a file beside it first, so that nobody reads a part.

Examples:
  pipebus metrics
  pipebus metrics | grep pipebus_queued
  cd /var/lib/prometheus/node-exporter &&
    pipebus --bus system metrics --format prometheus > pipebus.new && mv pipebus.new pipebus.prom";

/// In which metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// OpenMetrics 1.0
    #[value(name = "openmetrics")]
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4, for node_exporter's textfile collector
    Prometheus,
}
