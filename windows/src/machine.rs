//! What the system says of this machine as a whole.

use std::io;
use std::mem::zeroed;
use std::ptr;

use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;
use windows_sys::Win32::System::ProcessStatus::{K32GetPerformanceInfo, PERFORMANCE_INFORMATION};

use crate::system::{check, wide};

/// What runs on it, and its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// How many processes there are.
    pub processes: u32,
    /// How many threads.
    pub threads: u32,
    /// So many bytes of the memory are free.
    pub free_bytes: u64,
    /// So many there are.
    pub all_bytes: u64,
}

/// What there is now.
///
/// # Errors
/// What the system says.
pub fn load() -> io::Result<Load> {
    // SAFETY: it is made of numbers.
    let mut found: PERFORMANCE_INFORMATION = unsafe { zeroed() };
    found.cb = size_of::<PERFORMANCE_INFORMATION>() as u32;
    // SAFETY: there is as much room as is said.
    check(unsafe { K32GetPerformanceInfo(&raw mut found, found.cb) })?;
    let bytes = |pages: usize| pages.saturating_mul(found.PageSize) as u64;
    Ok(Load {
        processes: found.ProcessCount,
        threads: found.ThreadCount,
        free_bytes: bytes(found.PhysicalAvailable),
        all_bytes: bytes(found.PhysicalTotal),
    })
}

/// How many bytes are free for this user on the disk of a directory, and how many there are.
///
/// # Errors
/// What the system says.
pub fn disk(directory: &str) -> io::Result<(u64, u64)> {
    let (mut free, mut all) = (0, 0);
    // SAFETY: the name ends with a 0; these are where the answers are to be put, and what is null is not asked.
    check(unsafe { GetDiskFreeSpaceExW(wide(directory).as_ptr(), &raw mut free, &raw mut all, ptr::null_mut()) })?;
    Ok((free, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_plausible() {
        let load = load().unwrap();
        assert!(load.processes > 0 && load.threads >= load.processes, "{load:?}");
        assert!(load.free_bytes > 0 && load.free_bytes < load.all_bytes, "{load:?}");
        let (free, all) = disk(r"C:\").unwrap();
        assert!(free > 0 && free <= all, "{free} of {all}");
        assert!(disk(r"C:\there\is\no\such\directory").is_err());
    }
}
