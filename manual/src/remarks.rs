//! Remarks: what a program says after its options, each part in the section of a manual page where people look for it.

use std::io::{self, Write};

use clap_mangen::roff::{Roff, roman};

const EXAMPLES: &str = "Examples:\n";
const EXIT_CODES: &str = "Exit codes: ";

/// Paragraphs of help.
pub(crate) struct Remarks<'a> {
    notes: Vec<&'a str>,
    examples: Vec<&'a str>,
    exit_codes: Option<&'a str>,
}

impl<'a> Remarks<'a> {
    /// Those of a text.
    pub(crate) fn of(text: &'a str) -> Remarks<'a> {
        let mut remarks = Remarks { notes: Vec::new(), examples: Vec::new(), exit_codes: None };
        for paragraph in text.split("\n\n") {
            if let Some(examples) = paragraph.strip_prefix(EXAMPLES) {
                remarks.examples = examples.lines().collect();
            } else if let Some(codes) = paragraph.strip_prefix(EXIT_CODES) {
                remarks.exit_codes = Some(codes);
            } else if !paragraph.trim().is_empty() {
                remarks.notes.push(paragraph);
            }
        }
        remarks
    }

    /// What belongs to the description.
    pub(crate) fn render_notes(&self, page: &mut impl Write) -> io::Result<()> {
        let mut roff = Roff::new();
        for note in &self.notes {
            roff.control("PP", []);
            text(&mut roff, note.lines());
        }
        page.write_all(roff.to_roff().as_bytes())
    }

    /// What has sections of its own.
    pub(crate) fn render_sections(&self, page: &mut impl Write) -> io::Result<()> {
        let mut roff = Roff::new();
        if let Some(codes) = self.exit_codes {
            roff.control("SH", ["EXIT STATUS"]);
            text(&mut roff, codes.lines());
        }
        if !self.examples.is_empty() {
            roff.control("SH", ["EXAMPLES"]);
            as_it_is(&mut roff, self.examples.iter().copied());
        }
        page.write_all(roff.to_roff().as_bytes())
    }
}

/// Lines that are not to be filled.
pub(crate) fn as_it_is<'a>(roff: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    roff.control("nf", []);
    text(roff, lines);
    roff.control("fi", []);
}

fn text<'a>(roff: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    for line in lines {
        roff.text([roman(line)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_what_is_said_is_known_by_how_it_begins() {
        let remarks = Remarks::of("One.\nTwo.\n\nExamples:\n  a\n  b\n\nExit codes: 0 done, 1 failed.");
        assert_eq!(remarks.notes, ["One.\nTwo."]);
        assert_eq!(remarks.examples, ["  a", "  b"]);
        assert_eq!(remarks.exit_codes, Some("0 done, 1 failed."));
    }

    #[test]
    fn what_is_not_said_has_no_section() {
        let mut page = Vec::new();
        Remarks::of("").render_sections(&mut page).unwrap();
        Remarks::of("").render_notes(&mut page).unwrap();
        assert!(page.is_empty());
    }
}
