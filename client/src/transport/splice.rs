//! Lending pages to a pipe, where the system can: vmsplice(2) of Linux.

use std::io;

use super::Writer;

/// Puts the pages of `slices` into the pipe, as far as there is room for them, without a copy: what is written to them
/// later is what a reader sees.
///
/// # Errors
/// Nobody reads the pipe any more; or anything else, if the system can't do it, and then nothing has been done.
///
/// # Cancel safety
/// Nothing is in the pipe unless it returns.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) async fn lend(pipe: &Writer, slices: &[&[u8]]) -> io::Result<usize> {
    use rustix::pipe::{IoSliceRaw, SpliceFlags, vmsplice};

    loop {
        pipe.writable().await?;
        #[expect(unsafe_code, reason = "no library has a safe call for it")]
        let lent = pipe.try_io(|| {
            let slices: Vec<_> = slices.iter().map(|slice| IoSliceRaw::from_slice(slice)).collect();
            // SAFETY: `pipe` was opened for writing, so the kernel reads the slices and writes nothing to them; and
            // they are not given to it for good, which would be GIFT.
            Ok(unsafe { vmsplice(pipe, &slices, SpliceFlags::NONBLOCK) }?)
        });
        match lent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            lent => return lent,
        }
    }
}

/// As on Linux, but nothing can be lent.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) async fn lend(_pipe: &Writer, _slices: &[&[u8]]) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}
