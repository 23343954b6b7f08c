//! Topics: the names that messages are published under.
//!
//! Not patterns, which have wildcards: those are in [`crate::pattern`].

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest topic or pattern, in bytes of UTF-8.
pub const TOPIC_BYTES_MAX: usize = 255;

/// The most segments of a topic or a pattern: what it takes to match them grows with the product of theirs.
pub const SEGMENTS_MAX: usize = 32;

/// A valid topic: `sensors/kitchen/temp`.
///
/// Non-empty segments between slashes, UTF-8 without control characters and without `*`, at most
/// [`TOPIC_BYTES_MAX`] bytes. Topics whose first segment starts with `$` are the broker's own. Cloning is cheap.
///
/// ```
/// use pipebus_proto::topic::Topic;
/// let topic = Topic::new("sensors/kitchen/temp")?;
/// assert_eq!(topic.segments().count(), 3);
/// assert!(Topic::new("a//b").is_err());
/// # Ok::<(), pipebus_proto::topic::TopicError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Checks `text` and makes a topic of it.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn new(text: &str) -> Result<Topic, TopicError> {
        check_segments(text, |start, segment| match segment.find('*') {
            Some(at) => Err(TopicError::new(text, start + at, Fault::Wildcard)),
            None => Ok(()),
        })?;
        Ok(Topic(text.into()))
    }

    /// The text between the slashes, in order.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether the topic is the broker's own: its first segment starts with `$`.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }

    /// The topic as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What topics and patterns have in common: length, segments, characters. `check` sees each segment and its offset.
pub(crate) fn check_segments(
    text: &str,
    mut check: impl FnMut(usize, &str) -> Result<(), TopicError>,
) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::new(text, 0, Fault::Empty));
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::new(text, TOPIC_BYTES_MAX, Fault::TooLong { bytes: text.len() }));
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(TopicError::new(text, at, Fault::ControlCharacter));
    }
    let mut start = 0;
    for (number, segment) in text.split('/').enumerate() {
        if number >= SEGMENTS_MAX {
            return Err(TopicError::new(text, start, Fault::TooManySegments));
        }
        if segment.is_empty() {
            return Err(TopicError::new(text, start, Fault::EmptySegment));
        }
        check(start, segment)?;
        start += segment.len() + 1;
    }
    Ok(())
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The broker's number for a topic, the same for every client and never used again while the broker lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicId(pub u32);

/// The broker's number for an instance, never used again while the broker lives. 0 is the broker itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub u32);

impl InstanceId {
    /// The broker as a sender.
    pub const BROKER: InstanceId = InstanceId(0);
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no topic or no pattern, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {fault} at byte {at}{}", .fault.advice())]
pub struct TopicError {
    /// The text, cut after 64 characters.
    pub text: String,
    /// The offset of the first byte that is wrong.
    pub at: usize,
    /// What is wrong there.
    pub fault: Fault,
}

impl TopicError {
    pub(crate) fn new(text: &str, at: usize, fault: Fault) -> TopicError {
        let shown = match text.char_indices().nth(64) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text.to_owned(),
        };
        TopicError { text: shown, at, fault }
    }
}

/// What can be wrong with the text of a topic or a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The text is empty.
    Empty,
    /// Two slashes in a row, or one at an end.
    EmptySegment,
    /// A control character, which would upset terminals and logs.
    ControlCharacter,
    /// A `*` in a topic.
    Wildcard,
    /// A `*` beside other characters in a segment of a pattern.
    MixedWildcard,
    /// More than [`TOPIC_BYTES_MAX`] bytes.
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// More than [`SEGMENTS_MAX`] segments.
    TooManySegments,
}

impl Fault {
    fn advice(&self) -> &'static str {
        match self {
            Fault::Empty => "; give it a name such as a/b",
            Fault::EmptySegment => "; remove the slash there",
            Fault::ControlCharacter => "; remove that character",
            Fault::Wildcard => "; only patterns may have wildcards",
            Fault::MixedWildcard => "; a segment is either *, ** or plain text",
            Fault::TooLong { .. } => "; shorten it to 255 bytes",
            Fault::TooManySegments => "; 32 segments are the most",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Empty => f.write_str("is empty"),
            Fault::EmptySegment => f.write_str("has an empty segment"),
            Fault::ControlCharacter => f.write_str("has a control character"),
            Fault::Wildcard => f.write_str("is a topic with a wildcard"),
            Fault::MixedWildcard => f.write_str("mixes a wildcard with other characters"),
            Fault::TooLong { bytes } => write!(f, "is {bytes} bytes long"),
            Fault::TooManySegments => f.write_str("has too many segments"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), (usize, Fault)>) {
        let got = Topic::new(text).map(|_| ()).map_err(|e| (e.at, e.fault));
        assert_eq!(got, expected, "{text:?}");
    }

    #[test]
    fn topics_are_segments_between_slashes() {
        check("a", Ok(()));
        check("sensors/kitchen/temp", Ok(()));
        check("käse/ß", Ok(()));
        check("$bus/status", Ok(()));
        check("a b/c", Ok(()));
    }

    #[test]
    fn an_error_says_which_byte() {
        check("", Err((0, Fault::Empty)));
        check("/a", Err((0, Fault::EmptySegment)));
        check("a/", Err((2, Fault::EmptySegment)));
        check("a//b", Err((2, Fault::EmptySegment)));
        check("a/b*", Err((3, Fault::Wildcard)));
        check("a/\u{7}b", Err((2, Fault::ControlCharacter)));
        check(&["x"; 32].join("/"), Ok(()));
        check(&["x"; 33].join("/"), Err((64, Fault::TooManySegments)));
        check(&"x".repeat(255), Ok(()));
        check(&"x".repeat(256), Err((255, Fault::TooLong { bytes: 256 })));
    }

    #[test]
    fn an_error_reads_as_a_sentence() {
        let error = Topic::new("a//b").unwrap_err();
        assert_eq!(error.to_string(), r#""a//b" has an empty segment at byte 2; remove the slash there"#);
    }
}
