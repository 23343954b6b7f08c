//! Manual pages, from what a program's clap command says of itself, and from the comments of a configuration file.
//!
//! Nothing is written here that the programs do not say: a page can't tell something else than `--help`.

mod remarks;
mod settings;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::remarks::Remarks;
pub use crate::settings::write_settings_page;

/// Writes the page of a program, and one for each of its commands that is not hidden.
///
/// # Errors
/// What the system says about a file in `directory`.
pub fn write_pages(program: Command, section: &str, see_also: &str, directory: &Path) -> io::Result<()> {
    // Each command has --help.
    let mut program = program.disable_help_subcommand(true);
    program.build();
    write_page(&program, section, see_also, directory)?;
    let back = format!("{}({section})", program.get_name());
    write_commands(&program, section, &back, directory)
}

fn write_commands(command: &Command, section: &str, see_also: &str, directory: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_page(command, section, see_also, directory)?;
        write_commands(command, section, see_also, directory)?;
    }
    Ok(())
}

fn write_page(command: &Command, section: &str, see_also: &str, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let mut page = fs::File::create(directory.join(format!("{name}.{section}")))?;
    let said = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let remarks = Remarks::of(&said);
    let man = Man::new(command.clone()).title(name.to_uppercase()).section(section);
    let man = man.date(date()).source(SOURCE).manual(MANUAL);
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    remarks.render_notes(&mut page)?;
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    // A line that is skipped by breaks, which it has before possible values, is a warning of some formatters.
    page.write_all(String::from_utf8_lossy(&options).replace(".br\n\n.br\n", ".sp\n").as_bytes())?;
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    remarks.render_sections(&mut page)?;
    render_see_also(see_also, &mut page)
}

/// Of which version of what the page is.
const SOURCE: &str = concat!("pipebus ", env!("CARGO_PKG_VERSION"));

/// What the page is part of.
const MANUAL: &str = "pipebus";

/// Of the build, or what stands for it where builds are to be reproducible.
fn date() -> String {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let time = epoch.map_or_else(SystemTime::now, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let mut date = humantime::format_rfc3339_seconds(time).to_string();
    date.truncate("2026-11-26".len());
    date
}

/// Other pages: `pipebusd(8), pipebus.toml(5)`.
fn render_see_also(pages: &str, page: &mut impl Write) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for reference in pages.split_inclusive(", ") {
        let (name, rest) = reference.split_at(reference.find('(').unwrap_or(reference.len()));
        line.extend([bold(name), roman(rest)]);
    }
    roff.text(line);
    page.write_all(roff.to_roff().as_bytes())
}
