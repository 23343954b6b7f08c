//! Gathering the facts: nothing is judged here, and nothing is waited for without end.

use std::time::Duration;

use pipebus_client::surroundings;
use pipebus_proto::place::{Address, Place};
use pipebus_windows::account;
use windows_service::service::{ServiceAccess, ServiceExitCode, ServiceStartType, ServiceState};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use super::facts::{Facts, Me, Service, Start, State};
use crate::apart::apart;
use crate::doctor::asked::Asked;
use crate::failure::Failure;
use crate::transport::named_pipe::survey::Survey;

/// How long the system may take to tell of the pipe and of accounts: it may ask a domain controller.
const SYSTEM_WAIT: Duration = Duration::from_secs(10);

/// The service's name.
const SERVICE: &str = "pipebusd";

/// There is no such service (ERROR_SERVICE_DOES_NOT_EXIST).
const NO_SUCH_SERVICE: i32 = 1060;

/// All that the checks judge.
pub(crate) async fn facts(bus: &Address) -> Result<Facts, Failure> {
    let around = surroundings();
    let place = bus.place(&around);
    // The same place, whatever it is called.
    let is_system = Address::System.place(&around) == place;
    let looked = apart({
        let place = place.clone();
        move || look(&place, is_system)
    });
    let stuck = || Failure::Stuck { what: "a look at the bus's pipe", after: SYSTEM_WAIT };
    let looked = tokio::time::timeout(SYSTEM_WAIT, looked).await.ok().and_then(Result::ok).ok_or_else(stuck)?;
    let Local { survey, me, service } = looked.map_err(|error| Failure::system("find out who you are", error))?;
    let asked = Asked::of(bus, &me.account.sid).await;
    Ok(Facts {
        address: bus.to_string(),
        place,
        survey,
        me,
        contact: asked.contact,
        status: asked.status,
        instances: asked.instances,
        crowd: asked.crowd,
        publish: asked.publish,
        subscribe: asked.subscribe,
        service,
    })
}

/// What this machine tells.
struct Local {
    survey: Survey,
    me: Me,
    service: Option<Service>,
}

fn look(place: &Place, is_system: bool) -> std::io::Result<Local> {
    let account = account::own()?;
    let me = Me { name: account::name_of(&account.sid), account };
    Ok(Local { survey: Survey::of(place), me, service: is_system.then(service) })
}

fn service() -> Service {
    match ask_manager() {
        Ok(service) => service,
        Err(windows_service::Error::Winapi(error)) if error.raw_os_error() == Some(NO_SUCH_SERVICE) => {
            Service::NotInstalled
        }
        Err(_) => Service::Unknown,
    }
}

fn ask_manager() -> windows_service::Result<Service> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)?;
    let service = manager.open_service(SERVICE, ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG)?;
    let status = service.query_status()?;
    Ok(Service::Installed {
        state: match status.current_state {
            ServiceState::Running => State::Running,
            ServiceState::Stopped => State::Stopped,
            _ => State::Between,
        },
        start: match service.query_config()?.start_type {
            ServiceStartType::OnDemand => Start::Manual,
            ServiceStartType::Disabled => Start::Disabled,
            _ => Start::Automatic,
        },
        exit_code: match status.exit_code {
            ServiceExitCode::Win32(code) | ServiceExitCode::ServiceSpecific(code) => code,
        },
    })
}
