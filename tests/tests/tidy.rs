//! What ARCHITECTURE.md promises about the code, held against the code.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All Rust files below a folder of the project.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "nothing in {folder}");
    found
}

/// Fails for each line of code, not of comments, that has one of the words.
fn check(files: Vec<(PathBuf, String)>, words: &[&str], why: &str) {
    let mut faults = Vec::new();
    for (path, text) in files {
        for (number, line) in (1..).zip(text.lines()) {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                faults.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{why}:\n{}", faults.join("\n"));
}

#[test]
fn the_core_does_no_io() {
    let words = ["tokio", "rustix", "tracing", "serde", "std::fs", "std::io", "std::net", "async ", "Instant::now()"];
    let mut files = sources("daemon/src/core");
    files.retain(|(path, _)| !path.ends_with("tests.rs"));
    check(files, &words, "the core is told everything and does nothing");
}

#[test]
fn proto_does_no_io() {
    let mut files = sources("proto/src");
    // Reads facts through a function of the caller's, and makes paths canonical.
    files.retain(|(path, _)| !path.ends_with("trust.rs"));
    check(files, &["tokio", "std::fs", "std::net", "std::env", "Instant"], "proto is values and their bytes");
}

#[test]
fn bincode_is_named_in_one_module() {
    let mut files = [sources("proto/src"), sources("daemon/src"), sources("client/src"), sources("cli/src")].concat();
    files.retain(|(path, _)| !path.ends_with("proto/src/wire.rs"));
    check(files, &["bincode::"], "so that it can be replaced");
}

#[test]
fn only_transports_the_relay_and_the_service_know_the_system() {
    let mut files = [sources("proto/src"), sources("daemon/src"), sources("client/src")].concat();
    let knows = |path: &Path| {
        path.components().any(|part| ["transport", "relay", "service"].iter().any(|room| part.as_os_str() == *room))
    };
    files.retain(|(path, _)| !knows(path));
    // Tests beside the code make their own pipes.
    files.retain(|(path, _)| !path.ends_with("tests.rs"));
    let words = ["cfg(unix)", "cfg(windows)", "cfg(not(unix", "cfg(target_os", "os::unix", "os::windows", "mkfifo"];
    let calls = ["net::unix", "net::windows", "signal::unix", "signal::windows", "pipebus_windows"];
    check(files.clone(), &[&words[..], &calls].concat(), "another system is one file beside fifo.rs");
    files.retain(|(path, _)| path.starts_with(root().join("daemon")));
    let libraries = ["rustix::", "nix::", "sd_notify", "tracing_journald", "windows_service", "windows_sys"];
    check(files, &libraries, "another system is one folder beside service/unix");
}

/// What names a system: how the compiler asks for one, and what is there for one alone.
const OF_A_SYSTEM: [&str; 14] = [
    "cfg(unix)",
    "cfg(windows)",
    "cfg(target_os",
    "target_family",
    "cfg!(",
    "os::unix",
    "os::windows",
    "os::fd",
    "net::unix",
    "net::windows",
    "signal::unix",
    "signal::windows",
    "rustix",
    "pipebus_windows",
];

#[test]
fn of_the_commands_only_two_folders_know_the_system() {
    let mut files = sources("cli/src");
    let knows =
        |path: &Path| ["cli/src/system", "cli/src/transport"].iter().any(|it| path.starts_with(root().join(it)));
    files.retain(|(path, _)| !knows(path));
    let words = [&OF_A_SYSTEM[..], &["nix::", "windows_service", "/proc", "/dev/"]].concat();
    check(files, &words, "what differs between systems is in system, or in transport if it is about pipes");
}

#[test]
fn in_those_folders_one_file_chooses() {
    let mut files = [sources("cli/src/system"), sources("cli/src/transport")].concat();
    files.retain(|(path, _)| !path.ends_with("mod.rs"));
    let words = ["cfg(unix)", "cfg(windows)", "cfg(target_os", "target_family", "cfg!("];
    check(files, &words, "mod.rs chooses, so that each system is one folder");
}

#[test]
fn the_client_and_the_cli_do_not_use_the_daemon() {
    for manifest in ["client/Cargo.toml", "cli/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        let dependencies = text.split("\n[").find(|table| table.starts_with("dependencies]")).unwrap();
        assert!(!dependencies.contains("pipebusd"), "{manifest}");
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let mut files = ["proto", "windows", "daemon", "client", "manual", "cli", "tests"].map(sources).concat();
    files.retain(|(path, _)| !path.ends_with("tidy.rs"));
    check(files, &["todo!", "unimplemented!", "dbg!"], "finish it, or leave it out");
    for (path, text) in ["proto", "windows", "daemon", "client", "manual", "cli"].map(sources).concat() {
        assert!(!text.contains("FIXME") || path.ends_with("tidy.rs"), "{}", path.display());
    }
}

#[test]
fn every_file_that_the_documents_name_is_there() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "SECURITY.md",
        "systemd/README.md",
        "contrib/wireshark/README.md",
        "docs/compare.md",
        "docs/developers.md",
        "docs/install.md",
        "docs/metrics.md",
        "docs/operate.md",
        "docs/windows.md",
        "CHANGELOG.md",
        "PERFORMANCE.md",
        "proto/PROTOCOL.md",
    ] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let folder = root().join(document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") {
                assert!(folder.join(path).exists(), "{document} links to {path}, which is not there");
            }
        }
    }
}

#[test]
fn every_test_that_the_security_document_names_is_there() {
    let code: String = ["tests", "daemon/src", "daemon/tests", "windows/src"]
        .map(sources)
        .concat()
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let names: Vec<&str> = quoted.filter(|name| name.matches('_').count() >= 4 && !name.contains('.')).collect();
    assert!(names.len() >= 40, "{names:?}");
    for name in names {
        assert!(code.contains(&format!("fn {name}(")), "SECURITY.md names {name}, which is no test");
    }
}
