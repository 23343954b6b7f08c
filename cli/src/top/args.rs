//! Arguments of `top`.

use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::top::instances::InstanceRow;
use crate::top::list::Row;
use crate::top::state::INTERVALS;

#[derive(Clone, Debug, Args)]
#[command(after_help = TOP_EXAMPLES)]
pub(crate) struct Top {
    /// How often to ask the broker, from 100ms to 1m
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// By which column instances are sorted at first
    #[arg(long, value_name = "COLUMN", default_value = "bytes", value_parser = column())]
    pub(crate) sort: usize,
    /// Show one picture as text, after one interval, and end
    #[arg(long)]
    pub(crate) once: bool,
}

const TOP_EXAMPLES: &str = "\
The keys are at the foot of the screen, all of them with ?. Whoever looks needs the right to `admin` on $bus/**.

Examples:
  pipebus top
  pipebus top --bus system --interval 250ms --sort lost
  pipebus top --once | head -n 20";

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let (shortest, longest) = (INTERVALS[0], INTERVALS[INTERVALS.len() - 1]);
    if (shortest..=longest).contains(&interval) { Ok(interval) } else { Err("it must be from 100ms to 1m".to_owned()) }
}

/// The place of a column among those of instances.
fn column() -> impl TypedValueParser<Value = usize> {
    let names = || InstanceRow::COLUMNS.iter().map(|column| column.heading.name);
    PossibleValuesParser::new(names()).map(move |text| names().position(|name| name == text).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        top: Top,
    }

    fn parse(words: &[&str]) -> Result<Top, clap::Error> {
        Arguments::try_parse_from(["top"].iter().chain(words)).map(|arguments| arguments.top)
    }

    #[test]
    fn an_interval_has_bounds() {
        for (text, expected) in [("100ms", 100), ("1m", 60_000)] {
            assert_eq!(parse(&["--interval", text]).unwrap().interval, Duration::from_millis(expected));
        }
        for text in ["99ms", "61s", "0s", "x"] {
            assert!(parse(&["--interval", text]).unwrap_err().to_string().contains("--interval"), "{text}");
        }
    }

    #[test]
    fn every_column_can_be_sorted_by() {
        for (place, column) in InstanceRow::COLUMNS.iter().enumerate() {
            assert_eq!(parse(&["--sort", column.heading.name]).unwrap().sort, place);
        }
        assert!(parse(&["--sort", "nothing"]).unwrap_err().to_string().contains("bytes"));
        assert_eq!(InstanceRow::COLUMNS[parse(&[]).unwrap().sort].heading.name, "bytes");
    }
}
