//! The manual pages: there is one for each command, and formatters have nothing to say against them.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use pipebus_tests::command;
use pipebus_tests::machine::{has, run, succeed, text};

fn pages() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    succeed(&run(command("pipebus").arg("man").arg(directory.path())));
    succeed(&run(command("pipebusd").arg("--man").arg(directory.path())));
    directory
}

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect()
}

/// The commands that the help of these words lists.
fn commands(words: &[&str]) -> Vec<String> {
    let help = text(&run(command("pipebus").args(words).arg("--help")).stdout);
    let list = help.split_once("Commands:\n").map(|(_, after)| after.to_owned()).unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    named.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

#[test]
fn every_command_that_is_not_hidden_has_a_page_and_so_have_the_broker_and_its_configuration() {
    let mut expected = BTreeSet::from(["pipebus.1", "pipebusd.8", "pipebus.toml.5"].map(str::to_owned));
    for command in commands(&[]) {
        expected.extend(commands(&[&command]).into_iter().map(|sub| format!("pipebus-{command}-{sub}.1")));
        expected.insert(format!("pipebus-{command}.1"));
    }
    assert!(expected.contains("pipebus-sub.1") && expected.contains("pipebus-policy-check.1"), "{expected:?}");
    assert_eq!(names(pages().path()), expected);
}

#[test]
fn formatters_have_nothing_against_the_pages() {
    let directory = pages();
    for page in names(directory.path()) {
        let path = directory.path().join(page);
        if has(&["mandoc"]) {
            let lint = run(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&path));
            assert!(lint.status.success() && lint.stdout.is_empty(), "{}", text(&lint.stdout));
        }
        if has(&["man", "groff"]) {
            let man = run(Command::new("man").args(["--warnings", "--local-file"]).arg(&path).env("LC_ALL", "C.UTF-8"));
            assert!(man.status.success() && man.stderr.is_empty(), "{}: {}", path.display(), text(&man.stderr));
        }
    }
}

#[test]
fn the_page_of_the_configuration_has_every_key() {
    let page = fs::read_to_string(pages().path().join("pipebus.toml.5")).unwrap();
    let config = text(&run(command("pipebusd").arg("--print-config")).stdout);
    // Each rule is a table of its own, and the page tells what may be in one.
    let sections = config.split("\n[").filter(|section| !section.starts_with('['));
    let keys = sections.flat_map(str::lines).filter_map(|line| line.split_once(" = "));
    let mut count = 0;
    for (key, _) in keys {
        assert!(page.contains(&format!("\\fB{key}\\fR")), "{key} is missing");
        count += 1;
    }
    assert!(count > 20, "{config}");
}

#[test]
fn pages_are_the_same_if_the_date_is() {
    let dated = |epoch: &str| {
        let directory = tempfile::tempdir().unwrap();
        succeed(&run(command("pipebus").arg("man").arg(directory.path()).env("SOURCE_DATE_EPOCH", epoch)));
        fs::read_to_string(directory.path().join("pipebus.1")).unwrap()
    };
    assert!(dated("86400").contains("1970\\-01\\-02") || dated("86400").contains("1970-01-02"));
    assert_eq!(dated("86400"), dated("86400"));
}
