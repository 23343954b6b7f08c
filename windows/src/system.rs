//! What all calls have in common: errors, text, and memory that the system has allocated.

use std::io;
use std::ptr::NonNull;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::core::BOOL;

/// The error of the call that has just been made, if it has failed.
pub(crate) fn check(succeeded: BOOL) -> io::Result<()> {
    if succeeded == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The same, of a call that returns its error.
pub(crate) fn check_code(code: u32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.cast_signed())) }
}

/// A text as the system takes it.
pub(crate) fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// Memory from LocalAlloc, which whoever gets it has to free.
#[derive(Debug)]
pub(crate) struct Local<T>(NonNull<T>);

impl<T> Local<T> {
    /// # Safety
    /// It comes from LocalAlloc, is one that nobody else frees, or is null.
    pub(crate) unsafe fn new(memory: *mut T) -> io::Result<Local<T>> {
        NonNull::new(memory).map(Local).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl Local<u16> {
    /// The text that it is.
    ///
    /// # Safety
    /// It is one, and ends with a 0.
    pub(crate) unsafe fn text(&self) -> String {
        let start = self.as_ptr();
        // SAFETY: up to the 0 it is all text.
        let units = unsafe {
            let length = (0..).take_while(|at| *start.add(*at) != 0).count();
            std::slice::from_raw_parts(start, length)
        };
        String::from_utf16_lossy(units)
    }
}

impl<T> Drop for Local<T> {
    fn drop(&mut self) {
        // SAFETY: as `new` was promised.
        unsafe { LocalFree(self.as_ptr().cast()) };
    }
}
