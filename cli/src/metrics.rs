//! `pipebus metrics`: what the broker tells monitoring systems.

use pipebus_proto::admin::{METRICS, MetricsFormat, MetricsQuestion};
use pipebus_proto::place::Address;

use crate::args::metrics::{Format, Metrics};
use crate::bus::visit;
use crate::failure::Failure;
use crate::look::TIMEOUT;
use crate::output;

pub(crate) async fn run(bus: &Address, arguments: &Metrics) -> Result<(), Failure> {
    let format = match arguments.format {
        Format::OpenMetrics => MetricsFormat::OpenMetrics,
        Format::Prometheus => MetricsFormat::Prometheus,
    };
    let question = serde_json::to_vec(&MetricsQuestion { format }).map_err(|error| Failure::system("ask", error))?;
    let client = visit(bus, "metrics").await?;
    let answer = client.request(METRICS, question, TIMEOUT).await?;
    output::write(&answer.payload)
}
