//! Clock: one time for all processes of a run, and how long each of them has been on a processor.

use std::time::Duration;

use crate::system::clock::now;
use crate::system::process;

/// Sleeps until then; not at all if that is past.
pub(crate) async fn sleep_until(then: Duration) {
    tokio::time::sleep(then.saturating_sub(now())).await;
}

/// How long all threads of these processes together have been on a processor; `None` if one can't be asked, as when it
/// has ended.
pub(crate) fn processor_time(processes: impl IntoIterator<Item = u32>) -> Option<Duration> {
    processes.into_iter().map(process::processor_time).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_its_processor() {
        let own = || processor_time([std::process::id()]).unwrap();
        let before = own();
        while own() - before < Duration::from_millis(1) {}
        assert_eq!(processor_time([std::process::id(), u32::MAX]), None);
    }
}
