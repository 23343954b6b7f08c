//! Every input in `fuzz/corpus`, through its fuzz target: what a fuzzer has found once is kept, without one.

use std::fs;
use std::path::Path;

// The targets say `use libfuzzer_sys::fuzz_target`: here that is this file.
extern crate self as libfuzzer_sys;

macro_rules! targets {
    ($($name:ident $path:literal)*) => {
        $(
            #[path = $path]
            #[expect(unused_attributes, reason = "each says no_main, being a program of its own elsewhere")]
            mod $name;
        )*

        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::run)),*];
    };
}

targets! {
    control "../fuzz/fuzz_targets/control.rs"
    head "../fuzz/fuzz_targets/head.rs"
    knock "../fuzz/fuzz_targets/knock.rs"
    metadata "../fuzz/fuzz_targets/metadata.rs"
    record "../fuzz/fuzz_targets/record.rs"
    splitter "../fuzz/fuzz_targets/splitter.rs"
    topic_pattern "../fuzz/fuzz_targets/topic_pattern.rs"
    value "../fuzz/fuzz_targets/value.rs"
}

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
    (|$input:ident: $kind:ty| $body:block) => {
        pub(crate) fn run(bytes: &[u8]) {
            if let Some($input) = <$kind as $crate::Input>::of(bytes) {
                $body
            }
        }
    };
}

trait Input<'bytes>: Sized {
    fn of(bytes: &'bytes [u8]) -> Option<Self>;
}

impl<'bytes> Input<'bytes> for &'bytes [u8] {
    fn of(bytes: &'bytes [u8]) -> Option<Self> {
        Some(bytes)
    }
}

impl<'bytes> Input<'bytes> for &'bytes str {
    fn of(bytes: &'bytes [u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok()
    }
}
