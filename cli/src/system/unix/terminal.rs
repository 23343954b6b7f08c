//! The terminal, or whatever else the standard output is.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use rustix::process::{Signal, kill_current_process_group};
use tokio::io::Interest;
use tokio::net::unix::pipe;

/// How many columns it has, if it is one and says so.
pub(crate) fn width() -> Option<u16> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    Some(size.ws_col).filter(|columns| *columns > 0)
}

/// Whether it shows colours, if it is one.
pub(crate) fn has_colours() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether it obeys what moves the cursor, if it is one.
pub(crate) fn takes_sequences() -> bool {
    true
}

/// Whether one can draw on it, if it is one.
pub(crate) fn has_screen() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Stops all programs of this job, as the shell's Ctrl-Z does, and comes back when the shell says so.
pub(crate) fn suspend() -> io::Result<()> {
    // Stops this thread before it returns. Where nobody could continue this program, nothing happens.
    Ok(kill_current_process_group(Signal::TSTP)?)
}

/// Whether an error of writing to the standard output says that whoever read it has left.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Waits until whoever read the standard output has left. Never returns where that can't be seen, as in a file.
pub(crate) async fn output_closed() {
    // Only watched, so that it need not be made non-blocking, which would be so for all who share it.
    let watch = || pipe::Sender::from_owned_fd_unchecked(io::stdout().as_fd().try_clone_to_owned()?);
    match watch() {
        Ok(stdout) if stdout.ready(Interest::ERROR).await.is_ok() => {}
        _ => std::future::pending().await,
    }
}
