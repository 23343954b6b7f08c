//! The service control manager: what is asked of it, and what its errors mean.

use std::time::Duration;

use windows_service::Error;
use windows_service::service::{Service, ServiceAccess, ServiceExitCode, ServiceState, ServiceStatus};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use super::NAME;
use super::run::PANICKED;
use crate::service::Failure;

/// How often it is asked whether something has happened that takes time, and for how long.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const POLLS_MAX: u32 = 600;

const ACCESS_DENIED: i32 = 5;
const INVALID_LEVEL: i32 = 124;
const SERVICE_ALREADY_RUNNING: i32 = 1056;
const INVALID_SERVICE_ACCOUNT: i32 = 1057;
const SERVICE_DOES_NOT_EXIST: i32 = 1060;
const SERVICE_NOT_ACTIVE: i32 = 1062;
const FAILED_SERVICE_CONTROLLER_CONNECT: i32 = 1063;
const SERVICE_MARKED_FOR_DELETE: i32 = 1072;
const SERVICE_EXISTS: i32 = 1073;
const PROCESS_ABORTED: u32 = 1067;
const SERVICE_NEVER_STARTED: u32 = 1077;

/// Why something can't be done, and what to do about it.
pub(super) fn failure(doing: &str, error: &Error) -> Failure {
    let why = match code(error) {
        Some(ACCESS_DENIED) => {
            "only administrators may; say it in a terminal that was opened with \"Run as administrator\"".to_owned()
        }
        Some(SERVICE_DOES_NOT_EXIST) => {
            format!("there is no service {NAME}; `pipebusd service install` makes it")
        }
        Some(SERVICE_EXISTS) => {
            format!("there is a service {NAME} already; `pipebusd service uninstall` removes it")
        }
        Some(SERVICE_MARKED_FOR_DELETE) => {
            "it is being removed, which is done when all programs that show services are closed".to_owned()
        }
        Some(INVALID_SERVICE_ACCOUNT) => "there is no such account, or it needs a password".to_owned(),
        Some(FAILED_SERVICE_CONTROLLER_CONNECT) => {
            "that is for the service control manager to do; say `pipebusd service start`".to_owned()
        }
        // What is in it tells more than that something is.
        _ => std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string),
    };
    failed(format!("cannot {doing}: {why}"))
}

pub(super) fn failed(text: String) -> Failure {
    Failure { exit_code: 1, text, is_logged: false }
}

fn code(error: &Error) -> Option<i32> {
    match error {
        Error::Winapi(error) => error.raw_os_error(),
        _ => None,
    }
}

/// Whether this manager does not know what it was to be told about a service.
pub(super) fn is_unknown_setting(error: &Error) -> bool {
    code(error) == Some(INVALID_LEVEL)
}

/// The manager, asked for this.
pub(super) fn manager(doing: &str, access: ServiceManagerAccess) -> Result<ServiceManager, Failure> {
    ServiceManager::local_computer(None::<&str>, access).map_err(|error| failure(doing, &error))
}

/// The service, asked for this.
pub(super) fn service(doing: &str, access: ServiceAccess) -> Result<Service, Failure> {
    let manager = manager(doing, ServiceManagerAccess::CONNECT)?;
    manager.open_service(NAME, access).map_err(|error| failure(doing, &error))
}

/// The same, if there is one.
pub(super) fn service_if_any(doing: &str, access: ServiceAccess) -> Result<Option<Service>, Failure> {
    let manager = manager(doing, ServiceManagerAccess::CONNECT)?;
    match manager.open_service(NAME, access) {
        Err(error) if code(&error) == Some(SERVICE_DOES_NOT_EXIST) => Ok(None),
        opened => opened.map(Some).map_err(|error| failure(doing, &error)),
    }
}

/// Starts it, and waits until it runs. One that runs already is fine.
pub(super) fn start(service: &Service) -> Result<ServiceStatus, Failure> {
    let doing = "start the service";
    match service.start::<&str>(&[]) {
        Err(error) if code(&error) != Some(SERVICE_ALREADY_RUNNING) => return Err(failure(doing, &error)),
        _ => {}
    }
    let status = settled(doing, service, ServiceState::StartPending)?;
    if status.current_state == ServiceState::Running {
        return Ok(status);
    }
    let why = words(&status.exit_code);
    Err(failed(format!("the service has ended at once: {why}; the Event Log says more, in Application, of {NAME}")))
}

/// Stops it, and waits until it has ended. One that does not run is fine.
pub(super) fn stop(service: &Service) -> Result<(), Failure> {
    let doing = "stop the service";
    match service.stop() {
        Err(error) if code(&error) != Some(SERVICE_NOT_ACTIVE) => return Err(failure(doing, &error)),
        _ => {}
    }
    match settled(doing, service, ServiceState::StopPending)?.current_state {
        ServiceState::Stopped => Ok(()),
        state => Err(failed(format!("the service was told to stop, and is {}", state_word(state)))),
    }
}

/// Its state, when it is not any more what it is only for a while.
fn settled(doing: &str, service: &Service, passing: ServiceState) -> Result<ServiceStatus, Failure> {
    let mut status = service.query_status();
    for _ in 0..POLLS_MAX {
        match &status {
            Ok(now) if now.current_state == passing => {}
            _ => break,
        }
        std::thread::sleep(POLL_INTERVAL);
        status = service.query_status();
    }
    status.map_err(|error| failure(doing, &error))
}

/// What the service ended with, as a number.
pub(super) fn exit_number(exit_code: &ServiceExitCode) -> Option<u32> {
    match exit_code {
        ServiceExitCode::Win32(SERVICE_NEVER_STARTED) => None,
        ServiceExitCode::Win32(code) | ServiceExitCode::ServiceSpecific(code) => Some(*code),
    }
}

/// The same, in words.
pub(super) fn words(exit_code: &ServiceExitCode) -> String {
    let text = match exit_code {
        ServiceExitCode::Win32(0) => "ended cleanly",
        ServiceExitCode::Win32(SERVICE_NEVER_STARTED) => "was not started since the machine was",
        ServiceExitCode::Win32(PROCESS_ABORTED) => "crashed, or was killed",
        ServiceExitCode::Win32(code) => return std::io::Error::from_raw_os_error(code.cast_signed()).to_string(),
        ServiceExitCode::ServiceSpecific(1) => "failed",
        ServiceExitCode::ServiceSpecific(2) => "its configuration is wrong",
        ServiceExitCode::ServiceSpecific(4) => "the bus is taken by another broker",
        ServiceExitCode::ServiceSpecific(PANICKED) => "panicked",
        ServiceExitCode::ServiceSpecific(code) => return format!("failed with {code}"),
    };
    text.to_owned()
}

/// A state in one word.
pub(super) fn state_word(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Stopped => "stopped",
        ServiceState::StartPending => "starting",
        ServiceState::StopPending => "stopping",
        ServiceState::Running => "running",
        ServiceState::ContinuePending => "continuing",
        ServiceState::PausePending => "pausing",
        ServiceState::Paused => "paused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn an_error_says_what_to_do() {
        let check = |code: i32, what: &str| {
            let failure = failure("do it", &Error::Winapi(io::Error::from_raw_os_error(code)));
            assert!(failure.text.starts_with("cannot do it: ") && failure.text.contains(what), "{failure:?}");
        };
        check(ACCESS_DENIED, "Run as administrator");
        check(SERVICE_DOES_NOT_EXIST, "service install");
        check(SERVICE_EXISTS, "service uninstall");
        check(FAILED_SERVICE_CONTROLLER_CONNECT, "service start");
    }

    #[test]
    fn the_end_of_a_service_has_words() {
        assert_eq!(words(&ServiceExitCode::NO_ERROR), "ended cleanly");
        assert_eq!(words(&ServiceExitCode::ServiceSpecific(4)), "the bus is taken by another broker");
        assert_eq!(exit_number(&ServiceExitCode::Win32(SERVICE_NEVER_STARTED)), None);
        assert_eq!(exit_number(&ServiceExitCode::ServiceSpecific(2)), Some(2));
    }
}
