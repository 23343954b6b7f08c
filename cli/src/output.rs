//! Output: the two streams of a terminal program, colour, and numbers for people.
//!
//! What a message looks like is in [`crate::format`].

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};

use crate::failure::Failure;
use crate::format::escape;
use crate::system::terminal;

/// Output is written at the latest when so much of it has been collected.
const BUFFER_BYTES: usize = 64 * 1024;

/// The standard output or a file, collected until somebody flushes it.
pub(crate) struct Output {
    pub(crate) buffer: Vec<u8>,
    file: Option<File>,
}

impl Output {
    pub(crate) fn new() -> Output {
        Output { buffer: Vec::with_capacity(2 * BUFFER_BYTES), file: None }
    }

    /// To a file instead of the standard output.
    pub(crate) fn to_file(file: File) -> Output {
        Output { file: Some(file), ..Output::new() }
    }

    /// To be called after each addition to the buffer.
    pub(crate) fn flush_if_full(&mut self) -> Result<(), Failure> {
        if self.buffer.len() < BUFFER_BYTES { Ok(()) } else { self.flush() }
    }

    /// Writes what is in the buffer; blocks until somebody takes it.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = match &mut self.file {
            Some(file) => file.write_all(&self.buffer).map_err(Failure::writing),
            None => write(&self.buffer),
        };
        self.buffer.clear();
        written
    }
}

/// Writes to the standard output at once.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::writing)
}

/// Tells the user something on standard error.
pub(crate) fn complain(text: &str) {
    note(&format!("pipebus: {text}"));
}

/// A line on standard error, without the program's name. If nobody listens there, nobody can be told.
pub(crate) fn note(text: &str) {
    let mut line = String::with_capacity(text.len() + 1);
    escape(&mut line, text);
    line.push('\n');
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Whether the standard output is a terminal on which colour is welcome (see no-color.org).
pub(crate) fn is_coloured() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !set("NO_COLOR") && terminal::has_colours()
}

/// The style of a topic, or of a label.
pub(crate) fn style(coloured: bool, colour: AnsiColor) -> Style {
    if coloured { colour.on_default() } else { Style::new() }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1234567` as `1.2M`: at most four characters up to a thousand millions of millions.
pub(crate) fn short(number: u64) -> String {
    scaled(number, 1000.0, &["", "k", "M", "G", "T"])
}

/// A number of bytes as `1.2 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    scaled(number, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(number: u64, step: f64, units: &[&str]) -> String {
    let mut value = number as f64;
    let mut unit = 0;
    // What would be rounded up to a whole step is shown as one.
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 9.95 { 0 } else { 1 };
    format!("{value:.decimals$}{}", units[unit])
}

/// A time as `3h 12m`: its two largest units.
pub(crate) fn time(duration: Duration) -> String {
    let whole = Duration::from_secs(duration.as_secs());
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_enough_for_a_table() {
        let all: Vec<String> = [0, 999, 1000, 1234, 9_949, 9_960, 999_499, 999_600, 1_500_000].map(short).into();
        assert_eq!(all, ["0", "999", "1.0k", "1.2k", "9.9k", "10k", "999k", "1.0M", "1.5M"]);
    }

    #[test]
    fn bytes_have_binary_units() {
        let all: Vec<String> = [0, 1023, 1024, 1536, 64 << 20, 5 << 40, 5000 << 40].map(bytes).into();
        assert_eq!(all, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "64 MiB", "5.0 TiB", "5000 TiB"]);
    }

    #[test]
    fn digits_are_in_groups_of_three() {
        let all: Vec<String> = [0, 123, 1234, 1_234_567].map(grouped).into();
        assert_eq!(all, ["0", "123", "1,234", "1,234,567"]);
    }

    #[test]
    fn a_time_has_two_units() {
        let all: Vec<String> = [0, 59, 61, 3_725, 90_061].map(|s| time(Duration::from_secs(s))).into();
        assert_eq!(all, ["0s", "59s", "1m 1s", "1h 2m", "1day 1h"]);
    }
}
