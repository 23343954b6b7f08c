//! What the system says of this process, and of others by their numbers.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::time::Duration;

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, FILETIME, HANDLE, WAIT_TIMEOUT};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetProcessHandleCount, GetProcessTimes, OpenProcess, PROCESS_ACCESS_RIGHTS, PROCESS_NAME_WIN32,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, QueryFullProcessImageNameW, WaitForSingleObject,
};

use crate::system::check;

/// A path has at most so many UTF-16 units.
const PATH_UNITS_MAX: usize = 32 * 1024;

/// The memory that this process has in use, in bytes.
///
/// # Errors
/// What the system says.
pub fn resident_bytes() -> io::Result<u64> {
    // SAFETY: it is made of numbers.
    let mut counters: PROCESS_MEMORY_COUNTERS = unsafe { zeroed() };
    counters.cb = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    // SAFETY: there is as much room as is said.
    check(unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &raw mut counters, counters.cb) })?;
    Ok(counters.WorkingSetSize as u64)
}

/// How many handles it has open.
///
/// # Errors
/// What the system says.
pub fn open_handles() -> io::Result<u64> {
    // SAFETY: it needs nothing.
    handles(unsafe { GetCurrentProcess() })
}

/// How many handles another process has open.
///
/// # Errors
/// What the system says: there is no such process, or this user may not ask.
pub fn open_handles_of(pid: u32) -> io::Result<u64> {
    handles(open(pid, PROCESS_QUERY_LIMITED_INFORMATION)?.as_raw_handle())
}

fn handles(process: HANDLE) -> io::Result<u64> {
    let mut count = 0;
    // SAFETY: the process is open; `count` is where the answer is to be put.
    check(unsafe { GetProcessHandleCount(process, &raw mut count) })?;
    Ok(u64::from(count))
}

/// How long its threads together have been on a processor.
///
/// # Errors
/// What the system says.
pub fn processor_time() -> io::Result<Duration> {
    // SAFETY: it needs nothing.
    time_on_processor(unsafe { GetCurrentProcess() })
}

/// How long another process's threads together have been on a processor.
///
/// # Errors
/// What the system says: there is no such process, or this user may not ask.
pub fn processor_time_of(pid: u32) -> io::Result<Duration> {
    time_on_processor(open(pid, PROCESS_QUERY_LIMITED_INFORMATION)?.as_raw_handle())
}

fn time_on_processor(process: HANDLE) -> io::Result<Duration> {
    // SAFETY: these are made of numbers.
    let [mut begun, mut ended, mut kernel, mut user]: [FILETIME; 4] = unsafe { zeroed() };
    // SAFETY: the process is open; these are where the answers are to be put.
    check(unsafe { GetProcessTimes(process, &raw mut begun, &raw mut ended, &raw mut kernel, &raw mut user) })?;
    // In steps of 100 ns (FILETIME).
    let steps = |time: FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Ok(Duration::from_nanos((steps(kernel) + steps(user)).saturating_mul(100)))
}

/// The program that a process runs, by its path.
///
/// # Errors
/// What the system says: there is no such process, or this user may not ask.
pub fn program(pid: u32) -> io::Result<String> {
    let process = open(pid, PROCESS_QUERY_LIMITED_INFORMATION)?;
    let mut path = vec![0; PATH_UNITS_MAX];
    let mut units = PATH_UNITS_MAX as u32;
    // SAFETY: there is as much room as is said.
    check(unsafe {
        QueryFullProcessImageNameW(process.as_raw_handle(), PROCESS_NAME_WIN32, path.as_mut_ptr(), &raw mut units)
    })?;
    Ok(String::from_utf16_lossy(&path[..(units as usize).min(PATH_UNITS_MAX)]))
}

/// Whether a process has not ended yet. Of one that this user may not ask, as long as the system knows it.
pub fn lives(pid: u32) -> bool {
    match open(pid, PROCESS_SYNCHRONIZE) {
        // SAFETY: it is open.
        Ok(process) => unsafe { WaitForSingleObject(process.as_raw_handle(), 0) == WAIT_TIMEOUT },
        Err(error) => error.raw_os_error() == Some(ERROR_ACCESS_DENIED.cast_signed()),
    }
}

fn open(pid: u32, rights: PROCESS_ACCESS_RIGHTS) -> io::Result<OwnedHandle> {
    // SAFETY: it needs nothing.
    let process = unsafe { OpenProcess(rights, 0, pid) };
    check(i32::from(!process.is_null()))?;
    // SAFETY: it has just been opened, and belongs to nobody else.
    Ok(unsafe { OwnedHandle::from_raw_handle(process) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_plausible() {
        assert!((1 << 20..1 << 40).contains(&resident_bytes().unwrap()));
        // Wine says 0.
        open_handles().unwrap();
        let before = processor_time().unwrap();
        while processor_time().unwrap() == before {}
        let program = program(std::process::id()).unwrap();
        assert!(program.ends_with(".exe"), "{program}");
    }

    #[test]
    fn another_process_is_asked_by_its_number_while_it_lives() {
        let own = std::process::id();
        assert!(lives(own));
        assert!(processor_time_of(own).unwrap() >= Duration::ZERO);
        open_handles_of(own).unwrap();
        let nobody = u32::MAX - 7;
        assert!(!lives(nobody) && processor_time_of(nobody).is_err() && open_handles_of(nobody).is_err());
    }
}
