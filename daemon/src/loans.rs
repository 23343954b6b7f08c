//! Loans: whose pages an instance may still be reading.
//!
//! A sender that put its own pages into its pipe must not change them before all who read them are done. Each of those
//! holds the [`Loan`]; when the last one lets go of it, the sender is told.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pipebus_proto::topic::InstanceId;

use crate::outbox::Outbox;

/// Loaned messages that one instance may have, after which it gets copies: many times what its pipe can hold.
const MESSAGES_MAX: u64 = 1024;

/// Loaned messages that go the same way. Dropped, they are released.
#[derive(Debug)]
pub(crate) struct Loan {
    sender: InstanceId,
    sequences: RangeInclusive<u64>,
    /// The way back to the sender.
    to: Arc<Outbox>,
}

impl Loan {
    pub(crate) fn new(sender: InstanceId, sequences: RangeInclusive<u64>, to: Arc<Outbox>) -> Loan {
        Loan { sender, sequences, to }
    }

    fn messages(&self) -> u64 {
        self.sequences.end() - self.sequences.start() + 1
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.to.release(self.sequences.clone());
    }
}

/// What became of messages that were to be lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lent {
    /// The instance must get no pages of them: it has too many.
    Refused,
    /// They have been lent just now.
    Now,
    /// They were, with an earlier fragment.
    Before,
}

/// What one instance has been lent and has not consumed, in the order in which it got it.
#[derive(Debug, Default)]
pub(crate) struct Loans(Mutex<VecDeque<Arc<Loan>>>);

impl Loans {
    /// Notes that the instance is about to get pages of these messages, if it may.
    pub(crate) fn lend(&self, loan: &Arc<Loan>) -> Lent {
        let mut loans = self.lock();
        if loans.back().is_some_and(|last| Arc::ptr_eq(last, loan)) {
            return Lent::Before;
        }
        if loans.iter().map(|loan| loan.messages()).sum::<u64>() + loan.messages() > MESSAGES_MAX {
            return Lent::Refused;
        }
        loans.push_back(loan.clone());
        Lent::Now
    }

    /// It has got none, after [`Lent::Now`].
    pub(crate) fn take_back(&self, loan: &Arc<Loan>) {
        let mut loans = self.lock();
        if let Some(at) = loans.iter().rposition(|lent| Arc::ptr_eq(lent, loan)) {
            // Not the last: the caller has one.
            drop(loans.remove(at));
        }
    }

    /// The instance says that it has read all messages of the sender up to this one.
    pub(crate) fn consumed(&self, sender: InstanceId, sequence: u64) {
        let mut consumed = Vec::new();
        self.lock().retain(|loan| {
            let done = loan.sender == sender && *loan.sequences.end() <= sequence;
            if done {
                consumed.push(loan.clone());
            }
            !done
        });
        // Not under the lock: this tells the senders, and one may be this instance.
        drop(consumed);
    }

    /// The instance has left: nobody reads them any more.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Loan>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
