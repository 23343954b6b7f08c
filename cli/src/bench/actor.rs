//! Actor: a process that plays a part, as the bench sees it.
//!
//! They talk in lines of JSON over its standard input and output: it says that it is ready, hears the schedule, and in
//! the end says what it has counted. What the process does is in [`crate::bench::part`].

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::bench::part::Part;
use crate::failure::Failure;
use crate::stage::{Stage, judge, within};

/// Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Actor {
    child: Child,
    /// What it is called when it fails.
    name: &'static str,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Actor {
    /// Starts a process for a part on a bus.
    pub(crate) fn start(stage: &Stage, bus: &str, name: &'static str, part: &Part) -> Result<Actor, Failure> {
        let part = serde_json::to_string(part).map_err(|error| Failure::system("write down a part", error))?;
        let mut child = stage.start_partner(bus, &["bench-part", &part])?;
        let input = child.stdin.take().expect("the input was made a pipe");
        let output = child.stdout.take().expect("the output was made a pipe");
        Ok(Actor { child, name, input, output: BufReader::new(output).lines() })
    }

    /// Its process, as long as that runs.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.id()
    }

    pub(crate) async fn ready(&mut self) -> Result<(), Failure> {
        self.hear().await
    }

    /// If it does not listen, that shows when it is to be heard.
    pub(crate) async fn tell(&mut self, something: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(something).map_err(|error| Failure::system("say something", error))?;
        let _ = self.input.write_all(format!("{line}\n").as_bytes()).await;
        Ok(())
    }

    /// What it says next.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let line = within("a process of the measurement", self.output.next_line()).await?;
        match line.map_err(|error| Failure::system("read what a process says", error))? {
            Some(line) => serde_json::from_str(&line)
                .map_err(|error| Failure::system(format!("understand what the {} says", self.name), error)),
            None => {
                let status = within("the end of a process", self.child.wait()).await?;
                let status = status.map_err(|error| Failure::system("wait for a process", error))?;
                Err(Failure::Ended { program: format!("the {}", self.name), status })
            }
        }
    }

    /// Waits for its end, which is to be a success.
    pub(crate) async fn end(mut self) -> Result<(), Failure> {
        drop(self.input);
        let status = within("the end of a process", self.child.wait()).await?;
        judge(self.name, status.map_err(|error| Failure::system("wait for a process", error))?)
    }
}

/// Several processes, from the first to the last.
pub(crate) async fn all_ready(actors: &mut [Actor]) -> Result<(), Failure> {
    for actor in actors {
        actor.ready().await?;
    }
    Ok(())
}

/// The same to each.
pub(crate) async fn tell_all(actors: &mut [Actor], something: &impl Serialize) -> Result<(), Failure> {
    for actor in actors {
        actor.tell(something).await?;
    }
    Ok(())
}

/// What each says next.
pub(crate) async fn hear_all<T: DeserializeOwned>(actors: &mut [Actor]) -> Result<Vec<T>, Failure> {
    let mut heard = Vec::with_capacity(actors.len());
    for actor in actors {
        heard.push(actor.hear().await?);
    }
    Ok(heard)
}
