//! Refused: no, and why.

use pipebus_proto::control::{Control, Reason, Regarding};
use pipebus_proto::frame::{Malformed, PROTOCOL_VERSION};

/// No, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

impl Refused {
    /// No, for this reason.
    pub fn new(reason: Reason, text: impl Into<String>) -> Refused {
        Refused { reason, text: text.into() }
    }

    /// No, since client and broker speak different versions.
    pub fn wrong_version(version: u16) -> Refused {
        let text = format!(
            "the client speaks version {version} of the protocol, the broker version {PROTOCOL_VERSION}; update the older"
        );
        Refused::new(Reason::Version, text)
    }

    /// The frame that says so.
    pub fn about(self, regarding: Regarding) -> Control {
        Control::Refused { regarding, reason: self.reason, text: self.text }
    }
}

/// The client broke the protocol.
impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Refused {
        Refused::new(Reason::Protocol, malformed.to_string())
    }
}
