//! Gathering the facts: nothing is judged here, and nothing is waited for without end.

mod local;
mod programs;

use std::time::Duration;

use pipebus_client::surroundings;
use pipebus_proto::place::Address;

use super::facts::{Facts, Manager};
use crate::apart::apart;
use crate::doctor::asked::Asked;
use crate::doctor::facts::Contact;
use crate::failure::Failure;

/// How long the file system of the bus may take.
const FILES_WAIT: Duration = Duration::from_secs(5);

/// All that the checks judge.
pub(crate) async fn facts(bus: &Address) -> Result<Facts, Failure> {
    let around = surroundings();
    let place = bus.place(&around);
    // The same places, whatever they are called.
    let [is_system, is_session] = [Address::System, Address::Session].map(|usual| usual.place(&around) == place);
    let looked = apart({
        let place = place.clone();
        move || local::look(place)
    });
    let stuck = || Failure::Stuck { what: "a look at the bus's directory", after: FILES_WAIT };
    let local = tokio::time::timeout(FILES_WAIT, looked).await.ok().and_then(Result::ok).ok_or_else(stuck)?;
    let manager = if is_system { Manager::System } else { Manager::User };
    // Before the broker is asked, which may start it.
    let units = if is_system || is_session { programs::units(manager).await } else { Vec::new() };
    let me = local::me();
    let asked = Asked::of(bus, &me.uid.to_string()).await;
    // Who has been started by the knock is there only now.
    let survey = if local.survey.holder.is_none() && matches!(asked.contact, Contact::Connected { .. }) {
        local::survey_again(&place)
    } else {
        local.survey
    };
    let process = local::process(&survey, &asked.status);
    let configuration = programs::configuration(is_system, process.as_ref().map(|process| process.pid)).await;
    Ok(Facts {
        address: bus.to_string(),
        names: local::names(&survey),
        trust: local.trust,
        leftovers: local.leftovers,
        survey,
        me,
        process,
        contact: asked.contact,
        status: asked.status,
        instances: asked.instances,
        crowd: asked.crowd,
        publish: asked.publish,
        subscribe: asked.subscribe,
        pipes: local::pipes(),
        units,
        manager,
        configuration,
    })
}
