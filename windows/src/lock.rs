//! Locks: that of programs that agree on a name only one does something.

use std::io;
use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_ALREADY_EXISTS, GetLastError};
use windows_sys::Win32::System::Threading::CreateMutexW;

use crate::system::{check, wide};

/// A name that no other process has, until this is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    /// The system forgets the name when nobody has it open. It is no lock of a thread's: nobody ever waits for it.
    _mutex: OwnedHandle,
}

impl Lock {
    /// Takes a name for all sessions of this machine; `None`, if somebody has it.
    ///
    /// # Errors
    /// What the system says.
    pub fn take(name: &str) -> io::Result<Option<Lock>> {
        let name = wide(&format!(r"Global\{}", name.replace('\\', "/")));
        // SAFETY: the name ends with a 0.
        let (mutex, error) = unsafe { (CreateMutexW(ptr::null(), 0, name.as_ptr()), GetLastError()) };
        if mutex.is_null() && error == ERROR_ACCESS_DENIED {
            // It is somebody else's.
            return Ok(None);
        }
        check(i32::from(!mutex.is_null()))?;
        // SAFETY: it has just been opened, for this function alone.
        let mutex = unsafe { OwnedHandle::from_raw_handle(mutex) };
        Ok((error != ERROR_ALREADY_EXISTS).then_some(Lock { _mutex: mutex }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_had_once_at_a_time() {
        let name = format!(r"\\.\pipe\pipebus-lock-{}", std::process::id());
        let lock = Lock::take(&name).unwrap();
        assert!(lock.is_some() && Lock::take(&name).unwrap().is_none());
        drop(lock);
        assert!(Lock::take(&name).unwrap().is_some());
    }
}
