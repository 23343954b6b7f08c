//! Membership: which groups users are in, as the system says, believed for a while.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipebus_proto::control::Identity;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::core::policy::Group;
use crate::transport;

/// How many look-ups may be under way: each has a thread, and a directory service that hangs is not to take them all.
const LOOKUPS_MAX: usize = 8;

/// What is believed of users' groups.
#[derive(Debug)]
pub(crate) struct Membership {
    lifetime: Duration,
    known: Mutex<HashMap<Identity, Known>>,
    lookups: Semaphore,
}

#[derive(Clone, Debug)]
struct Known {
    groups: Arc<[Group]>,
    since: Instant,
}

impl Membership {
    pub(crate) fn new(lifetime: Duration) -> Membership {
        Membership { lifetime, known: Mutex::default(), lookups: Semaphore::new(LOOKUPS_MAX) }
    }

    /// How long a look-up is believed.
    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The groups of a user, asked for unless they are known.
    ///
    /// # Errors
    /// The system can't tell.
    pub(crate) async fn groups_of(&self, identity: &Identity) -> io::Result<Arc<[Group]>> {
        let known = self.known().get(identity).filter(|known| known.since.elapsed() < self.lifetime).cloned();
        match known {
            Some(known) => Ok(known.groups),
            None => self.look_up(identity).await,
        }
    }

    /// The same, asked for anew.
    pub(crate) async fn look_up(&self, identity: &Identity) -> io::Result<Arc<[Group]>> {
        // Never closed.
        let _permit = self.lookups.acquire().await;
        let asked = identity.clone();
        let groups = tokio::task::spawn_blocking(move || transport::groups_of(&asked)).await??;
        let known = Known { groups: groups.into(), since: Instant::now() };
        let mut all = self.known();
        // What is not believed any more need not be kept.
        all.retain(|_, known| known.since.elapsed() < self.lifetime);
        all.insert(identity.clone(), known.clone());
        Ok(known.groups)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Identity, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
