//! Arrival: a client has opened an instance, and the system says who it is.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use pipebus_proto::control::{Identity, Reason, Regarding};
use pipebus_proto::wire::encode_control;
use pipebus_windows::{account, pipe};
use tokio::time::timeout;

use super::accounts::remember;
use super::{PARTING_WAIT, Pipe, Reader, Writer, part, try_write};
use crate::core::policy::Peer;
use crate::core::refused::Refused;
use crate::transport::Arrived;

/// How long a client may say nothing. Those of this project say Hello as soon as they have opened the pipe.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Why a client is not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it said nothing for too long")]
    Silence,
    #[error("others came, and it had been silent longest")]
    Crowded,
    #[error("the system does not tell who it is: {0}")]
    Unknown(io::Error),
    #[error("it left: {0}")]
    Left(io::Error),
}

/// Waits for a client's first bytes: before, the system does not tell who it is (ImpersonateNamedPipeClient). What they
/// say is looked at later.
pub(super) async fn introduce(instance: Pipe) -> Result<Arrived, Unfit> {
    match timeout(SILENCE_MAX, instance.0.readable()).await {
        Ok(ready) => ready.map_err(Unfit::Left)?,
        Err(_) => return Err(Unfit::Silence),
    }
    let account = account::of_client(&instance.0);
    // A client on another machine has a process there, if any.
    let pid = pipe::client_process(&instance.0).ok().filter(|pid| *pid != 0);
    let pipe = Arc::new(instance);
    let (mut reader, writer) = (Reader(pipe.clone()), Writer(pipe));
    let account = match account {
        Ok(account) => account,
        Err(error) => {
            let text = "the system does not tell who you are; connect as a user, and let the server identify you";
            let refused = Refused::new(Reason::Forbidden, text).about(Regarding::Connection);
            let _ = try_write(&writer, &[IoSlice::new(&encode_control(&refused))]);
            part(&mut reader, PARTING_WAIT).await;
            return Err(Unfit::Unknown(error));
        }
    };
    let identity = Identity::Windows { sid: account.sid.clone() };
    remember(account);
    Ok(Arrived { reader, writer, peer: Peer { identity, pid } })
}
