//! Services: what the system's service manager says of one.

use std::io;
use std::mem::zeroed;
use std::ptr;

use windows_sys::Win32::Foundation::ERROR_SERVICE_DOES_NOT_EXIST;
use windows_sys::Win32::System::Services::{
    CloseServiceHandle, OpenSCManagerW, OpenServiceW, QUERY_SERVICE_CONFIGW, QueryServiceConfigW, QueryServiceStatus,
    SC_HANDLE, SC_MANAGER_CONNECT, SERVICE_AUTO_START, SERVICE_DISABLED, SERVICE_QUERY_CONFIG, SERVICE_QUERY_STATUS,
    SERVICE_RUNNING, SERVICE_STATUS, SERVICE_STOPPED,
};

use crate::system::{check, wide};

/// What the manager says of a service has at most so many bytes ("QueryServiceConfigW" in Microsoft's documentation).
const CONFIGURATION_BYTES_MAX: usize = 8 * 1024;

/// A service that is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it does now.
    pub state: State,
    /// Whether it starts with the system.
    pub start: Start,
    /// With which error it has ended; 0 for none.
    pub exit_code: u32,
}

/// What a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It does not run.
    Stopped,
    /// It is on the way from one to the other, or paused.
    Between,
}

/// When a service starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the system.
    Automatic,
    /// When somebody wants it to.
    Manual,
    /// Never.
    Disabled,
}

/// The service of this name; `None`, if none is installed.
///
/// # Errors
/// What the system says.
pub fn find(name: &str) -> io::Result<Option<Service>> {
    // SAFETY: it is this machine's manager.
    let manager = Handle::new(unsafe { OpenSCManagerW(ptr::null(), ptr::null(), SC_MANAGER_CONNECT) })?;
    let rights = SERVICE_QUERY_STATUS | SERVICE_QUERY_CONFIG;
    // SAFETY: the manager is open, and the name ends with a 0.
    let service = match Handle::new(unsafe { OpenServiceW(manager.0, wide(name).as_ptr(), rights) }) {
        Err(error) if error.raw_os_error() == Some(ERROR_SERVICE_DOES_NOT_EXIST.cast_signed()) => return Ok(None),
        service => service?,
    };
    // SAFETY: it is made of numbers.
    let mut status: SERVICE_STATUS = unsafe { zeroed() };
    // SAFETY: the service is open; `status` is where the answer is to be put.
    check(unsafe { QueryServiceStatus(service.0, &raw mut status) })?;
    let state = match status.dwCurrentState {
        SERVICE_RUNNING => State::Running,
        SERVICE_STOPPED => State::Stopped,
        _ => State::Between,
    };
    Ok(Some(Service { state, start: start(&service)?, exit_code: status.dwWin32ExitCode }))
}

fn start(service: &Handle) -> io::Result<Start> {
    let mut room = [0u64; CONFIGURATION_BYTES_MAX / size_of::<u64>()];
    let mut needed = 0;
    // SAFETY: there is as much room as is said, aligned for what is put there.
    check(unsafe {
        QueryServiceConfigW(service.0, room.as_mut_ptr().cast(), CONFIGURATION_BYTES_MAX as u32, &raw mut needed)
    })?;
    // SAFETY: the system has put it there.
    let start = unsafe { (*room.as_ptr().cast::<QUERY_SERVICE_CONFIGW>()).dwStartType };
    Ok(match start {
        SERVICE_DISABLED => Start::Disabled,
        // Also what only drivers have, which start sooner.
        start if start <= SERVICE_AUTO_START => Start::Automatic,
        _ => Start::Manual,
    })
}

/// Of the manager, or of a service.
struct Handle(SC_HANDLE);

impl Handle {
    fn new(handle: SC_HANDLE) -> io::Result<Handle> {
        check(i32::from(!handle.is_null()))?;
        Ok(Handle(handle))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it is open, and nobody else closes it.
        unsafe { CloseServiceHandle(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_installed_is_told_from_one_that_is_not() {
        assert_eq!(find("pipebus-no-such-service").unwrap(), None);
        // Every Windows has it, and Wine, too.
        let service = find("EventLog").unwrap().unwrap();
        assert_ne!(service.start, Start::Disabled, "{service:?}");
    }
}
