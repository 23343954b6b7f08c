//! Bus: all that is known of one, from outside and from its broker, if that may be asked.
//!
//! A broker that answers slowly holds nobody up.

use std::time::Duration;

use pipebus_client::{Client, Error};
use pipebus_proto::admin::{STATUS, Status};
use pipebus_proto::place::Place;
use pipebus_windows::account;

use super::places::Candidate;
use super::state::{State, judge, judge_silent};
use crate::apart::apart;
use crate::transport::named_pipe::survey::{Seen, Survey};

/// How long a broker may take to let this program in, and again to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// How long all of that may take with one bus, and who may do what with it.
const LOOK_WAIT: Duration = Duration::from_secs(8);

/// What is known of a bus.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) candidate: Candidate,
    pub(crate) state: State,
    /// Why, where that is not plain.
    pub(crate) why: Option<String>,
    pub(crate) survey: Survey,
    /// Whether the pipe's descriptor lets this user in; `None` where it can't be seen.
    pub(crate) may_connect: Option<bool>,
    /// What the broker says.
    pub(crate) status: Option<Status>,
}

impl Bus {
    /// Those who serve it: who says so, or whom the system names.
    pub(crate) fn server(&self) -> Option<u32> {
        let seen = self.survey.seen().and_then(|seen| seen.server);
        self.status.as_ref().map(|status| status.pid).or(seen)
    }
}

/// Looks at all at the same time, each on a thread of its own: one that hangs is left behind. Those that are not named are
/// opened only if `asks_all`.
pub(crate) async fn look_at(candidates: Vec<Candidate>, asks_all: bool) -> Vec<Bus> {
    let looking = candidates.into_iter().map(|candidate| {
        let wanted = candidate.clone();
        (candidate, apart(move || look(wanted, asks_all)))
    });
    let looking: Vec<_> = looking.collect();
    let deadline = tokio::time::Instant::now() + LOOK_WAIT;
    let mut buses = Vec::new();
    for (candidate, looked) in looking {
        let looked = tokio::time::timeout_at(deadline, looked).await;
        buses.push(looked.ok().and_then(Result::ok).unwrap_or_else(|| hanging(candidate)));
    }
    buses
}

fn hanging(candidate: Candidate) -> Bus {
    let why = Some("the system does not answer".to_owned());
    Bus { candidate, state: State::Broken, why, survey: Survey::Unopened, may_connect: None, status: None }
}

fn look(candidate: Candidate, asks_all: bool) -> Bus {
    let is_asked = asks_all || candidate.is_named;
    let place = &candidate.place;
    let survey = if is_asked { Survey::of(place) } else { Survey::from_outside(place) };
    let (mut state, mut why) = judge(place, &survey);
    let mut status = None;
    if state == State::Alive {
        match ask(place) {
            Ok(answer) => status = Some(answer),
            Err(error) => {
                state = judge_silent(survey.seen(), &error);
                why = Some(why_silent(survey.seen(), state, &error));
            }
        }
    }
    let may_connect = match &survey {
        Survey::Denied => Some(false),
        survey => survey.access().and_then(|access| Some(access.lets_in(&account::own().ok()?))),
    };
    Bus { candidate, state, why, survey, may_connect, status }
}

fn why_silent(seen: Option<&Seen>, state: State, error: &Error) -> String {
    match seen.and_then(Seen::program_name) {
        Some(program) if state == State::Foreign => format!("{program} serves it, which is no broker: {error}"),
        _ => error.to_string(),
    }
}

/// Asks a broker how it is.
fn ask(place: &Place) -> Result<Status, Error> {
    let system =
        |source| Error::System { doing: "ask", path: place.path().to_owned(), source: std::sync::Arc::new(source) };
    let address = place.path().to_str().ok_or_else(|| system(std::io::ErrorKind::InvalidFilename.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    runtime.block_on(async {
        let client = Client::builder().name("pipebus scan").timeout(ANSWER_WAIT).reconnect(false);
        let client = client.connect(address).await?;
        let answer = client.request(STATUS, "", ANSWER_WAIT).await?;
        answer.json()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use pipebus_windows::descriptor::Descriptor;
    use pipebus_windows::pipe::Instance;
    use tokio::net::windows::named_pipe::NamedPipeServer;

    fn candidate(of: &str, is_named: bool) -> Candidate {
        let address = format!(r"\\.\pipe\pipebus-scan-{of}-{}", std::process::id());
        Candidate { place: Place::new(&address), address, is_named }
    }

    fn serve(candidate: &Candidate, first: bool) -> NamedPipeServer {
        let me = account::own().unwrap().sid;
        let descriptor = Descriptor::parse(&format!("O:{me}D:P(A;;GA;;;{me})(A;;GA;;;SY)")).unwrap();
        let instance = Instance { first, remote: false, buffer_bytes: 4096, descriptor: &descriptor };
        instance.create(&candidate.address).unwrap()
    }

    async fn looked(candidate: Candidate, asks_all: bool) -> Bus {
        look_at(vec![candidate], asks_all).await.remove(0)
    }

    #[tokio::test]
    async fn who_says_nothing_is_foreign_and_is_named() {
        let candidate = candidate("silent", true);
        let mut next = serve(&candidate, true);
        let of_server = candidate.clone();
        let server = tokio::spawn(async move {
            let mut guests = Vec::new();
            loop {
                next.connect().await.unwrap();
                guests.push(std::mem::replace(&mut next, serve(&of_server, false)));
            }
        });
        let bus = looked(candidate, false).await;
        assert_eq!(bus.state, State::Foreign, "{bus:?}");
        assert!(bus.why.as_ref().unwrap().contains(".exe serves it, which is no broker"), "{bus:?}");
        let seen = bus.survey.seen().unwrap();
        assert_eq!((seen.server, seen.pipe.as_ref().unwrap().in_bytes), (Some(std::process::id()), 4096));
        assert_eq!(bus.may_connect, Some(true));
        server.abort();
    }

    #[tokio::test]
    async fn a_pipe_whose_instances_are_taken_is_busy() {
        let candidate = candidate("busy", true);
        let server = serve(&candidate, true);
        let _client = pipebus_windows::pipe::open(&candidate.address).unwrap();
        server.connect().await.unwrap();
        assert_eq!(looked(candidate, false).await.state, State::Busy);
    }

    #[tokio::test]
    async fn what_is_not_to_be_asked_is_not_opened() {
        assert_eq!(looked(candidate("unasked", false), false).await.state, State::Absent);
        let candidate = candidate("unasked", false);
        let server = serve(&candidate, true);
        assert_eq!(looked(candidate, false).await.state, State::Unasked);
        let nobody = tokio::time::timeout(Duration::from_millis(100), server.connect()).await;
        assert!(nobody.is_err(), "somebody has opened it");
    }
}
