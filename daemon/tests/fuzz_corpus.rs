//! Every input in `fuzz/corpus`, through its fuzz target: what a fuzzer has found once is kept, without one.

#![allow(clippy::unwrap_used, reason = "in a test, what should be there and is not is a failure")]

use std::fs;
use std::path::Path;

// The targets say `use libfuzzer_sys::fuzz_target`, and what they include `use crate::core`: here that is this file.
extern crate self as libfuzzer_sys;
use pipebusd::core;

#[path = "../fuzz/fuzz_targets/core.rs"]
#[expect(unused_attributes, reason = "each says no_main, being a program of its own elsewhere")]
mod core_target;

#[path = "../fuzz/fuzz_targets/rules.rs"]
#[expect(unused_attributes, reason = "each says no_main, being a program of its own elsewhere")]
mod rules_target;

use rules_target::transport;

type Run = fn(&[u8]);

const TARGETS: &[(&str, Run)] = &[("core", core_target::run), ("rules", rules_target::run)];

#[test]
fn every_input_in_the_corpus_keeps_the_promise_of_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    assert_eq!(fs::read_dir(&corpus).unwrap().count(), TARGETS.len(), "a target is missing here");
    for (name, run) in TARGETS {
        let inputs = fs::read_dir(corpus.join(name)).unwrap();
        for path in inputs.map(|entry| entry.unwrap().path()) {
            // Shown if this is the one that fails.
            eprintln!("{}", path.display());
            run(&fs::read(&path).unwrap());
        }
    }
}

/// Instead of a fuzzer's entry point, a function that takes one input. Defined below the targets, so that they really
/// import it.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: &[u8]| $body:block) => {
        pub(crate) fn run($input: &[u8]) {
            $body
        }
    };
    (|$input:ident: &str| $body:block) => {
        pub(crate) fn run(bytes: &[u8]) {
            let Ok($input) = std::str::from_utf8(bytes) else { return };
            $body
        }
    };
}
