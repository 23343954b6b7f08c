//! Any texts as a topic and two patterns: what is accepted keeps the rules, and matching and overlapping agree with
//! their definitions.
//!
//! The texts are the lines of the input; without a third, the second pattern is the topic.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::{SEGMENTS_MAX, TOPIC_BYTES_MAX, Topic};

fuzz_target!(|input: &str| {
    let (topic, pattern) = input.split_once('\n').unwrap_or((input, input));
    let (pattern, other) = pattern.split_once('\n').unwrap_or((pattern, topic));
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
    let Ok(other) = Pattern::new(other) else { return };
    check_overlap(&pattern, &other);
    assert!(!(pattern.matches(&topic) && other.matches(&topic)) || pattern.overlaps(&other));
});

fn check_overlap(one: &Pattern, other: &Pattern) {
    let overlap = one.overlaps(other);
    assert_eq!(overlap, other.overlaps(one));
    let apart = one.as_str().starts_with('$') != other.as_str().starts_with('$');
    let [one, other] = [one, other].map(|pattern| pattern.as_str().split('/').collect::<Vec<_>>());
    assert_eq!(overlap, !apart && meet(&one, &other));
}

/// The definition: both ends can be reached by taking the same segments, one after another.
fn meet(one: &[&str], other: &[&str]) -> bool {
    let (mut open, mut seen) = (vec![(0, 0)], HashSet::new());
    while let Some((at, other_at)) = open.pop() {
        if !seen.insert((at, other_at)) {
            continue;
        }
        let (segment, other_segment) = (one.get(at), other.get(other_at));
        let (many, other_many) = (segment == Some(&"**"), other_segment == Some(&"**"));
        if many {
            open.push((at + 1, other_at));
        }
        if other_many {
            open.push((at, other_at + 1));
        }
        match (segment, other_segment) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b || a.starts_with('*') || b.starts_with('*') => {
                open.push((at + usize::from(!many), other_at + usize::from(!other_many)));
            }
            _ => {}
        }
    }
    false
}

fn keeps_rules(text: &str) -> bool {
    if text.split('/').count() > SEGMENTS_MAX {
        return false;
    }
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
