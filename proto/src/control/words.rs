//! Words for what has kinds, where they are counted.

use super::{Failure, Farewell, Reason};

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 12] = [
        Reason::Version,
        Reason::Forbidden,
        Reason::BrokerFull,
        Reason::UserFull,
        Reason::TooMany,
        Reason::Name,
        Reason::TooLarge,
        Reason::Protocol,
        Reason::Exhausted,
        Reason::Unknown,
        Reason::Draining,
        Reason::Ending,
    ];

    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Version => "version",
            Reason::Forbidden => "forbidden",
            Reason::BrokerFull => "broker_full",
            Reason::UserFull => "user_full",
            Reason::TooMany => "too_many",
            Reason::Name => "name",
            Reason::TooLarge => "too_large",
            Reason::Protocol => "protocol",
            Reason::Exhausted => "exhausted",
            Reason::Unknown => "unknown",
            Reason::Draining => "draining",
            Reason::Ending => "ending",
        }
    }
}

impl Farewell {
    /// All of them.
    pub const ALL: [Farewell; 5] =
        [Farewell::Leaving, Farewell::Shutdown, Farewell::Slow, Farewell::Protocol, Farewell::Disconnected];

    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Farewell::Leaving => "leaving",
            Farewell::Shutdown => "shutdown",
            Farewell::Slow => "slow",
            Farewell::Protocol => "protocol",
            Farewell::Disconnected => "disconnected",
        }
    }
}

impl Failure {
    /// All of them.
    pub const ALL: [Failure; 5] =
        [Failure::NoServer, Failure::Busy, Failure::ServerGone, Failure::TooMany, Failure::Forbidden];

    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Failure::NoServer => "no_server",
            Failure::Busy => "busy",
            Failure::ServerGone => "server_gone",
            Failure::TooMany => "too_many",
            Failure::Forbidden => "forbidden",
        }
    }
}
