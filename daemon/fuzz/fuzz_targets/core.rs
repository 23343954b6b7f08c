//! Any bytes as a story of the whole core: what clients send, what is read and written, which faults there are. The
//! promises are those of the simulation in `daemon/tests`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/simulation/mod.rs"]
mod simulation;

fuzz_target!(|tape: &[u8]| {
    simulation::play(tape, false);
});
