//! `pipebus top`: a live view of the bus, its instances, topics and users.
//!
//! This file takes what happens to the [`State`] and does what comes out. The state is a value, what it looks like a
//! function of it, and the broker is asked beside it, so that no answer keeps the keys waiting.

pub(crate) mod args;
mod draw;
mod figures;
mod instances;
mod keys;
mod list;
mod rates;
mod sample;
mod state;
mod terminal;
mod theme;
mod topics;
mod users;

use std::time::Duration;

use pipebus_client::{Client, Error, Link};
use pipebus_proto::admin::{DISCONNECT, DisconnectOrder, STATUS};
use pipebus_proto::place::Address;
use ratatui::crossterm::event::Event;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at, sleep};

use crate::bus::visit;
use crate::failure::Failure;
use crate::interrupt::{Interrupt, LastResort};
use crate::look::{TIMEOUT, ask};
use crate::output::{self, is_coloured};
use crate::system::signal::{TerminalSignal, TerminalSignals};
use crate::system::terminal::width;
use crate::top::args::Top;
use crate::top::keys::{Key, key_of};
use crate::top::sample::{Names, Sample};
use crate::top::state::{Effect, State, Target, View};
use crate::top::terminal::{Screen, events};
use crate::top::theme::Theme;

/// How often what tells of the time is drawn anew.
const CLOCK: Duration = Duration::from_secs(1);

/// The rows that one picture as text has at most, and its width where there is no terminal.
const TEXT_ROWS_MAX: u16 = 1000;
const TEXT_WIDTH: u16 = 120;

pub(crate) async fn run(bus: &Address, arguments: &Top) -> Result<(), Failure> {
    if !arguments.once {
        Screen::check()?;
    }
    let client = visit(bus, "top").await?;
    // Whoever may not ask is told before the screen is taken.
    let first = sample::take(client.clone(), View::Instances, Names::default()).await?;
    let state = State::new(first, arguments.sort, arguments.interval, Instant::now());
    if arguments.once {
        return show_once(client, state).await;
    }
    let mut live = Live::new(client, state)?;
    live.handle_link().await?;
    live.show().await
}

/// One picture as text, with the rates of one interval.
async fn show_once(client: Client, mut state: State) -> Result<(), Failure> {
    sleep(state.interval).await;
    let second = sample::take(client, state.view, state.names()).await?;
    state.handle_sample(second, Instant::now());
    let width = width().unwrap_or(TEXT_WIDTH);
    output::write(draw::text(&state, width, TEXT_ROWS_MAX).as_bytes())
}

/// The state, and what it has to do with the world.
struct Live {
    client: Client,
    link: watch::Receiver<Link>,
    state: State,
    theme: Theme,
    screen: Screen,
    ticker: Interval,
    /// A question to the broker that waits for its answer.
    asking: Option<JoinHandle<Result<Sample, Failure>>>,
    /// Orders to it that do.
    orders: JoinSet<(Target, Result<(), String>)>,
}

impl Live {
    fn new(client: Client, state: State) -> Result<Live, Failure> {
        Ok(Live {
            link: client.link(),
            client,
            theme: Theme { is_coloured: is_coloured() },
            ticker: ticker(state.interval),
            state,
            screen: Screen::take()?,
            asking: None,
            orders: JoinSet::new(),
        })
    }

    /// Until somebody quits.
    async fn show(mut self) -> Result<(), Failure> {
        let mut interrupt = Interrupt::listen()?;
        let mut terminal = TerminalSignals::listen()?;
        // For a terminal that takes nothing any more.
        let _last_resort = LastResort::arm()?;
        let mut events = events();
        let mut clock = interval(CLOCK);
        loop {
            self.draw()?;
            tokio::select! {
                biased;
                () = interrupt.received() => return Ok(()),
                signal = terminal.received() => match signal {
                    TerminalSignal::Gone => return Ok(()),
                    TerminalSignal::Back => self.screen.retake()?,
                },
                event = events.recv() => match event {
                    Some(Event::Key(event)) => {
                        if let Some(key) = key_of(event) && self.press(key)? {
                            return Ok(());
                        }
                    }
                    // It has another size, which the next drawing looks at.
                    Some(_) => {}
                    None => return Ok(()),
                },
                Ok(()) = self.link.changed() => self.handle_link().await?,
                answer = answered(&mut self.asking) => self.handle_answer(answer),
                Some(done) = self.orders.join_next() => {
                    let (target, outcome) = done.unwrap_or_else(|error| pass_on(error));
                    self.state.handle_outcome(&target, outcome);
                    self.ask();
                }
                _ = self.ticker.tick() => {
                    if self.asking.is_none() && !self.state.is_paused {
                        self.ask();
                    }
                }
                _ = clock.tick() => {}
            }
        }
    }
    fn draw(&mut self) -> Result<(), Failure> {
        self.state.handle_time(Instant::now());
        let (state, theme) = (&mut self.state, self.theme);
        self.screen.draw(|frame| {
            state.page = draw::rows_seen(frame.area(), state);
            draw::draw(frame, state, theme);
        })
    }

    /// Does what a key wants. Returns whether to quit.
    fn press(&mut self, key: Key) -> Result<bool, Failure> {
        match self.state.handle_key(key) {
            None => {}
            Some(Effect::Quit) => return Ok(true),
            Some(Effect::Ask) => self.ask(),
            Some(Effect::Retime) => self.ticker = ticker(self.state.interval),
            Some(Effect::Disconnect(target)) => self.order_to_disconnect(target),
            Some(Effect::Suspend) => self.screen.suspend()?,
            Some(Effect::Redraw) => self.screen.clear()?,
        }
        Ok(false)
    }

    /// Asks for what is seen now, whatever was asked before.
    fn ask(&mut self) {
        if !matches!(*self.link.borrow(), Link::Up { .. }) {
            return;
        }
        self.stop_asking();
        self.state.handle_asked(Instant::now());
        let question = sample::take(self.client.clone(), self.state.view, self.state.names());
        self.asking = Some(tokio::spawn(question));
    }

    fn stop_asking(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }

    fn handle_answer(&mut self, answer: Result<Sample, Failure>) {
        self.asking = None;
        match answer {
            Ok(sample) => self.state.handle_sample(sample, Instant::now()),
            // The link tells of that.
            Err(Failure::Client(Error::Disconnected | Error::Closed)) => {}
            Err(failure) => self.state.handle_failure(failure.to_string()),
        }
    }

    async fn handle_link(&mut self) -> Result<(), Failure> {
        let link = self.link.borrow_and_update().clone();
        match link {
            Link::Up { client } => {
                self.state.handle_connected(client.0);
                self.ask();
                Ok(())
            }
            Link::Down { .. } => {
                self.stop_asking();
                self.state.handle_lost(Instant::now());
                Ok(())
            }
            // For good, and whoever asks is told why.
            _ => ask(&self.client, STATUS).await.map(drop),
        }
    }

    fn order_to_disconnect(&mut self, target: Target) {
        let client = self.client.clone();
        self.orders.spawn(async move {
            let order = DisconnectOrder { instance: target.id, reason: None };
            let outcome = async {
                let order = serde_json::to_vec(&order).map_err(|error| error.to_string())?;
                let answer = client.request(DISCONNECT, order, TIMEOUT).await;
                answer.map(drop).map_err(|error| error.to_string())
            };
            let outcome = outcome.await;
            (target, outcome)
        });
    }
}

fn ticker(time: Duration) -> Interval {
    let mut ticker = interval_at(Instant::now() + time, time);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

/// The answer to a question, if one is asked. Cancel safe.
async fn answered<T>(asking: &mut Option<JoinHandle<T>>) -> T {
    match asking {
        Some(answer) => answer.await.unwrap_or_else(|error| pass_on(error)),
        None => std::future::pending().await,
    }
}

/// A panic of a task is one of this program.
fn pass_on(error: JoinError) -> ! {
    std::panic::resume_unwind(error.into_panic())
}
