//! Figures: rates, bars and texts as they are shown in the columns of a terminal.

use ratatui::style::Style;
use ratatui::text::Span;

use crate::format::escape;
use crate::look::UNKNOWN;
use crate::output::{bytes, short};
use crate::top::list::width_of;
use crate::top::theme::Tone;

/// Below this part of its bound a queue is calm, and below that it is nearly full.
const CALM: f64 = 0.5;
const NEARLY_FULL: f64 = 0.9;

/// Messages a second, in at most four characters for all that a machine can do.
pub(super) fn rate(value: Option<f64>) -> String {
    match value {
        None => UNKNOWN.to_owned(),
        Some(value) if value <= 0.0 => "0".to_owned(),
        // Something is not nothing.
        Some(value) if value < 9.95 => format!("{:.1}", value.max(0.1)),
        Some(value) => short(value.round() as u64),
    }
}

/// Bytes a second, without the time.
pub(super) fn byte_rate(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.to_owned(), |value| bytes(value.ceil() as u64))
}

/// A bar of lines, with a heavy one for what is used, and what it means.
pub(super) fn bar(used: u64, bound: u64, width: usize) -> (String, Tone) {
    let part = if bound == 0 { 0.0 } else { (used as f64 / bound as f64).min(1.0) };
    let mut halves = (part * 2.0 * width as f64).round() as usize;
    if used > 0 {
        halves = halves.max(1);
    }
    let half = if halves.is_multiple_of(2) { "" } else { "╸" };
    let light = width.saturating_sub(halves.div_ceil(2));
    let text = "━".repeat(halves / 2) + half + &"─".repeat(light);
    let tone = match part {
        _ if used == 0 => Tone::Quiet,
        part if part < CALM => Tone::Calm,
        part if part < NEARLY_FULL => Tone::Warning,
        _ => Tone::Alarm,
    };
    (text, tone)
}

/// A text of somebody else's that can do a terminal no harm.
pub(super) fn harmless(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    escape(&mut escaped, text);
    escaped
}

/// A text that takes so many columns of a terminal at most.
pub(super) fn cut(text: &str, width: u16) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut left = width.saturating_sub(1);
    for grapheme in Span::raw(text).styled_graphemes(Style::new()) {
        let Some(rest) = left.checked_sub(width_of(grapheme.symbol)) else { break };
        kept.push_str(grapheme.symbol);
        left = rest;
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_never_rounded_to_nothing_nor_too_wide() {
        let all: Vec<String> = [0.0, 0.01, 0.5, 9.94, 9.96, 123.4, 1234.0, 999_999.0].map(|r| rate(Some(r))).into();
        assert_eq!(all, ["0", "0.1", "0.5", "9.9", "10", "123", "1.2k", "1.0M"]);
        assert_eq!((rate(None), byte_rate(None), byte_rate(Some(0.2))), ("–".into(), "–".into(), "1 B".into()));
    }

    fn check_bar(used: u64, bound: u64, expected: &str, tone: Tone) {
        assert_eq!(bar(used, bound, 4), (expected.to_owned(), tone), "{used} of {bound}");
    }

    #[test]
    fn a_bar_shows_half_characters_and_something_for_little() {
        check_bar(0, 100, "────", Tone::Quiet);
        check_bar(1, 100, "╸───", Tone::Calm);
        check_bar(38, 100, "━╸──", Tone::Calm);
        check_bar(50, 100, "━━──", Tone::Warning);
        check_bar(100, 100, "━━━━", Tone::Alarm);
        check_bar(300, 100, "━━━━", Tone::Alarm);
        check_bar(1, 0, "╸───", Tone::Calm);
    }

    #[test]
    fn a_text_is_cut_at_the_width_that_it_has_on_a_terminal() {
        for (text, width, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("e\u{301}e\u{301}e\u{301}", 2, "e\u{301}…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(cut(text, width), expected, "{text} {width}");
        }
        assert_eq!(harmless("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
