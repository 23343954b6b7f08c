//! Finding: what a check says, and what mends it.

use std::fmt;
use std::path::Path;

use clap::builder::styling::AnsiColor;
use serde::Serialize;

use crate::format::escaped;
use crate::output::{grouped, style};

/// What a check says. Fields may be added; none is ever renamed or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Which check it was.
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    pub(crate) what: String,
    /// A path, a process, or a setting.
    #[serde(rename = "where")]
    pub(crate) place: Option<String>,
    /// A command, or what to do where no command does it.
    pub(crate) mend: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    Ok,
    /// This user may not see.
    Unknown,
    Warning,
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Unknown => "unknown",
            Level::Warning => "warning",
            Level::Problem => "problem",
        })
    }
}

impl Finding {
    fn new(check: &'static str, level: Level, what: impl Into<String>) -> Finding {
        Finding { check, level, what: what.into(), place: None, mend: None }
    }

    pub(crate) fn ok(check: &'static str, what: impl Into<String>) -> Finding {
        Finding::new(check, Level::Ok, what)
    }

    pub(crate) fn unknown(check: &'static str, what: impl Into<String>) -> Finding {
        Finding::new(check, Level::Unknown, what)
    }

    pub(crate) fn warning(check: &'static str, what: impl Into<String>) -> Finding {
        Finding::new(check, Level::Warning, what)
    }

    pub(crate) fn problem(check: &'static str, what: impl Into<String>) -> Finding {
        Finding::new(check, Level::Problem, what)
    }

    /// Where it is.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Finding {
        self.place = Some(place.into());
        self
    }

    /// Where it is: this path.
    pub(crate) fn at_path(self, path: &Path) -> Finding {
        self.at(path.display().to_string())
    }

    /// What mends it.
    pub(crate) fn mend(mut self, mend: impl Into<String>) -> Finding {
        self.mend = Some(mend.into());
        self
    }

    /// One line, whatever is in it.
    pub(crate) fn line(&self, coloured: bool) -> String {
        let colour = match self.level {
            Level::Ok => AnsiColor::Green,
            Level::Unknown => AnsiColor::Cyan,
            Level::Warning => AnsiColor::Yellow,
            Level::Problem => AnsiColor::Red,
        };
        let style = style(coloured, colour);
        let mut text = format!("{style}{:<7}{style:#}  {:<13}  ", self.level, self.check);
        if let Some(place) = &self.place {
            text.push_str(&escaped(place));
            text.push_str(": ");
        }
        text.push_str(&escaped(&self.what));
        if let Some(mend) = &self.mend {
            text.push_str("; mend: ");
            text.push_str(&escaped(mend));
        }
        text
    }
}

/// `1 FIFO`, `2 FIFOs`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{} {what}s", grouped(number)) }
}

/// A word that a shell takes as it is.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        let finding = Finding::problem("door", "has mode 0644").at("/a\nb").mend("chmod 0600 '/a\nb'");
        let expected = "problem  door           /a\\nb: has mode 0644; mend: chmod 0600 '/a\\nb'";
        assert_eq!(finding.line(false), expected);
        assert!(finding.line(true).starts_with("\u{1b}[31mproblem\u{1b}[0m  door"));
    }

    #[test]
    fn a_shell_takes_a_quoted_word_as_it_is() {
        for (word, expected) in
            [("/run/x-1", "/run/x-1"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$x", "'$x'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }
}
