//! Reload: the configuration read anew, at SIGHUP or when an administrator orders it. One that is wrong changes nothing.

use std::sync::Arc;

use pipebus_proto::admin::{RELOAD_EVENT, ReloadEvent, Reloaded};
use tracing::{error, info, warn};

use crate::broker::Broker;
use crate::events;
use crate::rules;

/// Obeys the policy and the limits of the configuration as it is now, also for clients that are connected.
///
/// # Errors
/// What is wrong with it; or the groups of somebody who is connected can't be looked up. Then all stays as it was.
pub(crate) async fn reload(broker: &Arc<Broker>) -> Result<Reloaded, String> {
    let broker = broker.clone();
    // On its own, not to be given up half way: it may well be that whoever has ordered it is sent away by it.
    let reloading = tokio::spawn(async move {
        let _turn = broker.reloading.lock().await;
        broker.host().reloading();
        let outcome = read_anew(&broker).await;
        broker.host().reloaded();
        tell(&broker, &outcome);
        outcome
    });
    reloading.await.unwrap_or_else(|error| Err(error.to_string()))
}

async fn read_anew(broker: &Arc<Broker>) -> Result<Reloaded, String> {
    let asked = broker.clone();
    // It reads files, and asks the system who somebody is.
    let read = tokio::task::spawn_blocking(move || {
        let config = asked.host().configuration()?;
        let policy = rules::resolve(&config.policy.rules, &asked.owner)?;
        Ok::<_, String>((config, policy))
    });
    let (config, policy) = read.await.map_err(|error| error.to_string())??;
    broker.revise(config.policy.rules.clone(), policy, config.limits()).await?;
    let restart_for = broker.config.unlike(&config).into_iter().map(str::to_owned).collect();
    Ok(Reloaded { restart_for })
}

fn tell(broker: &Broker, outcome: &Result<Reloaded, String>) {
    match outcome {
        Ok(Reloaded { restart_for }) if restart_for.is_empty() => info!("the policy and the limits are read anew"),
        Ok(Reloaded { restart_for }) => {
            warn!(restart_for = restart_for.join(", "), "the policy and the limits are read anew, and nothing else");
        }
        Err(error) => error!(error, "nothing is read anew; mend the configuration, and reload again"),
    }
    let restart_for = outcome.as_ref().map_or_else(|_| Vec::new(), |reloaded| reloaded.restart_for.clone());
    events::publish(broker, RELOAD_EVENT, &ReloadEvent { error: outcome.as_ref().err().cloned(), restart_for });
}
