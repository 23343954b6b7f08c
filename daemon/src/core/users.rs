//! Users: what each of them has on the bus.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pipebus_proto::control::Identity;

use crate::core::account::{Account, Total};
use crate::core::limits::{Limit, Limits};
use crate::core::policy::Group;

/// All who are connected, or were a moment ago.
#[derive(Debug)]
pub struct Users {
    users: HashMap<Identity, User>,
    total: Arc<Total>,
    /// Of all users.
    pub(super) subscriptions: usize,
}

/// One user.
#[derive(Debug)]
pub struct User {
    /// Its groups, when they were last looked up.
    pub groups: Arc<[Group]>,
    /// What it holds, for those who hold it.
    pub account: Arc<Account>,
    /// Its instances.
    pub instances: usize,
    /// Their subscriptions.
    pub subscriptions: usize,
    /// What they have declared: topics, each counted for each instance.
    pub topics: usize,
}

/// A limit was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// By whom, unless by somebody who is not connected.
    pub user: Option<Identity>,
    /// Which.
    pub limit: Limit,
    /// How often.
    pub times: u64,
}

impl Users {
    /// Nobody, under these limits.
    pub fn new(limits: &Limits) -> Users {
        Users { users: HashMap::new(), total: Arc::new(Total::new(limits)), subscriptions: 0 }
    }

    /// What all hold together.
    pub fn total(&self) -> &Arc<Total> {
        &self.total
    }

    /// One of them.
    pub fn get(&self, identity: &Identity) -> Option<&User> {
        self.users.get(identity)
    }

    /// All of them who have instances.
    pub fn iter(&self) -> impl Iterator<Item = (&Identity, &User)> {
        self.users.iter().filter(|(_, user)| user.instances > 0)
    }

    pub(super) fn get_mut(&mut self, identity: &Identity) -> Option<&mut User> {
        self.users.get_mut(identity)
    }

    /// A user who is about to connect.
    pub(super) fn arrive(&mut self, identity: &Identity, limits: &Limits, now: Instant) -> &mut User {
        let total = &self.total;
        self.users.entry(identity.clone()).or_insert_with(|| User {
            groups: Arc::new([]),
            account: Arc::new(Account::new(total.clone(), limits, now)),
            instances: 0,
            subscriptions: 0,
            topics: 0,
        })
    }

    /// Obeys these limits from now on. What is held already stays.
    pub(super) fn set_limits(&self, limits: &Limits) {
        self.total.set_limits(limits);
        self.users.values().for_each(|user| user.account.set_limits(limits));
    }

    /// Which limits were reached since the last call, and how often. To be called every second or so: it also notes who
    /// sends, and forgets who has left and owes nothing.
    pub(super) fn review(&mut self, now: Instant) -> Vec<Reached> {
        let nobody = self.total.take_reached().into_iter();
        let mut reached: Vec<Reached> = nobody.map(|(limit, times)| Reached { user: None, limit, times }).collect();
        let mut active = 0;
        for (identity, user) in &self.users {
            active += usize::from(user.account.take_active());
            let of_user = user.account.take_reached().into_iter();
            reached.extend(of_user.map(|(limit, times)| Reached { user: Some(identity.clone()), limit, times }));
        }
        self.total.set_active(active);
        let is_needed =
            |user: &User| user.instances > 0 || user.account.queued() > 0 || !user.account.owes_nothing(now);
        self.users.retain(|_, user| is_needed(user));
        reached
    }
}
