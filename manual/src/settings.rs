//! The page of a configuration file: its comments, and under each the keys that it is about, with their defaults.

use std::fs;
use std::io;
use std::path::Path;

use clap_mangen::roff::{Roff, bold, roman};

use crate::remarks::as_it_is;
use crate::{MANUAL, SOURCE, date, render_see_also};

/// Writes the page of a file, in section 5, from a text of it in TOML that has every key, each group of them after the
/// comment that explains it.
///
/// # Errors
/// What the system says about a file in `directory`.
pub fn write_settings_page(name: &str, about: &str, text: &str, see_also: &str, directory: &Path) -> io::Result<()> {
    let mut page = fs::File::create(directory.join(format!("{name}.5")))?;
    let mut roff = Roff::new();
    roff.control("TH", [name.to_uppercase().as_str(), "5", &date(), SOURCE, MANUAL]);
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    roff.control("SH", ["DESCRIPTION"]);
    groups(text).iter().for_each(|group| render(group, &mut roff));
    io::Write::write_all(&mut page, roff.to_roff().as_bytes())?;
    render_see_also(see_also, &mut page)
}

/// A comment, and what follows it until the next.
#[derive(Debug, Default, PartialEq, Eq)]
struct Group<'a> {
    /// That begins here.
    section: Option<&'a str>,
    comment: Vec<&'a str>,
    settings: Vec<&'a str>,
}

fn groups(text: &str) -> Vec<Group<'_>> {
    let mut groups = vec![Group::default()];
    for line in text.lines() {
        let comment = line.strip_prefix('#');
        let section = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
        let last = groups.len() - 1;
        if section.is_some() || comment.is_some() && !groups[last].settings.is_empty() {
            groups.push(Group { section, ..Group::default() });
        }
        let last = groups.len() - 1;
        if let Some(comment) = comment {
            groups[last].comment.push(comment.strip_prefix(' ').unwrap_or(comment));
        } else if section.is_none() && !line.is_empty() {
            groups[last].settings.push(line);
        }
    }
    groups
}

fn render(group: &Group<'_>, roff: &mut Roff) {
    if let Some(section) = group.section {
        roff.control("SH", [format!("[{section}]").as_str()]);
    }
    let mut macros = std::iter::once("TP").chain(std::iter::repeat("TQ"));
    // What goes over several lines has no place in the margin.
    let long = group.settings.iter().any(|line| line.starts_with([' ', ']']));
    for (line, tag) in group.settings.iter().filter(|line| !line.starts_with([' ', ']'])).zip(&mut macros) {
        let (key, value) = line.split_once(" = ").unwrap_or((line, ""));
        roff.control(tag, []);
        roff.text(if long { vec![bold(key)] } else { vec![bold(key), roman(format!(" = {value}"))] });
    }
    // Below a key it is as far in as the key's text.
    render_comment(&group.comment, if group.settings.is_empty() { "PP" } else { "IP" }, roff);
    if long {
        roff.control("IP", []).text([roman("Default:")]);
        as_it_is(roff, group.settings.iter().copied());
    }
}

/// Paragraphs; lines that are further in stand as they are.
fn render_comment(lines: &[&str], paragraph: &str, roff: &mut Roff) {
    let mut filled = true;
    for line in lines {
        let fill = !line.starts_with(' ');
        if fill != filled {
            roff.control(if fill { "fi" } else { "nf" }, []);
            filled = fill;
        }
        if line.is_empty() {
            roff.control(paragraph, []);
        } else {
            roff.text([roman(*line)]);
        }
    }
    if !filled {
        roff.control("fi", []);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_about_all_keys_until_the_next() {
        let text = "# About\n# all.\n\n[one]\n# Two.\na = 1\nb = [\n    2,\n]\n# Three.\nc = 3\n\n[two]\nd = 4\n";
        let group = |section, comment: &[&'static str], settings: &[&'static str]| Group {
            section,
            comment: comment.to_vec(),
            settings: settings.to_vec(),
        };
        let expected = [
            group(None, &["About", "all."], &[]),
            group(Some("one"), &["Two."], &["a = 1", "b = [", "    2,", "]"]),
            group(None, &["Three."], &["c = 3"]),
            group(Some("two"), &[], &["d = 4"]),
        ];
        assert_eq!(groups(text), expected);
    }
}
