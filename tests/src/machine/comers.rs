//! Clients that come and go all the time, while something happens to the broker.

use std::io::Read;
use std::process::Stdio;

use super::User;
use crate::Process;

/// Clients that come and go at the same time.
const COMERS: usize = 4;

/// Comes, publishes, waits until the broker has passed it on, and leaves, until a file is there; says how often.
const COME_AND_GO: &str = r#"
count=0
until [ -e "$0" ]; do
    pipebus --bus system pub comes/and/goes "$count" || exit
    count=$((count + 1))
done
echo "$count"
"#;

const ENOUGH: &str = "/tmp/enough";

/// Clients that come and go until told that it is enough. Each that was not let in ends its process with a failure.
pub struct Comers<'machine> {
    user: User<'machine>,
    processes: Vec<Process>,
}

impl<'machine> Comers<'machine> {
    /// Starts them.
    pub fn start(user: User<'machine>) -> Comers<'machine> {
        let come = |_| {
            let mut come = user.command(&["sh", "-c", COME_AND_GO, ENOUGH]);
            Process::start(come.stdout(Stdio::piped()).stderr(Stdio::piped()))
        };
        Comers { user, processes: (0..COMERS).map(come).collect() }
    }

    /// Tells them, and that none was turned away.
    pub fn all_were_let_in(self) {
        self.user.machine.run(&["touch", ENOUGH]);
        for mut process in self.processes {
            let status = process.wait();
            let (mut count, mut errors) = (String::new(), String::new());
            process.0.stdout.take().unwrap().read_to_string(&mut count).unwrap();
            process.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            assert!(status.success(), "{status} after {count:?}: {errors}");
            assert!(count.trim().parse::<u32>().unwrap() > 0);
        }
    }
}
