//! Jobs: that the programs which this process starts end with it.

use std::io;
use std::mem::{forget, zeroed};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JobObjectExtendedLimitInformation, SetInformationJobObject,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use crate::system::check;

/// From now on, what this process starts, and what that starts, is killed when this process ends, however that comes. To be
/// called once.
///
/// # Errors
/// What the system says.
pub fn tie_children() -> io::Result<()> {
    // SAFETY: it has no attributes and no name.
    let job = unsafe { CreateJobObjectW(ptr::null(), ptr::null()) };
    check(i32::from(!job.is_null()))?;
    // SAFETY: it has just been made, for this function alone.
    let job = unsafe { OwnedHandle::from_raw_handle(job) };
    // SAFETY: it is made of numbers.
    let mut limits: JOBOBJECT_EXTENDED_LIMIT_INFORMATION = unsafe { zeroed() };
    limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
    // SAFETY: there is as much as is said.
    check(unsafe {
        SetInformationJobObject(
            job.as_raw_handle(),
            JobObjectExtendedLimitInformation,
            (&raw const limits).cast(),
            size_of::<JOBOBJECT_EXTENDED_LIMIT_INFORMATION>() as u32,
        )
    })?;
    // This process itself, so that children are in the job from the first moment.
    // SAFETY: the job is open.
    check(unsafe { AssignProcessToJobObject(job.as_raw_handle(), GetCurrentProcess()) })?;
    // The system closes it when this process ends; before, that would end this process, too.
    forget(job);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use crate::process;

    /// Set where this test runs itself again, as the parent that is killed or as the child.
    const PART: &str = "PIPEBUS_WINDOWS_JOB_TEST";

    fn again(part: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(PART, part).args(["--exact", "--nocapture", "job::tests::children_of_one_that_is_killed_end"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "this is how the part tells its child's number")]
    #[expect(clippy::disallowed_methods, reason = "there is no clock to pause")]
    fn children_of_one_that_is_killed_end() {
        match std::env::var(PART).as_deref() {
            Ok("parent") => {
                tie_children().unwrap();
                let mut child = again("child").spawn().unwrap();
                println!("\nchild {}", child.id());
                child.wait().unwrap();
                return;
            }
            Ok(_) => return std::thread::sleep(Duration::from_secs(60)),
            Err(_) => {}
        }
        let mut parent = again("parent").spawn().unwrap();
        let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
        let child = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("child ")?.parse().ok()).unwrap();
        assert!(process::lives(child));
        parent.kill().unwrap();
        parent.wait().unwrap();
        let begun = Instant::now();
        while process::lives(child) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it has not ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
