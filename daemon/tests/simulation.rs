//! The core in thousands of simulated stories, each from a seed. What is modelled and checked is in `simulation/`.
//!
//! A story that goes wrong is printed, made as short as possible, with the command to repeat just it:
//!
//!     PIPEBUS_SEED=1234 cargo test -p pipebusd --test simulation
//!
//! What a fuzzer has found is a story, too: `PIPEBUS_TAPE=file` instead, with an absolute path. More of them, from the
//! first that is not in the usual run:
//!
//!     PIPEBUS_SEEDS=1000000 cargo test --release -p pipebusd --test simulation

#![allow(clippy::unwrap_used, reason = "in a test, what should be there and is not is a failure")]

use std::ops::Range;
use std::panic::{catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::simulation::choices::BLOCK_BYTES;
use crate::simulation::play;

#[path = "simulation/mod.rs"]
mod simulation;

/// How many stories are in the usual run.
const SEEDS: u64 = 5000;

#[test]
fn everybody_gets_what_it_should_or_is_told_whatever_happens() {
    if let Ok(file) = std::env::var("PIPEBUS_TAPE") {
        return repeat(&std::fs::read(&file).unwrap(), &format!("PIPEBUS_TAPE={file}"));
    }
    if let Some(seed) = number_in("PIPEBUS_SEED") {
        return repeat(&tape_of(seed), &format!("PIPEBUS_SEED={seed}"));
    }
    let seeds = number_in("PIPEBUS_SEEDS").map_or(0..SEEDS, |count| SEEDS..SEEDS + count);
    if let Some(seed) = first_failing(seeds) {
        repeat(&tape_of(seed), &format!("PIPEBUS_SEED={seed}"));
        panic!("seed {seed} failed, and then did not");
    }
}

fn number_in(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect("a number"))
}

/// Where tapes come from when nobody else makes them: Sebastiano Vigna's splitmix64.
fn tape_of(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let blocks = 10 + next() % 600;
    (0..blocks).flat_map(|_| next().to_le_bytes()).collect()
}

fn fails(tape: &[u8]) -> bool {
    catch_unwind(|| play(tape, false)).is_err()
}

/// A seed of a story that goes wrong, if there is any.
fn first_failing(seeds: Range<u64>) -> Option<u64> {
    let (next, found) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let is_found = AtomicBool::new(false);
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !is_found.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    if fails(&tape_of(seed)) {
                        found.fetch_min(seed, Ordering::Relaxed);
                        is_found.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    set_hook(hook);
    Some(found.into_inner()).filter(|seed| *seed != u64::MAX)
}

/// Plays a story; if it goes wrong, makes it short and prints it, with what to say to repeat it.
fn repeat(tape: &[u8], name: &str) {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let short = fails(tape).then(|| shrunk(tape.to_vec()));
    set_hook(hook);
    let Some(short) = short else { return play(tape, true) };
    let steps = short.len().div_ceil(BLOCK_BYTES) - 2;
    eprintln!("{name} goes wrong; so do these {steps} steps. To repeat it:\n");
    eprintln!("    {name} cargo test -p pipebusd --test simulation\n");
    play(&short, true);
}

/// A shorter story that goes wrong, too: without steps that don't matter, and with zeros for what does not matter.
fn shrunk(mut tape: Vec<u8>) -> Vec<u8> {
    let mut blocks = tape.len() / BLOCK_BYTES;
    while blocks > 0 {
        let mut at = 2 * BLOCK_BYTES;
        while at < tape.len() {
            let end = (at + blocks * BLOCK_BYTES).min(tape.len());
            let shorter = [&tape[..at], &tape[end..]].concat();
            if fails(&shorter) {
                tape = shorter;
            } else {
                at += blocks * BLOCK_BYTES;
            }
        }
        blocks /= 2;
    }
    for at in 0..tape.len() {
        let byte = std::mem::take(&mut tape[at]);
        if byte != 0 && !fails(&tape) {
            tape[at] = byte;
        }
    }
    tape
}
