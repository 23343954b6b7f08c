//! Report: what each means carries by size, as tables, and for people at a terminal as bars.

use std::io::{self, IsTerminal};

use clap::builder::styling::AnsiColor;
use serde::Serialize;

use crate::bench::report::print_json;
use crate::failure::Failure;
use crate::output::{self, is_coloured, style};
use crate::table::{finish, table};
use crate::transport::fifo::ipc::means::Means;

/// The longest bar, in columns.
const BAR_COLUMNS: usize = 40;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) work: &'static str,
    pub(super) seconds: f64,
    /// By size, and for each by means.
    pub(super) cells: Vec<Cell>,
}

#[derive(Debug, Serialize)]
pub(super) struct Cell {
    pub(super) means: Means,
    pub(super) size: usize,
    pub(super) messages_per_s: Option<f64>,
    pub(super) bytes_per_s: Option<f64>,
    pub(super) round_trip_p50_us: Option<f64>,
}

impl Cell {
    fn megabytes_per_s(&self) -> Option<f64> {
        self.bytes_per_s.map(|bytes| bytes / 1e6)
    }
}

impl Report {
    pub(super) fn show(&self, json: bool) -> Result<(), Failure> {
        if json {
            return print_json(self);
        }
        let one_way = self.table(Cell::megabytes_per_s);
        let trips = self.table(|cell| cell.round_trip_p50_us);
        let mut text = format!("one way, MB/s\n\n{one_way}\n\nthere and back, median in us\n\n{trips}\n");
        if io::stdout().is_terminal() {
            text += &self.bars(is_coloured());
        }
        output::write(text.as_bytes())
    }

    fn table(&self, value: fn(&Cell) -> Option<f64>) -> String {
        let names = Means::ALL.map(|means| means.name().to_uppercase());
        let header: Vec<&str> = std::iter::once("SIZE").chain(names.iter().map(String::as_str)).collect();
        let mut table = table(&header, None);
        for row in self.cells.chunks(Means::ALL.len()) {
            let cells = row.iter().map(|cell| value(cell).map_or("–".to_owned(), |value| format!("{value:.1}")));
            table.add_row(std::iter::once(size(&row[0])).chain(cells));
        }
        finish(table, &[0, 1, 2, 3, 4])
    }

    /// The longest bar of each size is the fastest means for it.
    fn bars(&self, coloured: bool) -> String {
        let mut text = String::new();
        for row in self.cells.chunks(Means::ALL.len()) {
            let most = row.iter().filter_map(Cell::megabytes_per_s).fold(0.0, f64::max);
            text += &format!("\n{}, MB/s\n", size(&row[0]));
            for cell in row {
                let value = cell.megabytes_per_s().unwrap_or(0.0);
                let style = style(coloured, colour(cell.means));
                let bar = bar(value / most);
                text += &format!("  {:<12}  {style}{bar}{style:#} {value:.1}\n", cell.means.name());
            }
        }
        text
    }
}

fn size(cell: &Cell) -> String {
    output::bytes(cell.size as u64)
}

fn colour(means: Means) -> AnsiColor {
    match means {
        Means::Fifo => AnsiColor::Green,
        Means::UnixSocket => AnsiColor::Cyan,
        Means::TcpLoopback => AnsiColor::Yellow,
        Means::File => AnsiColor::Magenta,
    }
}

/// A part of the longest bar, to half a column.
fn bar(part: f64) -> String {
    let halves = (part.clamp(0.0, 1.0) * BAR_COLUMNS as f64 * 2.0).round() as usize;
    "█".repeat(halves / 2) + if halves % 2 == 1 { "▌" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let cell = |(means, megabytes)| Cell {
            means,
            size: 64,
            messages_per_s: None,
            bytes_per_s: Some(megabytes * 1e6),
            round_trip_p50_us: (means != Means::File).then_some(9.96),
        };
        let cells = Means::ALL.into_iter().zip([200.0, 100.0, 50.0, 1.0]).map(cell).collect();
        Report { work: "ipc", seconds: 0.2, cells }
    }

    #[test]
    fn what_a_means_can_t_do_is_left_open() {
        let expected = "\
SIZE  FIFO  UNIX SOCKET  TCP LOOPBACK  FILE
64 B  10.0         10.0          10.0     –";
        assert_eq!(report().table(|cell| cell.round_trip_p50_us), expected);
    }

    #[test]
    fn bars_are_as_long_as_what_they_show() {
        let bars = report().bars(false);
        let columns: Vec<_> = bars.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(columns, [0, 0, 40, 20, 10, 0], "{bars}");
        assert!(!bars.contains('\u{1b}') && report().bars(true).contains('\u{1b}'));
        assert_eq!((bar(0.5 / 40.0), bar(f64::NAN)), ("▌".to_owned(), String::new()));
    }
}
