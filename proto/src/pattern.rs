//! Patterns: what subscribers and rules say to mean many topics.
//!
//! Matching is iterative and bounded by the product of the lengths, so no pattern can hang or overflow a broker
//! (CVE-2024-31228 was a recursion in such a matcher).

use std::fmt;
use std::sync::Arc;

use crate::topic::{Fault, Topic, TopicError, check_segments};

/// A valid pattern: a topic in which `*` stands for one segment and `**` for any number of them, also none.
///
/// A wildcard in the first place never matches the broker's own topics, those that start with `$`.
///
/// ```
/// use pipebus_proto::{pattern::Pattern, topic::Topic};
/// let pattern = Pattern::new("sensors/*/temp")?;
/// assert!(pattern.matches(&Topic::new("sensors/kitchen/temp")?));
/// assert!(!pattern.matches(&Topic::new("sensors/kitchen/oven/temp")?));
/// # Ok::<(), pipebus_proto::topic::TopicError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Checks `text` and makes a pattern of it.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn new(text: &str) -> Result<Pattern, TopicError> {
        check_segments(text, |start, segment| match segment.find('*') {
            Some(at) if segment != "*" && segment != "**" => {
                Err(TopicError::new(text, start + at, Fault::MixedWildcard))
            }
            _ => Ok(()),
        })?;
        Ok(Pattern(text.into()))
    }

    /// Whether `topic` is one of those meant.
    pub fn matches(&self, topic: &Topic) -> bool {
        if topic.is_reserved() && !self.0.starts_with('$') {
            return false;
        }
        let mut pattern = self.0.split('/');
        let mut segments = topic.as_str().split('/');
        // Where to go on when what follows the last `**` does not fit: that `**` then takes one segment more.
        // Earlier ones need no second try, for the last one can take whatever they would.
        let mut retry: Option<(std::str::Split<'_, char>, std::str::Split<'_, char>)> = None;
        loop {
            let segments_before = segments.clone();
            let fits = match (pattern.next(), segments.next()) {
                (Some("**"), _) => {
                    segments = segments_before.clone();
                    retry = Some((pattern.clone(), segments_before));
                    true
                }
                (Some("*"), Some(_)) => true,
                (Some(wanted), Some(segment)) => wanted == segment,
                (None, None) => return true,
                _ => false,
            };
            if fits {
                continue;
            }
            let Some((after, rest)) = &mut retry else { return false };
            if rest.next().is_none() {
                return false;
            }
            pattern = after.clone();
            segments = rest.clone();
        }
    }

    /// Whether there can be a topic that both this and `other` match.
    ///
    /// In time and memory bounded by the product and the sum of their lengths.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        let is_apart = self.0.starts_with('$') != other.0.starts_with('$');
        !is_apart
            && self.compare(other, |own, their, rest| match (own, their) {
                (None, None) => true,
                (Some("**"), _) | (_, Some("**")) => rest.of_own || rest.of_other,
                (Some(own), Some(their)) => (own == their || own == "*" || their == "*") && rest.of_both,
                _ => false,
            })
    }

    /// Whether this surely matches every topic that `other` matches. It may say no where it does, if both have wildcards
    /// side by side.
    ///
    /// In time and memory bounded by the product and the sum of their lengths.
    pub fn covers(&self, other: &Pattern) -> bool {
        let is_apart = other.0.starts_with('$') && !self.0.starts_with('$');
        !is_apart
            && self.compare(other, |own, their, rest| match (own, their) {
                (None, None) => true,
                (Some("**"), _) => rest.of_own || rest.of_other,
                (_, Some("**")) => false,
                (Some(own), Some(their)) => (own == their || own == "*") && rest.of_both,
                _ => false,
            })
    }

    /// Compares all ends of this pattern with all of another, from the last. `holds` says it of two ends by their first
    /// segments, if they have any, and by what holds of the rest.
    fn compare(&self, other: &Pattern, holds: impl Fn(Option<&str>, Option<&str>, Rest) -> bool) -> bool {
        let own: Vec<&str> = self.0.split('/').collect();
        let others: Vec<&str> = other.0.split('/').collect();
        // Of the end of our own that was looked at before, with each end of the other; one more is beyond its end.
        let mut before = vec![false; others.len() + 2];
        for at in (0..=own.len()).rev() {
            let mut now = vec![false; others.len() + 2];
            for other_at in (0..=others.len()).rev() {
                let rest =
                    Rest { of_own: before[other_at], of_other: now[other_at + 1], of_both: before[other_at + 1] };
                now[other_at] = holds(own.get(at).copied(), others.get(other_at).copied(), rest);
            }
            before = now;
        }
        before[0]
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What holds of two ends without a first segment; nothing where there is none.
struct Rest {
    of_own: bool,
    of_other: bool,
    of_both: bool,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pattern: &str, topic: &str, expected: bool) {
        let got = Pattern::new(pattern).unwrap().matches(&Topic::new(topic).unwrap());
        assert_eq!(got, expected, "{pattern} against {topic}");
    }

    #[test]
    fn one_star_is_exactly_one_segment() {
        check("a/*", "a/b", true);
        check("a/*", "a", false);
        check("a/*", "a/b/c", false);
        check("*/b", "a/b", true);
    }

    #[test]
    fn two_stars_are_any_number_of_segments() {
        check("**", "a", true);
        check("**", "a/b/c", true);
        check("a/**", "a", true);
        check("a/**", "a/b/c", true);
        check("a/**", "b", false);
        check("a/**/z", "a/z", true);
        check("a/**/z", "a/b/z/c/z", true);
        check("a/**/z", "a/b/c", false);
        check("**/b/**/c", "a/b/x/b/c", true);
        check("**/*", "a", true);
        check("**/*/*", "a", false);
    }

    #[test]
    fn wildcards_leave_the_brokers_own_topics_alone() {
        check("**", "$bus/status", false);
        check("*/status", "$bus/status", false);
        check("$bus/**", "$bus/status", true);
        check("$bus/*", "$bus/status", true);
        check("a/**", "a/$b", true);
    }

    #[test]
    fn wildcards_do_not_overlap_with_the_brokers_own_topics() {
        let overlap = |one: &str, other: &str| Pattern::new(one).unwrap().overlaps(&Pattern::new(other).unwrap());
        assert!(!overlap("**", "$bus/**") && !overlap("*/status", "$bus/status"));
        assert!(overlap("$bus/**", "$bus/events/*"));
        assert!(!Pattern::new("**").unwrap().covers(&Pattern::new("$bus/**").unwrap()));
    }

    #[test]
    fn a_star_stands_alone_in_its_segment() {
        for bad in ["a*", "a/b*/c", "***", "a/*b"] {
            assert_eq!(Pattern::new(bad).unwrap_err().fault, Fault::MixedWildcard, "{bad}");
        }
    }

    /// The definition, word for word: slow and recursive, to hold the real one against.
    fn naive(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            (["**", rest @ ..], _) => (0..=topic.len()).any(|skip| naive(rest, &topic[skip..])),
            (["*", rest @ ..], [_, more @ ..]) => naive(rest, more),
            ([one, rest @ ..], [segment, more @ ..]) => one == segment && naive(rest, more),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..7),
            topic in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..7),
        ) {
            let expected = naive(&pattern, &topic);
            check(&pattern.join("/"), &topic.join("/"), expected);
        }

        #[test]
        fn patterns_overlap_and_cover_each_other_as_topics_show(
            one in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..4),
            other in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..4),
        ) {
            // What matches both has at most as many segments as both together.
            let found = (1..=6u32).any(|length| (0..2u32.pow(length)).any(|bits| {
                let topic: Vec<&str> = (0..length).map(|at| if bits >> at & 1 == 0 { "a" } else { "b" }).collect();
                naive(&one, &topic) && naive(&other, &topic)
            }));
            let covered = (1..=6u32).all(|length| (0..2u32.pow(length)).all(|bits| {
                let topic: Vec<&str> = (0..length).map(|at| if bits >> at & 1 == 0 { "a" } else { "b" }).collect();
                !naive(&other, &topic) || naive(&one, &topic)
            }));
            let simple = one.iter().all(|segment| !segment.contains('*')) || one == ["**"];
            let [one, other] = [one, other].map(|segments| Pattern::new(&segments.join("/")).unwrap());
            // With a third letter, some that seem covered are not.
            if one.covers(&other) || simple {
                assert_eq!(one.covers(&other), covered, "{one} and {other}");
            }
            assert_eq!((one.overlaps(&other), other.overlaps(&one)), (found, found), "{one} and {other}");
        }

        #[test]
        fn any_text_is_judged_without_panic(text in "\\PC{0,300}|[a-c*/$]{0,20}") {
            let _ = (Topic::new(&text), Pattern::new(&text));
        }
    }
}
