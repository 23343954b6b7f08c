//! Step: what somebody does. Numbers choose among what there is, modulo how many there are.

use std::time::Duration;

use pipebus_proto::control::{Overflow, Purpose, Role};

use super::choices::Choices;
use super::monitors::watch;

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Connect {
        user: u8,
    },
    /// At any moment, also in the middle of a frame.
    Die {
        client: u8,
    },
    Declare {
        client: u8,
        topic: u8,
        purpose: Purpose,
    },
    Retract {
        client: u8,
        topic: u8,
    },
    Subscribe {
        client: u8,
        pattern: u8,
        role: Role,
        overflow: Overflow,
    },
    Unsubscribe {
        client: u8,
        subscription: u8,
    },
    Publish {
        client: u8,
        topic: u8,
        messages: usize,
    },
    /// The first of several fragments.
    Begin {
        client: u8,
        topic: u8,
        fragments: usize,
    },
    /// The next fragment.
    Continue {
        client: u8,
    },
    Ask {
        client: u8,
        topic: u8,
        fragments: usize,
    },
    Reply {
        client: u8,
        request: u8,
        fragments: usize,
    },
    Cancel {
        client: u8,
        request: u8,
    },
    Ping {
        client: u8,
        times: usize,
    },
    /// Sends what it may not.
    Attack {
        client: u8,
    },
    /// The broker reads so much of what the client has sent.
    TakeIn {
        client: u8,
        bytes: usize,
    },
    /// What did not fit is pushed again.
    Retry {
        client: u8,
    },
    /// The broker writes so much to the client's pipe, of what is taken from the queue at once.
    Write {
        client: u8,
        take_max: usize,
        bytes: usize,
    },
    Read {
        client: u8,
        bytes: usize,
    },
    Wait {
        time: Duration,
    },
    /// The broker was stopped for so long.
    Sleep {
        time: Duration,
    },
    SetPolicy,
    SetGroups {
        user: u8,
    },
    SetLimits,
    Review,
    /// Who has been sent away ends.
    Bury,
}

impl Step {
    pub(super) fn of(choices: &mut Choices) -> Step {
        // The commonest first, for a tape of zeros is what is shrunk to.
        let kind = choices.byte();
        let client = choices.byte();
        match kind {
            0..64 => Step::of_sender(kind, client, choices),
            64..150 => Step::of_message(kind, client, choices),
            150..166 => Step::Retry { client },
            166..192 => Step::Write { client, take_max: 1 + choices.below(2000), bytes: 1 + choices.at_the_edge(4000) },
            192..218 => Step::Read { client, bytes: 1 + choices.at_the_edge(4000) },
            218..226 => Step::TakeIn { client, bytes: 1 + choices.at_the_edge(3000) },
            226..236 => Step::Wait { time: Duration::from_millis(choices.below(7000) as u64) },
            _ => Step::of_bus(kind, client, choices),
        }
    }

    /// What the bus hears of.
    fn of_sender(kind: u8, client: u8, choices: &mut Choices) -> Step {
        use Overflow::{Block, Disconnect, DropNewest, DropOldest, Latest};
        let number = choices.byte();
        match kind {
            0..16 => {
                let purpose = if choices.happens(96) { Purpose::Request } else { Purpose::Publish };
                Step::Declare { client, topic: number, purpose }
            }
            16..20 => Step::Retract { client, topic: number },
            20..40 => {
                let role = match choices.byte() {
                    0..140 => Role::Subscribe,
                    140..200 => Role::Serve,
                    _ => Role::Monitor(watch(choices)),
                };
                let often = [Block, DropOldest, DropNewest, Latest];
                let overflow = if choices.happens(20) { Disconnect } else { choices.one_of(&often) };
                Step::Subscribe { client, pattern: number, role, overflow }
            }
            40..45 => Step::Unsubscribe { client, subscription: number },
            45..56 => Step::Connect { user: number },
            _ => Step::Die { client },
        }
    }

    fn of_message(kind: u8, client: u8, choices: &mut Choices) -> Step {
        let number = choices.byte();
        match kind {
            64..88 => Step::Publish { client, topic: number, messages: 1 + choices.below(7) },
            88..98 => Step::Begin { client, topic: number, fragments: 2 + choices.below(4) },
            98..120 => Step::Continue { client },
            120..132 => {
                let fragments = if choices.happens(60) { 2 + choices.below(3) } else { 1 };
                Step::Ask { client, topic: number, fragments }
            }
            132..146 => {
                let fragments = if choices.happens(60) { 2 + choices.below(3) } else { 1 };
                Step::Reply { client, request: number, fragments }
            }
            _ => Step::Cancel { client, request: number },
        }
    }

    /// What happens to the bus, and what no honest client does.
    fn of_bus(kind: u8, client: u8, choices: &mut Choices) -> Step {
        match kind {
            236..240 => Step::Ping { client, times: if choices.happens(20) { 900 } else { 1 } },
            240..243 => Step::Attack { client },
            243 => Step::Sleep { time: Duration::from_millis(choices.below(20_000) as u64) },
            244..247 => Step::SetPolicy,
            247..249 => Step::SetGroups { user: client },
            249..251 => Step::SetLimits,
            251..254 => Step::Review,
            _ => Step::Bury,
        }
    }
}
