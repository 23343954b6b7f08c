//! Theme: what things look like, with and without colour.
//!
//! The colours are those that the terminal calls by these names, so that they suit its background.

use ratatui::style::{Color, Modifier, Style};

/// What something means, which decides what it looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Normal,
    /// There, and of no interest.
    Quiet,
    /// What the rest is about.
    Strong,
    /// What comes in, and what goes out.
    In,
    Out,
    /// How much of a bound is used.
    Calm,
    Warning,
    Alarm,
    /// The title of a column, and of the one that the list is sorted by.
    Title,
    SortedBy,
    /// The row or view that keys act on.
    Selected,
    /// A key at the foot of the screen.
    Key,
    /// A line that says something, or asks.
    Notice,
    Trouble,
    /// All of a picture that is not true any more.
    Stale,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) is_coloured: bool,
}

impl Theme {
    pub(super) fn style(self, tone: Tone) -> Style {
        let plain = Style::new();
        let coloured = |colour| if self.is_coloured { plain.fg(colour) } else { plain };
        match tone {
            Tone::Normal => plain,
            Tone::Quiet => plain.add_modifier(Modifier::DIM),
            Tone::Strong | Tone::Title => plain.add_modifier(Modifier::BOLD),
            Tone::In => coloured(Color::Green),
            Tone::Out => coloured(Color::Cyan),
            Tone::Calm => coloured(Color::Green),
            Tone::Warning => coloured(Color::Yellow),
            Tone::Alarm => coloured(Color::Red).add_modifier(Modifier::BOLD),
            Tone::SortedBy => coloured(Color::Cyan).add_modifier(Modifier::BOLD),
            Tone::Key => coloured(Color::Cyan).add_modifier(Modifier::BOLD),
            // Of one piece, whatever the colours of what is selected.
            Tone::Selected => {
                let whole = if self.is_coloured { plain.fg(Color::Reset) } else { plain };
                whole.remove_modifier(Modifier::DIM).add_modifier(Modifier::REVERSED)
            }
            Tone::Notice => coloured(Color::Yellow).add_modifier(Modifier::BOLD),
            Tone::Trouble => coloured(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED),
            // What is selected is still to be seen.
            Tone::Stale if self.is_coloured => plain.fg(Color::DarkGray).remove_modifier(Modifier::BOLD),
            Tone::Stale => plain.remove_modifier(Modifier::BOLD).add_modifier(Modifier::DIM),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_there_is_none() {
        let theme = Theme { is_coloured: false };
        for tone in [Tone::In, Tone::Out, Tone::Alarm, Tone::SortedBy, Tone::Key, Tone::Trouble, Tone::Stale] {
            let style = theme.style(tone);
            assert_eq!((style.fg, style.bg), (None, None), "{tone:?}");
        }
    }
}
