//! The terminal, or whatever else the standard output is.

use std::io::{self, IsTerminal};

use ratatui::crossterm::ansi_support::supports_ansi;
use ratatui::crossterm::terminal::size;

/// How many columns it has, if it is one and says so.
pub(crate) fn width() -> Option<u16> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let (columns, _) = size().ok()?;
    Some(columns).filter(|columns| *columns > 0)
}

/// Whether it shows colours, if it is one.
pub(crate) fn has_colours() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb") && takes_sequences()
}

/// Whether it obeys what moves the cursor, if it is one: consoles do if they are asked to, but for old ones.
pub(crate) fn takes_sequences() -> bool {
    supports_ansi()
}

/// Whether one can draw on it, if it is one.
pub(crate) fn has_screen() -> bool {
    has_colours()
}

/// Nobody could continue this program, so nothing happens.
pub(crate) fn suspend() -> io::Result<()> {
    Ok(())
}

/// The other end of a pipe is closed, as Wine says it (ERROR_PIPE_NOT_CONNECTED).
const NOT_CONNECTED: i32 = 233;

/// Whether an error of writing to the standard output says that whoever read it has left.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(NOT_CONNECTED)
}

/// Waits until whoever read the standard output has left, which can't be seen here before something is written.
pub(crate) async fn output_closed() {
    std::future::pending().await
}
