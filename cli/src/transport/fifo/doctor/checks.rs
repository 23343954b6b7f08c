//! Checks, of which each judges one thing by the facts, and says nothing where it does not apply.

mod broker;
mod entry;
mod files;
mod resources;
mod systemd;

use std::path::Path;

use super::facts::Facts;
use crate::doctor::checks::{contact, work};
use crate::doctor::finding::{Finding, quoted};

/// All checks, in the order in which a client needs what they judge.
const CHECKS: [fn(&Facts) -> Option<Finding>; 23] = [
    files::directory,
    files::trust,
    files::door,
    files::instances,
    entry::permissions,
    entry::listener,
    contact::connection,
    broker::lock,
    broker::process,
    contact::versions,
    broker::configuration,
    systemd::socket,
    systemd::service,
    resources::broker_files,
    resources::own_files,
    resources::pipe_size,
    resources::pipe_pages,
    resources::protected_fifos,
    files::leftovers,
    work::losses,
    work::stalls,
    work::limits,
    work::rights,
];

/// A path, for a shell.
fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// What they say.
pub(crate) fn all(facts: &Facts) -> Vec<Finding> {
    CHECKS.iter().filter_map(|check| check(facts)).collect()
}

#[cfg(test)]
mod tests;
