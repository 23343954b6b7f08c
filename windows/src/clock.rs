//! The clock that all processes of the machine share.

use std::time::Duration;

use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};

/// The time since the machine started, the same in every process.
pub fn now() -> Duration {
    let (mut ticks, mut ticks_a_second) = (0, 0);
    // Neither fails since Windows XP, as Microsoft's documentation of both says.
    // SAFETY: these are where the answers are to be put.
    unsafe {
        QueryPerformanceCounter(&raw mut ticks);
        QueryPerformanceFrequency(&raw mut ticks_a_second);
    }
    let (ticks, ticks_a_second) = (ticks.max(0).cast_unsigned(), ticks_a_second.max(1).cast_unsigned());
    let nanoseconds = u128::from(ticks % ticks_a_second) * NANOSECONDS / u128::from(ticks_a_second);
    Duration::new(ticks / ticks_a_second, nanoseconds as u32)
}

const NANOSECONDS: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_as_fast_as_other_clocks() {
        let pause = Duration::from_millis(50);
        let before = now();
        std::thread::sleep(pause);
        assert!((pause / 2..pause * 100).contains(&(now() - before)), "{:?}", now() - before);
    }
}
