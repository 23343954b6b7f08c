//! Episode: what a client can make happen again and again is told once in an interval, and how often it was not told,
//! so that nobody can fill the log.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use pipebus_proto::control::Identity;
use tokio::time::Instant;
use tracing::warn;

use crate::core::bus::describe;

/// How often the same is told at most.
const INTERVAL: Duration = Duration::from_secs(10);

/// How many lines of one sort there may be in that time about one user's clients.
const LINES_MAX: u64 = 20;

/// Something that happens again and again.
#[derive(Debug, Default)]
pub(crate) struct Episode {
    told: Option<Instant>,
    since: u64,
}

impl Episode {
    /// It has happened so often again.
    pub(crate) fn add(&mut self, count: u64) {
        self.since += count;
    }

    /// How often it has happened since it was last told, if it is to be told now.
    pub(crate) fn due(&mut self) -> Option<u64> {
        let lately = self.told.is_some_and(|time| time.elapsed() < INTERVAL);
        if lately || self.since == 0 {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.since))
    }
}

/// What lines about clients say. Those who come and go in great numbers do not hide what else they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sort {
    /// That one has come or gone.
    ComesAndGoes,
    /// That one did wrong, or was too slow.
    Fault,
    /// That one watches others, or has ceased to.
    Monitors,
}

/// What is told of one user's clients.
#[derive(Debug)]
struct Lines {
    begun: Instant,
    count: u64,
}

/// The log is the process's, however many brokers are in it. Only users of the last interval are here.
static USERS: LazyLock<Mutex<HashMap<(Identity, Sort), Lines>>> = LazyLock::new(Mutex::default);

/// Whether there may be one more line about a client of this user; if not, it is counted.
pub(crate) fn may_tell_of(user: &Identity, sort: Sort) -> bool {
    let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (user.clone(), sort);
    if users.get(&key).is_some_and(|lines| lines.begun.elapsed() >= INTERVAL) {
        users.remove(&key).into_iter().for_each(|lines| lines.tell_rest(user));
    }
    let lines = users.entry(key).or_insert_with(|| Lines { begun: Instant::now(), count: 0 });
    lines.count += 1;
    lines.count <= LINES_MAX
}

/// Tells what has been left out about each user. To be called now and then.
pub(crate) fn tell_rest() {
    let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    users.retain(|(user, _), lines| {
        let goes_on = lines.begun.elapsed() < INTERVAL;
        if !goes_on {
            lines.tell_rest(user);
        }
        goes_on
    });
}

impl Lines {
    fn tell_rest(&self, user: &Identity) {
        if self.count > LINES_MAX {
            let left_out = self.count - LINES_MAX;
            warn!(who = describe(user), left_out, "lines about this user's clients were left out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_episode_is_told_at_once_and_then_once_in_an_interval_with_its_count() {
        let mut episode = Episode::default();
        assert_eq!(episode.due(), None, "nothing has happened");
        episode.add(1);
        assert_eq!(episode.due(), Some(1));
        for _ in 0..1000 {
            episode.add(2);
            assert_eq!(episode.due(), None);
        }
        tokio::time::advance(INTERVAL).await;
        assert_eq!(episode.due(), Some(2000));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(episode.due(), None, "it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_with_much_to_tell_leaves_others_their_lines() {
        let (loud, other) = (Identity::Unix { uid: 4_000_000_001 }, Identity::Unix { uid: 4_000_000_002 });
        let told = (0..1000).filter(|_| may_tell_of(&loud, Sort::Fault)).count();
        assert_eq!(told as u64, LINES_MAX);
        assert!(may_tell_of(&other, Sort::Fault));
        assert!(may_tell_of(&loud, Sort::ComesAndGoes));
        tokio::time::advance(INTERVAL).await;
        assert!(may_tell_of(&loud, Sort::Fault));
        tell_rest();
    }
}
