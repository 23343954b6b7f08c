//! Screen: a real terminal for programs that draw on one, by tmux.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{command, wait_for};

/// What the shell on a screen says when it waits for a command.
const PROMPT: &str = "ready>";

/// A terminal with a shell on it. Dropped, both are gone.
#[derive(Debug)]
pub struct Screen {
    folder: tempfile::TempDir,
}

impl Screen {
    /// Whether there can be one; says so where it can't.
    pub fn is_possible() -> bool {
        let found = Command::new("tmux").arg("-V").stdout(Stdio::null()).status();
        let possible = found.is_ok_and(|status| status.success());
        if !possible {
            eprintln!("skipped: there is no tmux");
        }
        possible
    }

    /// A terminal of this size.
    pub fn new(width: u16, height: u16) -> Screen {
        let screen = Screen { folder: tempfile::tempdir().unwrap() };
        let (width, height) = (width.to_string(), height.to_string());
        let prompt = format!("PS1={PROMPT} ");
        let shell = ["bash", "--norc", "--noprofile"];
        let session = ["new-session", "-d", "-x", &width, "-y", &height, "-e", &prompt];
        // Each word on its own, so that no shell comes between, which would take the prompt away.
        screen.tmux(&[&session[..], &shell].concat());
        screen.wait("the prompt", |shown| shown.contains(PROMPT).then_some(()));
        screen
    }

    /// Runs a command of tmux, and returns what it says.
    fn tmux(&self, arguments: &[&str]) -> String {
        // Its server passes on what it was started with: nothing that the programs would heed.
        let mut tmux = command("pipebus");
        let surroundings: Vec<_> = tmux.get_envs().map(|(name, _)| name.to_owned()).collect();
        tmux = Command::new("tmux");
        for name in
            surroundings.iter().map(std::ffi::OsString::as_os_str).chain(["TMUX", "NO_COLOR"].map(AsRef::as_ref))
        {
            tmux.env_remove(name);
        }
        // A terminal is UTF-8 by its locale, which a machine need not have set.
        tmux.env("LC_ALL", "C.UTF-8").args(["-u", "-f", "/dev/null", "-S"]).arg(self.socket()).args(arguments);
        let output = tmux.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("tmux")
    }

    /// Presses keys, by the names that tmux has for them.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Lets the shell run a command, which may go on for as long as it likes.
    pub fn run(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    /// What is seen, line by line.
    pub fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// What is seen with the sequences for colours.
    pub fn coloured(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until what is seen gives something.
    pub fn wait<T>(&self, what: &str, mut condition: impl FnMut(&str) -> Option<T>) -> T {
        let mut shown = String::new();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, || {
                shown = self.shown();
                condition(&shown)
            })
        }));
        seen.unwrap_or_else(|panic| {
            eprintln!("--- the screen ---\n{shown}");
            std::panic::resume_unwind(panic)
        })
    }

    /// Waits until this text is seen.
    pub fn wait_for_text(&self, text: &str) {
        self.wait(text, |shown| shown.contains(text).then_some(()));
    }

    /// Waits until the shell waits for a command.
    pub fn wait_for_prompt(&self) {
        self.wait("the prompt", |shown| shown.trim_end().ends_with(PROMPT).then_some(()));
    }

    /// Changes its size.
    pub fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// Whether a program has taken all of the screen, and whether the cursor is seen.
    pub fn is_taken(&self) -> (bool, bool) {
        let said = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        (said.starts_with('1'), said.trim_end().ends_with('1'))
    }

    /// The process ids of the programs on it, that of the shell first.
    pub fn processes(&self) -> Vec<i32> {
        let shell: i32 = self.tmux(&["display-message", "-p", "#{pane_pid}"]).trim().parse().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap_or_default();
        std::iter::once(shell).chain(children.split_whitespace().map(|pid| pid.parse().unwrap())).collect()
    }

    /// How the terminal is set, as the shell finds it.
    pub fn settings(&self) -> String {
        let file = self.folder.path().join("settings");
        let _ = std::fs::remove_file(&file);
        self.run(&format!("stty -a > {0}.new && mv {0}.new {0}", file.display()));
        wait_for("the settings", || std::fs::read_to_string(&file).ok())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(self.socket()).arg("kill-server").output();
    }
}
