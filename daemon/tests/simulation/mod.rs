//! The whole core against a naive model: clients of several users do what they may and what they may not, as bytes,
//! and each gets what it should, in order, whole, and is told of what it lost.
//!
//! Around the core is what the shell does: effects are carried out in their order, a client of which a span did not fit
//! somewhere is not read until it does, and what can be written at once is, past the queue. All that happens by chance
//! comes from a tape of bytes, so the same tape is the same story.

mod checks;
pub(crate) mod choices;
mod client;
mod down;
mod monitors;
mod reader;
mod routing;
mod rules;
mod sending;
mod step;
mod timing;
mod world;

use self::choices::{Choices, Tape};
use self::step::Step;
use self::world::World;

/// Plays a tape. With `prints`, each step is printed before it is taken.
///
/// # Panics
/// A promise was broken.
pub(crate) fn play(tape: &[u8], prints: bool) {
    let mut tape = Tape(tape);
    let mut setting = || tape.next().unwrap_or(Choices::none());
    let mut world = World::new(&mut setting(), &mut setting());
    if prints {
        eprintln!("{world:?}");
    }
    while let Some(mut choices) = tape.next() {
        let step = Step::of(&mut choices);
        if prints {
            eprintln!("{step:?}");
        }
        world.take_step(step, &mut choices);
    }
    world.finish();
}
