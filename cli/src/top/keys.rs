//! Keys: what the terminal tells of them, what they mean, and the line at the foot of the screen that says so.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// A key that means something somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Tab,
    BackTab,
    Backspace,
    Character(char),
    /// Ctrl-C, Ctrl-Z and Ctrl-L, which in raw mode are keys like others.
    Interrupt,
    Suspend,
    Redraw,
}

/// What a key event is; none for what means nothing anywhere, and for the release of a key.
pub(super) fn key_of(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let other = KeyModifiers::CONTROL | KeyModifiers::ALT | KeyModifiers::SUPER;
    Some(match event.code {
        KeyCode::Char(letter) if event.modifiers.contains(KeyModifiers::CONTROL) => match letter {
            'c' => Key::Interrupt,
            'z' => Key::Suspend,
            'l' => Key::Redraw,
            _ => return None,
        },
        KeyCode::Char(letter) if !event.modifiers.intersects(other) => Key::Character(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}

/// A key, what it does, and its rank: where there is no room for all, those of the highest go first.
pub(super) type Hint = (&'static str, &'static str, u8);

pub(super) const OF_INSTANCES: &[Hint] = &[
    ("↑↓", "select", 8),
    ("Enter", "detail", 3),
    ("d", "disconnect", 4),
    ("/", "filter", 2),
    ("←→", "sort", 5),
    ("r", "reverse", 7),
    ("Tab", "view", 1),
    ("p", "pause", 6),
    ("+-", "interval", 9),
    ("?", "help", 0),
    ("q", "quit", 0),
];

pub(super) const OF_OTHERS: &[Hint] = &[
    ("↑↓", "select", 8),
    ("/", "filter", 2),
    ("←→", "sort", 5),
    ("r", "reverse", 7),
    ("Tab", "view", 1),
    ("p", "pause", 6),
    ("+-", "interval", 9),
    ("?", "help", 0),
    ("q", "quit", 0),
];

pub(super) const OF_DETAIL: &[Hint] = &[
    ("Esc", "back", 0),
    ("↑↓", "scroll", 5),
    ("d", "disconnect", 4),
    ("p", "pause", 6),
    ("+-", "interval", 9),
    ("?", "help", 0),
    ("q", "quit", 0),
];

pub(super) const OF_FILTER: &[Hint] = &[("Enter", "keep", 0), ("Esc", "show all", 0), ("↑↓", "select", 1)];

pub(super) const OF_CONFIRMATION: &[Hint] = &[("y", "disconnect", 0), ("n", "leave it", 0)];

pub(super) const OF_HELP: &[Hint] = &[("Esc", "back", 0), ("↑↓", "scroll", 1), ("q", "quit", 0)];

/// All keys, for the help.
pub(super) const ALL: &[(&str, &str)] = &[
    ("↑ ↓  k j", "select a row, or scroll"),
    ("PgUp PgDn", "a page up or down"),
    ("Home End  g G", "the first or the last row"),
    ("Enter", "all about an instance; Esc goes back"),
    ("d", "disconnect an instance, after a question"),
    ("Tab  1 2 3", "instances, topics, users"),
    ("← →  < >", "sort by the column to the left or right"),
    ("r", "reverse the order"),
    ("/", "show only rows that have a text in them"),
    ("p  Space", "pause: the picture stands still"),
    ("+ -", "ask more often, or less often"),
    ("Ctrl-L", "draw all of the screen anew"),
    ("Ctrl-Z", "suspend; the shell's fg comes back"),
    ("q  Esc  Ctrl-C", "quit"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: KeyCode, modifiers: KeyModifiers, expected: Option<Key>) {
        assert_eq!(key_of(KeyEvent::new(code, modifiers)), expected, "{code:?} {modifiers:?}");
    }

    #[test]
    fn a_letter_with_control_is_not_that_letter() {
        check(KeyCode::Char('d'), KeyModifiers::NONE, Some(Key::Character('d')));
        check(KeyCode::Char('G'), KeyModifiers::SHIFT, Some(Key::Character('G')));
        check(KeyCode::Char('d'), KeyModifiers::CONTROL, None);
        check(KeyCode::Char('y'), KeyModifiers::ALT, None);
        check(KeyCode::Char('c'), KeyModifiers::CONTROL, Some(Key::Interrupt));
        check(KeyCode::F(1), KeyModifiers::NONE, None);
    }

    #[test]
    fn a_key_that_is_let_go_means_nothing() {
        let event = KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::from(KeyCode::Char('q')) };
        assert_eq!(key_of(event), None);
    }

    #[test]
    fn help_and_quit_never_give_way() {
        for hints in [OF_INSTANCES, OF_OTHERS, OF_DETAIL] {
            let kept: Vec<&str> = hints.iter().filter(|hint| hint.2 == 0).map(|hint| hint.0).collect();
            assert!(kept.ends_with(&["?", "q"]), "{kept:?}");
        }
    }
}
