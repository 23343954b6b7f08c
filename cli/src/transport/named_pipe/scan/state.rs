//! State: what has become of a bus, judged from its pipe and from what its server answers.

use std::fmt;

use pipebus_client::Error;
use pipebus_proto::place::Place;
use serde::Serialize;

use crate::transport::named_pipe::survey::{Seen, Survey};

/// What has become of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// A broker serves it.
    Alive,
    /// Somebody serves it who is no broker, or is not to be trusted.
    Foreign,
    /// Each instance of the pipe has a client.
    Busy,
    /// This user may not open it.
    NoPermission,
    /// Something is wrong.
    Broken,
    /// There is a pipe, which was not opened.
    Unasked,
    /// There is none.
    Absent,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Alive => "alive",
            State::Foreign => "foreign",
            State::Busy => "busy",
            State::NoPermission => "no permission",
            State::Broken => "broken",
            State::Unasked => "unasked",
            State::Absent => "absent",
        })
    }
}

/// The state by the pipe alone, and why, where that is not plain. A pipe that can be opened is taken for alive.
pub(crate) fn judge(place: &Place, survey: &Survey) -> (State, Option<String>) {
    let say = |state, why: &str| (state, Some(why.to_owned()));
    match survey {
        Survey::Open(seen) => match (seen.trust(place), &seen.access) {
            (Some(Err(distrust)), _) => say(State::Foreign, &distrust.to_string()),
            (Some(Ok(())), _) => (State::Alive, None),
            (None, Err(why)) => say(State::Foreign, &format!("whose it is can't be seen: {why}")),
            (None, Ok(_)) => say(State::Foreign, "whose it is can't be seen"),
        },
        Survey::Absent => say(State::Absent, "there is no such pipe"),
        Survey::Busy => say(State::Busy, "each instance of the pipe has a client"),
        Survey::Denied => say(State::NoPermission, "you may not open it"),
        Survey::Failed(why) => say(State::Broken, &format!("the system can't tell: {why}")),
        Survey::Unopened => say(State::Unasked, "it was not opened"),
    }
}

/// The state of one that could be opened and whose server does not tell how it is.
pub(crate) fn judge_silent(seen: Option<&Seen>, error: &Error) -> State {
    let is_broker = seen.is_some_and(Seen::is_broker);
    match error {
        Error::NoPermission { .. } => State::NoPermission,
        Error::NoBroker { .. } => State::Absent,
        Error::Distrust(_) => State::Foreign,
        Error::TimedOut { .. } | Error::Protocol(_) | Error::Disconnected | Error::System { .. } if is_broker => {
            State::Broken
        }
        Error::TimedOut { .. } | Error::Protocol(_) | Error::Disconnected | Error::System { .. } => State::Foreign,
        // A broker has answered, and says no.
        _ => State::Alive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use pipebus_windows::account;
    use pipebus_windows::descriptor::Descriptor;

    use crate::transport::named_pipe::access::Access;

    fn seen(owner: &str, program: &str) -> Seen {
        let access = Access::of(&Descriptor::parse(&format!("O:{owner}D:P(A;;GA;;;SY)")).unwrap()).unwrap();
        Seen { pipe: Err(String::new()), server: Some(7), program: Some(program.to_owned()), access: Ok(access) }
    }

    #[test]
    fn each_state_is_told_from_the_others() {
        let place = Place::new(r"\\.\pipe\x");
        let check = |survey: Survey, state, says: &str| {
            let (judged, why) = judge(&place, &survey);
            assert_eq!(judged, state, "{survey:?}");
            assert!(why.unwrap_or_default().contains(says), "{survey:?}");
        };
        let open = |owner: &str| Survey::Open(Box::new(seen(owner, "x")));
        check(open(&account::own().unwrap().sid), State::Alive, "");
        check(open("SY"), State::Alive, "");
        check(open("S-1-5-21-1-2-3-4"), State::Foreign, "S-1-5-21-1-2-3-4");
        check(Survey::Absent, State::Absent, "no such pipe");
        check(Survey::Busy, State::Busy, "has a client");
        check(Survey::Denied, State::NoPermission, "may not");
        check(Survey::Failed("odd".into()), State::Broken, "odd");
        check(Survey::Unopened, State::Unasked, "not opened");
    }

    #[test]
    fn who_does_not_speak_as_brokers_do_is_none_unless_it_is_called_so() {
        let silence = Error::TimedOut { doing: "connecting", after: Duration::from_secs(2) };
        let (broker, other) = (seen("SY", r"C:\a\PIPEBUSD.EXE"), seen("SY", r"C:\a\other.exe"));
        assert_eq!(judge_silent(Some(&broker), &silence), State::Broken);
        assert_eq!(judge_silent(Some(&other), &silence), State::Foreign);
        assert_eq!(judge_silent(Some(&other), &Error::Forbidden("rule 3".into())), State::Alive);
    }
}
