//! The broker as the service control manager runs it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::error;
use windows_service::service::{ServiceControl, ServiceExitCode, ServiceState};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult};
use windows_service::service_dispatcher;

use super::supervisor::{Service, Supervisor};
use super::{NAME, event_log, manager};
use crate::service::{Failure, Program};

/// What a service ends with that has panicked; Rust's own exit code for it.
pub(super) const PANICKED: u32 = 101;

type Serve = Box<dyn FnOnce(Supervisor) -> Result<(), Failure> + Send>;

/// What the service does. Here, because the service control manager calls a function and gives it nothing.
static SERVE: Mutex<Option<Serve>> = Mutex::new(None);

/// Lets the service control manager run it, and returns at its end.
pub(super) fn dispatch(program: impl Program) -> Result<ExitCode, Failure> {
    *SERVE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(move |supervisor| program.serve(supervisor)));
    service_dispatcher::start(NAME, main).map_err(|error| manager::failure("run as a service", &error))?;
    Ok(ExitCode::SUCCESS)
}

/// Called by the service control manager, on a thread of its own.
extern "system" fn main(_count: u32, _arguments: *mut *mut u16) {
    let Some(serve) = SERVE.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    std::panic::set_hook(Box::new(|panic| {
        error!(target: "pipebusd", %panic, "a thread has panicked; please report this");
    }));
    let service = Arc::new(Service::default());
    let told = service.clone();
    match service_control_handler::register(NAME, move |control| obey(&told, &control)) {
        Ok(handle) => service.registered(handle),
        Err(error) => return event_log::report_failure(&manager::failure("run as a service", &error).text),
    }
    service.report(ServiceState::StartPending);
    let supervisor = Supervisor::of_service(service.clone());
    let ended = catch_unwind(AssertUnwindSafe(|| serve(supervisor)));
    service.ended(exit_code(ended));
}

fn obey(service: &Service, control: &ServiceControl) -> ServiceControlHandlerResult {
    match control {
        ServiceControl::Stop | ServiceControl::Preshutdown => service.wish_to_end(),
        ServiceControl::ParamChange => service.wish_to_reload(),
        ServiceControl::Interrogate => {}
        _ => return ServiceControlHandlerResult::NotImplemented,
    }
    ServiceControlHandlerResult::NoError
}

/// What the service control manager is told of its end; the Event Log is, too, if there was no log to tell.
fn exit_code(ended: Result<Result<(), Failure>, Box<dyn Any + Send>>) -> ServiceExitCode {
    match ended {
        Ok(Ok(())) => ServiceExitCode::NO_ERROR,
        Ok(Err(failure)) => {
            if !failure.is_logged {
                event_log::report_failure(&failure.text);
            }
            ServiceExitCode::ServiceSpecific(failure.exit_code.into())
        }
        Err(panic) => {
            let texts = (panic.downcast_ref::<&str>().copied(), panic.downcast_ref::<String>());
            let text = texts.0.or(texts.1.map(String::as_str)).unwrap_or("of unknown cause");
            event_log::report_failure(&format!("the broker has panicked; please report this: {text}"));
            ServiceExitCode::ServiceSpecific(PANICKED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn controls_become_wishes_and_others_are_not_obeyed() {
        let service = Arc::new(Service::default());
        let (mut ends, mut reloads) = Supervisor::of_service(service.clone()).signals().unwrap();
        assert!(matches!(obey(&service, &ServiceControl::ParamChange), ServiceControlHandlerResult::NoError));
        assert_eq!(reloads.wished().await, Some(()));
        for control in [ServiceControl::Stop, ServiceControl::Preshutdown] {
            assert!(matches!(obey(&service, &control), ServiceControlHandlerResult::NoError));
            ends.wished().await;
        }
        assert!(matches!(obey(&service, &ServiceControl::Pause), ServiceControlHandlerResult::NotImplemented));
    }

    #[test]
    fn every_end_has_its_code() {
        let failure = |exit_code| Failure { exit_code, text: "a test of pipebusd".to_owned(), is_logged: true };
        assert_eq!(exit_code(Ok(Ok(()))), ServiceExitCode::NO_ERROR);
        assert_eq!(exit_code(Ok(Err(failure(4)))), ServiceExitCode::ServiceSpecific(4));
        assert_eq!(exit_code(Err(Box::new("a test of pipebusd"))), ServiceExitCode::ServiceSpecific(PANICKED));
    }

    #[test]
    fn a_service_has_defaults_and_a_console_has_none() {
        let service = Supervisor::of_service(Arc::default()).defaults();
        assert!(service.contains(&("bus.address".to_owned(), "system".to_owned())), "{service:?}");
        assert!(Supervisor::default().defaults().is_empty());
    }
}
