//! Completing: the scripts that shells read, and what they ask of this program while somebody types.
//!
//! How a command line is read is clap's to say, through its completion engine. The scripts are our own, and so is what
//! they ask: clap promises neither from version to version, and installed files outlive a version. What is on the bus
//! is asked in [`live`].

mod live;

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter, complete};
use pipebus_client::Topic;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::place::Address;

use self::live::{Sort, ask};
use crate::args::Arguments;
use crate::args::shell::{Complete, Completions, Quoted, Shell};
use crate::failure::Failure;
use crate::format::escape;
use crate::output;

/// Prints the script for a shell.
pub(crate) fn print_script(arguments: &Completions) -> Result<(), Failure> {
    output::write(script(arguments.shell).as_bytes())
}

fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("complete/pipebus.bash"),
        Shell::Zsh => include_str!("complete/pipebus.zsh"),
        Shell::Fish => include_str!("complete/pipebus.fish"),
        Shell::Powershell => include_str!("complete/pipebus.ps1"),
    }
}

/// Prints what the last word could become: on each line the whole word, a tab, and what it means. In doubt nothing, for
/// whoever is typing wants no messages.
pub(crate) fn run(arguments: &Complete) -> Result<(), Failure> {
    let mut words = arguments.words.clone();
    let Some(last) = words.len().checked_sub(1) else { return Ok(()) };
    let quoted = match arguments.quoted {
        Some(Quoted::All) => &mut words[..],
        Some(Quoted::Last) => &mut words[last..],
        None => &mut [],
    };
    quoted.iter_mut().for_each(|word| *word = unquoted(word));
    let current = words[last].clone();
    let mut command = with_completers(Arguments::command(), &bus_of(&words[..last]));
    let here = std::env::current_dir().ok();
    let candidates = complete(&mut command, words, last, here.as_deref()).unwrap_or_default();
    output::write(lines(&candidates, &current).as_bytes())
}

fn lines(candidates: &[CompletionCandidate], current: &OsStr) -> String {
    let is_option = |candidate: &CompletionCandidate| candidate.get_value().as_encoded_bytes().starts_with(b"-");
    // Options are in the way of all else, unless they are asked for.
    let only_others = current.is_empty() && !candidates.iter().all(is_option);
    let shown = candidates.iter().filter(|candidate| !(only_others && is_option(candidate)));
    let line = |candidate: &CompletionCandidate| {
        let value = candidate.get_value().to_str().filter(|value| is_harmless(value))?;
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        Some(format!("{value}\t{}\n", help.lines().next().unwrap_or_default()))
    };
    shown.filter_map(line).collect()
}

/// Whether a terminal shows it as it is.
fn is_harmless(value: &str) -> bool {
    let mut escaped = String::new();
    escape(&mut escaped, value);
    escaped == value
}

/// The bus that the words before name, or the environment, or the default. `None` if what they name is none.
fn bus_of(words: &[OsString]) -> Option<Address> {
    let home = std::env::var_os("HOME").unwrap_or_default();
    // As the shell will do it.
    let with_home = |word: &OsString| match word.to_str().and_then(|word| word.strip_prefix("~/")) {
        Some(rest) => Path::new(&home).join(rest).into_os_string(),
        None => word.clone(),
    };
    let command = Arguments::command().ignore_errors(true);
    let matches = command.try_get_matches_from(words.iter().map(with_home)).ok()?;
    matches.try_get_one::<Address>("bus").ok()?.cloned()
}

/// Lets each argument be completed by what it is.
fn with_completers(command: Command, bus: &Option<Address>) -> Command {
    let command = command.mut_args(|argument| with_completer(argument, bus));
    command.mut_subcommands(|command| with_completers(command, bus))
}

fn with_completer(argument: Arg, bus: &Option<Address>) -> Arg {
    let is = argument.get_value_parser().type_id();
    let sort = if is == TypeId::of::<Topic>() {
        Sort::Topic
    } else if is == TypeId::of::<Pattern>() {
        Sort::Pattern
    } else if argument.get_id() == "instance" {
        Sort::Instance
    } else if is == TypeId::of::<Address>() {
        return argument.add(ArgValueCompleter::new(addresses));
    } else {
        return argument;
    };
    let bus = bus.clone();
    argument.add(ArgValueCompleter::new(move |current: &OsStr| match (&bus, current.to_str()) {
        (Some(bus), Some(current)) => ask(bus, sort, current),
        _ => Vec::new(),
    }))
}

fn addresses(current: &OsStr) -> Vec<CompletionCandidate> {
    let words = [("session", "your own bus"), ("system", "the machine's bus")];
    let fits = |word: &str| current.to_str().is_some_and(|current| word.starts_with(current));
    let words = words.into_iter().filter(|(word, _)| fits(word));
    let mut candidates: Vec<_> =
        words.map(|(word, means)| CompletionCandidate::new(word).help(Some(means.into()))).collect();
    if !current.is_empty() {
        candidates.extend(PathCompleter::dir().complete(current));
    }
    candidates
}

/// What a word of a command line means, that shells give as it was typed. The last one's quotes may still be open.
fn unquoted(word: &OsStr) -> OsString {
    let Some(text) = word.to_str() else { return word.to_owned() };
    let closed = ["", "'", "\""].iter().find_map(|end| shlex::split(&format!("{text}{end}")));
    match closed.as_deref() {
        Some([one]) => one.into(),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn check_unquoted(typed: &str, expected: &str) {
        assert_eq!(unquoted(typed.as_ref()), expected, "{typed}");
    }

    #[test]
    fn a_word_means_what_the_shell_makes_of_it() {
        check_unquoted("plain", "plain");
        check_unquoted("", "");
        check_unquoted("'sensors/*'", "sensors/*");
        check_unquoted(r"\$bus/sta", "$bus/sta");
        check_unquoted("'open word", "open word");
        check_unquoted("\"open word", "open word");
        check_unquoted(r"a\ b", "a b");
    }

    #[test]
    fn every_script_asks_this_program() {
        for shell in Shell::value_variants() {
            assert!(script(*shell).contains("pipebus complete "), "{shell:?}");
        }
    }

    fn check_bus(words: &[&str], expected: Option<&str>) {
        let words: Vec<OsString> = ["pipebus"].iter().chain(words).map(Into::into).collect();
        assert_eq!(bus_of(&words).map(|bus| bus.to_string()).as_deref(), expected, "{words:?}");
    }

    #[test]
    fn the_bus_is_the_one_on_the_line_wherever_it_stands_and_whatever_is_missing() {
        check_bus(&["--bus", "/x", "sub"], Some("/x"));
        check_bus(&["--bus=/x", "pub"], Some("/x"));
        check_bus(&["sub", "--bus", "/x"], Some("/x"));
        check_bus(&["sub", "a", "--bus", "system", "--count"], Some("system"));
        check_bus(&["policy", "check", "--bus", "/x", "--user"], Some("/x"));
        check_bus(&["--bus", "sesion", "sub"], None);
    }

    fn completed(words: &[&str]) -> Vec<String> {
        let mut command = with_completers(Arguments::command(), &None);
        let words: Vec<OsString> = ["pipebus"].iter().chain(words).map(Into::into).collect();
        let last = words.len() - 1;
        let current = words[last].clone();
        let candidates = complete(&mut command, words, last, None).unwrap();
        let text = lines(&candidates, &current);
        text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn commands_options_and_their_values_are_completed() {
        assert!(completed(&["sta"]) == ["status"]);
        assert!(completed(&["sub", "--over"]) == ["--overflow"]);
        assert!(completed(&["sub", "--overflow", "drop-"]) == ["drop-oldest", "drop-newest"]);
        assert!(completed(&["--bus", "sess"]) == ["session"]);
        assert!(completed(&["policy", ""]).contains(&"check".to_owned()));
    }

    #[test]
    fn nothing_hidden_is_offered_and_options_only_where_there_is_nothing_else() {
        let commands = completed(&[""]);
        assert!(commands.contains(&"pub".to_owned()), "{commands:?}");
        assert!(!commands.iter().any(|name| name.starts_with('-') || name == "tether" || name == "complete"));
        assert!(completed(&["status", ""]).contains(&"--json".to_owned()));
    }
}
