//! The terminal: taken for the screen, and given back as it was, however the program ends.

use std::io::{self, IsTerminal, Stdout, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::style::force_color_output;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use ratatui::layout::Rect;
use ratatui::{Frame, Terminal};
use tokio::sync::mpsc;

use crate::failure::Failure;
use crate::system::terminal::{has_screen, suspend};

/// Whether the terminal is to be given back. A panic on another thread may have done it.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// How many events may wait; a terminal that sends more of them waits.
const EVENTS_MAX: usize = 64;

/// The screen. Dropped, it gives the terminal back.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Fails unless this program has a terminal that it can draw on. Changes nothing.
    pub(super) fn check() -> Result<(), Failure> {
        if stdout().is_terminal() && has_screen() { Ok(()) } else { Err(Failure::NoTerminal) }
    }

    pub(super) fn take() -> Result<Screen, Failure> {
        give_back_on_panic();
        // What has no colour is drawn without; the library would leave half a sequence, which ends bold and reverse.
        force_color_output(true);
        let taken = take_terminal().and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        taken.map(|terminal| Screen { terminal }).map_err(|error| {
            give_back();
            Failure::system("take the terminal for the screen", error)
        })
    }

    pub(super) fn draw(&mut self, what: impl FnOnce(&mut Frame<'_>)) -> Result<(), Failure> {
        let drawn = self.terminal.draw(what);
        drawn.map(drop).map_err(|error| Failure::system("draw on the terminal", error))
    }

    /// Makes the next drawing draw all.
    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        // Not `Terminal::clear`, which asks the terminal where its cursor is, and waits for the answer.
        let cleared = size().and_then(|(width, height)| self.terminal.resize(Rect::new(0, 0, width, height)));
        cleared.map_err(|error| Failure::system("clear the terminal", error))
    }

    /// Stops all programs of this job, as the shell's Ctrl-Z does, and comes back when the shell says so.
    pub(super) fn suspend(&mut self) -> Result<(), Failure> {
        give_back();
        suspend().map_err(|error| Failure::system("suspend", error))?;
        self.retake()
    }

    /// After somebody else has had the terminal.
    pub(super) fn retake(&mut self) -> Result<(), Failure> {
        give_back();
        take_terminal().map_err(|error| Failure::system("take the terminal again", error))?;
        self.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take_terminal() -> io::Result<()> {
    IS_TAKEN.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, Hide)
}

/// Once, since the second time would put the cursor where it was when the terminal was taken, over what was written
/// meanwhile.
fn give_back() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        // If nobody is there any more, nobody sees it.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// So that what a panic says is read on a terminal that works.
fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
    });
}

/// What is typed and how the screen changes its size, until the terminal is gone.
pub(super) fn events() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    // A thread of its own, which waits for the terminal while all else goes on, and ends with the program.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
