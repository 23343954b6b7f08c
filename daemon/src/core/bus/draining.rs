//! Draining: nobody new is let in, but visitors who may call it off; those who are there go on until they leave.

use pipebus_proto::admin::DRAIN;
use pipebus_proto::control::Reason;
use pipebus_proto::topic::{InstanceId, Topic};

use super::{Bus, Instance};
use crate::core::policy::{Action, Subject};
use crate::core::refused::Refused;

impl<T: Clone> Bus<T> {
    /// Lets nobody in from now on, and waits for all to leave, but for whoever has ordered it.
    pub fn drain(&mut self, by: InstanceId) {
        self.drained_by = Some(by);
    }

    /// Lets everybody in again.
    pub fn cancel_drain(&mut self) {
        self.drained_by = None;
    }

    /// How many are still to leave; `None` unless the bus drains. Visitors are waited for as little as whoever has ordered
    /// it: they have nothing to do with others, and may look at it until its end.
    pub fn awaited(&self) -> Option<usize> {
        let by = self.instances.get(&self.drained_by?);
        let counted = usize::from(by.is_some_and(|by| !by.visits));
        Some(self.instances.len() - self.visitors - counted)
    }

    /// Whether one more may come in, as far as that is concerned.
    pub(super) fn check_draining(&self, subject: Subject<'_>, visits: bool) -> Result<(), Refused> {
        if self.drained_by.is_none() {
            return Ok(());
        }
        let order = Topic::new(DRAIN).ok();
        if visits && self.policy.decide(subject, Action::Admin, order.as_ref()).allowed {
            return Ok(());
        }
        let text = "the broker is being drained: it lets nobody new in, and ends once all have left; try again when it has \
                    been started anew, or call it off with: pipebus drain --cancel";
        Err(Refused::new(Reason::Draining, text))
    }
}

impl<T> Instance<T> {
    /// Whether it may have to do with this topic or pattern: visitors only with the broker's own.
    pub(super) fn check_errand(&self, name: &str) -> Result<(), Refused> {
        if !self.visits || name.starts_with('$') {
            return Ok(());
        }
        let text = format!("this client only visits the broker; to have to do with {name}, say Hello instead of Visit");
        Err(Refused::new(Reason::Forbidden, text))
    }
}
