//! Membership: which groups users are in, as the system says, believed for a while.
//!
//! The system may ask a directory service, which takes time or never answers: each look-up has a thread, of which there
//! are few, and goes on for those who ask later though nobody waits for it any more.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipebus_proto::control::Identity;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::core::policy::Group;
use crate::transport;

/// How many look-ups may be under way.
const LOOKUPS_MAX: usize = 8;

/// What is believed of users' groups.
#[derive(Debug)]
pub(crate) struct Membership {
    lifetime: Duration,
    users: Mutex<HashMap<Identity, User>>,
    lookups: Semaphore,
}

#[derive(Debug, Default)]
struct User {
    /// Held while the system is asked: of each user once at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    known: Option<Known>,
}

#[derive(Clone, Debug)]
struct Known {
    groups: Arc<[Group]>,
    /// When the system was asked.
    since: Instant,
}

impl Membership {
    pub(crate) fn new(lifetime: Duration) -> Membership {
        Membership { lifetime, users: Mutex::default(), lookups: Semaphore::new(LOOKUPS_MAX) }
    }

    /// How long a look-up is believed.
    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The groups of a user, asked for unless they are known.
    ///
    /// # Errors
    /// The system can't tell.
    pub(crate) async fn groups_of(self: &Arc<Self>, identity: &Identity) -> io::Result<Arc<[Group]>> {
        self.asked_since(identity, Instant::now().checked_sub(self.lifetime)).await
    }

    /// The same, asked for anew.
    pub(crate) async fn look_up(self: &Arc<Self>, identity: &Identity) -> io::Result<Arc<[Group]>> {
        self.asked_since(identity, Some(Instant::now())).await
    }

    /// What the system said when it was asked after this moment.
    async fn asked_since(self: &Arc<Self>, identity: &Identity, oldest: Option<Instant>) -> io::Result<Arc<[Group]>> {
        let known = || {
            let known = self.users().get(identity).and_then(|user| user.known.clone());
            known.filter(|known| oldest.is_none_or(|oldest| known.since >= oldest))
        };
        if let Some(known) = known() {
            return Ok(known.groups);
        }
        let turn = self.users().entry(identity.clone()).or_default().turn.clone();
        let turn = turn.lock_owned().await;
        if let Some(known) = known() {
            return Ok(known.groups);
        }
        let (membership, identity) = (self.clone(), identity.clone());
        let asking = tokio::spawn(async move {
            let _turn = turn;
            membership.ask(identity).await
        });
        asking.await?
    }

    async fn ask(&self, identity: Identity) -> io::Result<Arc<[Group]>> {
        // Never closed.
        let _permit = self.lookups.acquire().await;
        let since = Instant::now();
        let asked = identity.clone();
        let groups: Arc<[Group]> = tokio::task::spawn_blocking(move || transport::groups_of(&asked)).await??.into();
        let mut users = self.users();
        // What is not believed any more, and nobody asks for, need not be kept.
        users.retain(|_, user| {
            let is_believed = user.known.as_ref().is_some_and(|known| known.since.elapsed() < self.lifetime);
            is_believed || Arc::strong_count(&user.turn) > 1
        });
        users.entry(identity).or_default().known = Some(Known { groups: groups.clone(), since });
        Ok(groups)
    }

    fn users(&self) -> MutexGuard<'_, HashMap<Identity, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
