//! Bus: all that is known of one, from outside and from its broker, if that may be asked.
//!
//! A broker that answers slowly, or a file system that does not answer at all, holds nobody up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pipebus_client::{Client, Error};
use pipebus_proto::admin::{STATUS, Status};
use pipebus_proto::place::Place;
use pipebus_proto::trust::Distrust;

use super::places::Candidate;
use super::state::{State, judge};
use crate::apart::apart;
use crate::transport::fifo::survey::{Locks, Survey};

/// How long a broker may take to let this program in, and again to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// How long all of that may take with one bus, files included.
const LOOK_WAIT: Duration = Duration::from_secs(5);

/// What is known of a bus.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) candidate: Candidate,
    pub(crate) state: State,
    /// Why, where that is not plain.
    pub(crate) why: Option<String>,
    /// Without links above it, as the system names it to others.
    pub(crate) real: PathBuf,
    /// `None` if the file system did not answer.
    pub(crate) survey: Option<Survey>,
    /// What the broker says.
    pub(crate) status: Option<Status>,
}

impl Bus {
    /// Those who serve it: who says so, who holds the lock, or who seems to.
    pub(crate) fn broker(&self) -> Option<u32> {
        let holder = self.survey.as_ref().and_then(|survey| survey.holder);
        self.status.as_ref().map(|status| status.pid).or(holder).or(self.candidate.broker)
    }
}

/// Looks at all at the same time, each on a thread of its own: one that hangs is left behind. Brokers of those that are not
/// named are asked only if `asks_all`.
pub(crate) async fn look_at(candidates: Vec<Candidate>, asks_all: bool) -> Vec<Bus> {
    let locks = std::sync::Arc::new(Locks::read());
    let looking = candidates.into_iter().map(|candidate| {
        let (locks, wanted) = (locks.clone(), candidate.clone());
        (candidate, apart(move || look(wanted, &locks, asks_all)))
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
    let why = Some("its file system does not answer".to_owned());
    let real = candidate.place.path().to_owned();
    Bus { candidate, state: State::Broken, why, real, survey: None, status: None }
}

fn look(candidate: Candidate, locks: &Locks, asks_all: bool) -> Bus {
    let survey = Survey::of(candidate.place.clone(), locks);
    let (mut state, mut why) = judge(&survey, candidate.broker);
    let mut status = None;
    // Who knocks where no broker runs may start one.
    let is_asked = asks_all || candidate.is_named;
    if is_asked && state == State::Alive && survey.may_connect != Some(false) {
        match ask(&candidate.place) {
            Ok(answer) => status = Some(answer),
            Err(error) => {
                let is_broken = matches!(&error, Error::TimedOut { .. } | Error::NoBroker { .. } | Error::Protocol(_))
                    || matches!(&error, Error::Distrust(distrust) if !matches!(distrust, Distrust::Owner { .. }));
                state = if is_broken { State::Broken } else { state };
                why = Some(error.to_string());
            }
        }
    }
    let real = real_path(candidate.place.path());
    Bus { candidate, state, why, real, survey: Some(survey), status }
}

fn real_path(directory: &Path) -> PathBuf {
    directory.canonicalize().unwrap_or_else(|_| directory.to_owned())
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
