//! Policy: who may do what, beyond the file permissions that decide who connects.

use pipebus_proto::control::{Identity, Purpose};
use pipebus_proto::topic::Topic;

/// Who somebody is, as the operating system says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user or account.
    pub identity: Identity,
    /// The process, where the system can tell.
    pub pid: Option<u32>,
}

/// Who may do what on a bus.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Who owns the bus: the user that the broker runs as.
    pub owner: Identity,
}

impl Policy {
    /// Whether `peer` may send to `topic`.
    ///
    /// The broker's own topics take requests only, from the bus's owner and from root.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn check_send(&self, peer: &Peer, purpose: Purpose, topic: &Topic) -> Result<(), String> {
        if !topic.is_reserved() {
            return Ok(());
        }
        if purpose == Purpose::Publish {
            return Err(format!("{topic} is the broker's own; publish to a topic that does not start with $"));
        }
        let administrator = peer.identity == self.owner || peer.identity == (Identity::Unix { uid: 0 });
        if administrator {
            Ok(())
        } else {
            Err(format!("{topic} answers only the bus's owner and root; ask as one of them"))
        }
    }
}
