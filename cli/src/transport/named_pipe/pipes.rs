//! The pipes of this machine, by their names: none is opened.

use std::ffi::OsStr;
use std::path::Path;

use clap_complete::engine::CompletionCandidate;
use pipebus_proto::place::PIPES;
use pipebus_windows::pipe;

/// A bus has no files here.
pub(crate) fn files(_: &Path) -> Option<(u64, u64)> {
    None
}

/// What an address that somebody is typing could become.
pub(crate) fn places(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str().filter(|current| current.starts_with('\\')) else { return Vec::new() };
    let names = pipe::list().unwrap_or_default().into_iter().map(|pipe| format!("{PIPES}{}", pipe.name));
    names.filter(|name| name.starts_with(current)).map(CompletionCandidate::new).collect()
}
