//! Any two texts as a topic and a pattern: what is accepted keeps the rules, and matching agrees with its definition.
//!
//! The texts are the lines of the input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::{TOPIC_BYTES_MAX, Topic};

fuzz_target!(|input: &str| {
    let (topic, pattern) = input.split_once('\n').unwrap_or((input, input));
    let topic_ok = keeps_rules(topic) && !topic.contains('*');
    let pattern_ok = keeps_rules(pattern)
        && pattern.split('/').all(|segment| !segment.contains('*') || segment == "*" || segment == "**");
    let (made_topic, made_pattern) = (Topic::new(topic), Pattern::new(pattern));
    assert_eq!(made_topic.is_ok(), topic_ok, "{made_topic:?}");
    assert_eq!(made_pattern.is_ok(), pattern_ok, "{made_pattern:?}");
    for (text, error) in [(topic, made_topic.as_ref().err()), (pattern, made_pattern.as_ref().err())] {
        if let Some(error) = error {
            assert!(error.at <= text.len() && !error.to_string().is_empty());
        }
    }
    let Ok(topic) = made_topic else { return };
    assert!(Pattern::new(topic.as_str()).is_ok_and(|pattern| pattern.matches(&topic)));
    let Ok(pattern) = made_pattern else { return };
    let hidden = topic.is_reserved() && !pattern.as_str().starts_with('$');
    let segments: Vec<&str> = topic.segments().collect();
    let wanted: Vec<&str> = pattern.as_str().split('/').collect();
    assert_eq!(pattern.matches(&topic), !hidden && defined(&wanted, &segments));
});

fn keeps_rules(text: &str) -> bool {
    let bytes = 1..=TOPIC_BYTES_MAX;
    bytes.contains(&text.len()) && !text.chars().any(char::is_control) && text.split('/').all(|s| !s.is_empty())
}

/// The definition: for each number of the pattern's segments, which numbers of the topic's it can account for.
fn defined(pattern: &[&str], topic: &[&str]) -> bool {
    let mut reached = vec![false; topic.len() + 1];
    reached[0] = true;
    for wanted in pattern {
        let mut next = vec![false; topic.len() + 1];
        for at in (0..=topic.len()).filter(|at| reached[*at]) {
            match *wanted {
                "**" => next[at..].fill(true),
                one if at < topic.len() && (one == "*" || one == topic[at]) => next[at + 1] = true,
                _ => {}
            }
        }
        reached = next;
    }
    reached[topic.len()]
}
