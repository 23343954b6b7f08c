//! Text: metrics as they are written, in two formats.
//!
//! OpenMetrics 1.0, and the text format 0.0.4 of Prometheus for node_exporter. That takes the former without a word, but
//! all counters lose their type: it looks for `# TYPE` under the name that they have with `_total`.

use std::fmt::{Display, Write};
use std::time::Duration;

use pipebus_proto::admin::MetricsFormat;

use crate::core::latency::{Latencies, Latency};

/// A name that ends in one of these has it as its unit.
const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

/// Metrics, as far as they have been written.
pub(super) struct Text {
    format: MetricsFormat,
    /// The label that all of them have, so that those of several buses can be in one place.
    bus: String,
    text: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

impl Kind {
    /// What the names of its values have, and the name of the metric itself only in Prometheus's format.
    fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }

    fn word(self, format: MetricsFormat) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
            Kind::Info if format == MetricsFormat::OpenMetrics => "info",
            Kind::Gauge | Kind::Info => "gauge",
        }
    }
}

impl Text {
    pub(super) fn new(format: MetricsFormat, bus: &str) -> Text {
        Text { format, bus: escaped(bus), text: String::new() }
    }

    /// Something that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, Kind::Gauge, help);
        self.value(name, "", &[], value);
    }

    /// Something that only grows.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, Kind::Counter, help);
        self.value(name, Kind::Counter.suffix(), &[], value);
    }

    /// The same, of each kind that there is.
    pub(super) fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'a str, u64)>,
    ) {
        self.head(name, Kind::Counter, help);
        for (kind, value) in values {
            self.value(name, Kind::Counter.suffix(), &[(label, kind)], value);
        }
    }

    /// Something that is no number.
    pub(super) fn info(&mut self, name: &str, help: &str, label: &str, text: &str) {
        self.head(name, Kind::Info, help);
        self.value(name, Kind::Info.suffix(), &[(label, text)], 1);
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, latencies: &Latencies) {
        self.head(name, Kind::Histogram, help);
        for (bound, within) in Latency::bounds().into_iter().zip(latencies.within) {
            self.value(name, "_bucket", &[("le", &canonical(bound))], within);
        }
        self.value(name, "_bucket", &[("le", "+Inf")], latencies.count);
        self.value(name, "_sum", &[], latencies.sum.as_secs_f64());
        self.value(name, "_count", &[], latencies.count);
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == MetricsFormat::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn head(&mut self, name: &str, kind: Kind, help: &str) {
        let word = kind.word(self.format);
        // Writing to a String never fails.
        let _ = match self.format {
            MetricsFormat::OpenMetrics => {
                let unit = UNITS.iter().find(|unit| name.strip_suffix(*unit).is_some_and(|rest| rest.ends_with('_')));
                let unit = unit.map(|unit| format!("# UNIT {name} {unit}\n")).unwrap_or_default();
                write!(self.text, "# TYPE {name} {word}\n{unit}# HELP {name} {help}\n")
            }
            MetricsFormat::Prometheus => {
                let suffix = kind.suffix();
                write!(self.text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {word}\n")
            }
        };
    }

    fn value(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{name}{suffix}{{bus=\"{}\"", self.bus);
        for (label, text) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escaped(text));
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

/// What may stand in a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// In seconds, as OpenMetrics wants numbers in labels, which are compared as text: `1e-06`, `0.000128`, `1.048576`.
fn canonical(bound: Duration) -> String {
    let seconds = bound.as_secs_f64();
    // In debug format a number that is whole has a point.
    if seconds < 1e-4 { format!("{seconds:e}").replace("e-", "e-0") } else { format!("{seconds:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(format: MetricsFormat) -> String {
        let mut text = Text::new(format, "/a \"b\"\\\n");
        text.info("x_build", "What it is.", "version", "1.0");
        text.gauge("x_ratio", "How full.", 0.5);
        text.counter("x_read_bytes", "How much.", 7);
        text.counters("x_ends", "How often.", "why", [("a", 1), ("b", 2)].into_iter());
        text.finish()
    }

    #[test]
    fn the_formats_differ_in_units_and_in_the_names_of_counters() {
        let open = r##"
# TYPE x_build info
# HELP x_build What it is.
x_build_info{bus="/a \"b\"\\\n",version="1.0"} 1
# TYPE x_ratio gauge
# UNIT x_ratio ratio
# HELP x_ratio How full.
x_ratio{bus="/a \"b\"\\\n"} 0.5
# TYPE x_read_bytes counter
# UNIT x_read_bytes bytes
# HELP x_read_bytes How much.
x_read_bytes_total{bus="/a \"b\"\\\n"} 7
# TYPE x_ends counter
# HELP x_ends How often.
x_ends_total{bus="/a \"b\"\\\n",why="a"} 1
x_ends_total{bus="/a \"b\"\\\n",why="b"} 2
# EOF
"##;
        assert_eq!(write(MetricsFormat::OpenMetrics), open.trim_start());
        let prometheus = r##"
# HELP x_build_info What it is.
# TYPE x_build_info gauge
x_build_info{bus="/a \"b\"\\\n",version="1.0"} 1
# HELP x_ratio How full.
# TYPE x_ratio gauge
x_ratio{bus="/a \"b\"\\\n"} 0.5
# HELP x_read_bytes_total How much.
# TYPE x_read_bytes_total counter
x_read_bytes_total{bus="/a \"b\"\\\n"} 7
# HELP x_ends_total How often.
# TYPE x_ends_total counter
x_ends_total{bus="/a \"b\"\\\n",why="a"} 1
x_ends_total{bus="/a \"b\"\\\n",why="b"} 2
"##;
        assert_eq!(write(MetricsFormat::Prometheus), prometheus.trim_start());
    }

    #[test]
    fn a_histogram_has_all_its_buckets_and_the_last_has_the_count() {
        let latency = Latency::default();
        latency.record(Duration::from_micros(3));
        latency.record(Duration::from_secs(60));
        let mut text = Text::new(MetricsFormat::OpenMetrics, "b");
        text.histogram("x_seconds", "How long.", &latency.read());
        let text = text.finish();
        let wanted = [
            "# UNIT x_seconds seconds",
            "x_seconds_bucket{bus=\"b\",le=\"2e-06\"} 0",
            "x_seconds_bucket{bus=\"b\",le=\"4e-06\"} 1",
            "x_seconds_bucket{bus=\"b\",le=\"16.777216\"} 1",
            "x_seconds_bucket{bus=\"b\",le=\"+Inf\"} 2",
            "x_seconds_sum{bus=\"b\"} 60.000003",
            "x_seconds_count{bus=\"b\"} 2",
        ];
        for line in wanted {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn bounds_are_written_as_they_are_compared() {
        let bounds = Latency::bounds().map(canonical);
        assert_eq!(bounds[..8], ["1e-06", "2e-06", "4e-06", "8e-06", "1.6e-05", "3.2e-05", "6.4e-05", "0.000128"]);
        assert_eq!((&bounds[20][..], canonical(Duration::from_secs(1))), ("1.048576", "1.0".to_owned()));
    }
}
