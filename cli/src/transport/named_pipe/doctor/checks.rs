//! Checks, of which each judges one thing by the facts, and says nothing where it does not apply.

mod pipe;
mod security;
mod service;
#[cfg(test)]
mod tests;

use super::facts::Facts;
use crate::doctor::checks::{contact, work};
use crate::doctor::finding::Finding;

/// All checks, in the order in which a client needs what they judge.
const CHECKS: [fn(&Facts) -> Option<Finding>; 16] = [
    pipe::pipe,
    security::trust,
    security::permissions,
    security::protection,
    security::openness,
    security::servers,
    security::remote,
    contact::connection,
    pipe::server,
    contact::versions,
    service::service,
    pipe::instances,
    work::losses,
    work::stalls,
    work::limits,
    work::rights,
];

/// What they say.
pub(crate) fn all(facts: &Facts) -> Vec<Finding> {
    CHECKS.iter().filter_map(|check| check(facts)).collect()
}
