//! Completion in the real shells, each at a terminal of its own, of what is on a real bus.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use pipebus_client::{Client, Subscription};
use pipebus_tests::machine::{has, run, succeed};
use pipebus_tests::{Process, TestBus, binary, command, wait_for};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A topic that no shell takes as it is.
const ODD: &str = r#"odd/it's $HOME; `id` "x" \ #1"#;

/// What a shell says when it listens.
const PROMPT: &str = "listens> ";

/// To the beginning of the line.
const TO_BEGINNING: &str = "\x01";

/// A shell, and how it is told to read the scripts `$0` and `$1`, and to say when it listens.
#[derive(Clone, Copy)]
struct Shell {
    name: &'static str,
    arguments: &'static [&'static str],
    prepare: &'static str,
}

const BASH: Shell = Shell {
    name: "bash",
    arguments: &["--norc", "--noprofile", "-i"],
    prepare: "source $0; source $1; PS1='listens'\\>\\ ",
};

const ZSH: Shell = Shell {
    name: "zsh",
    arguments: &["-f", "-i"],
    prepare: "autoload -U compinit; compinit -D; bindkey -e; unsetopt promptsp; source $0; source $1; PS1='listens'\\>\\ ",
};

/// As with packages: zsh finds the scripts by their names.
const ZSH_WITH_FPATH: Shell = Shell {
    prepare: "fpath=(${0%/*} $fpath); autoload -U compinit; compinit -D -u; bindkey -e; unsetopt promptsp; \
        PS1='listens'\\>\\ ",
    ..ZSH
};

const FISH: Shell = Shell {
    name: "fish",
    arguments: &["--no-config", "-i"],
    prepare: "source $0; source $1; function fish_prompt; echo -n 'listens'\\>\\ ; end",
};

/// A bus with topics and a pattern.
struct Inhabited {
    bus: TestBus,
    _publisher: Client,
    _subscription: Subscription,
}

impl Inhabited {
    async fn start(topics: &[&str], pattern: &str) -> Inhabited {
        let bus = TestBus::start();
        let publisher = bus.client().await;
        for topic in topics {
            publisher.publish(topic, "x").await.unwrap();
        }
        publisher.flush().await.unwrap();
        let subscription = bus.client().await.subscribe(pattern).await.unwrap();
        Inhabited { bus, _publisher: publisher, _subscription: subscription }
    }
}

/// A shell that believes that somebody is typing.
struct Terminal {
    shell: Shell,
    keys: File,
    _process: Process,
}

impl Terminal {
    /// `None` if there is no such shell here.
    fn open(shell: Shell, bus: &TestBus) -> Option<Terminal> {
        if !has(&[shell.name, "setsid"]) {
            return None;
        }
        let (keys, screen) = pseudo_terminal();
        let mut process = Command::new("setsid");
        process.args(["--ctty", "--wait", shell.name]).args(shell.arguments);
        process.env_clear().envs([("TERM", "dumb"), ("LC_ALL", "C.UTF-8"), ("HOME", "/")]);
        process.env("PATH", path()).env("PIPEBUS_BUS", bus.address());
        let screens = [(); 2].map(|()| Stdio::from(screen.try_clone().unwrap()));
        let [output, errors] = screens;
        process.stdin(screen).stdout(output).stderr(errors);
        let mut terminal = Terminal { shell, keys, _process: Process::start(&mut process) };
        let scripts = ["pipebus", "pipebusd"].map(|program| write_script(program, shell.name, bus));
        terminal.type_in(
            &shell
                .prepare
                .replace("${0%/*}", &bus.scratch().display().to_string())
                .replace("$0", &scripts[0])
                .replace("$1", &scripts[1]),
        );
        terminal.type_in("\n");
        terminal.wait_for("");
        Some(terminal)
    }

    fn type_in(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, and then the prompt. Returns what is on the screen.
    fn wait_for(&mut self, expected: &str) -> String {
        let mut screen = Screen { shell: self.shell.name, text: String::new() };
        let mut seen = Vec::new();
        wait_for(&format!("{} to show {expected:?}", self.shell.name), || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = self.keys.read(&mut bytes) {
                seen.extend_from_slice(&bytes[..count]);
            }
            screen.text = String::from_utf8_lossy(&seen).into_owned();
            let (_, after) = screen.text.split_once(expected)?;
            after.contains(PROMPT).then_some(())
        });
        std::mem::take(&mut screen.text)
    }

    /// Types the beginning of a command, and a tab. The shell then shows which words it would run.
    fn check(&mut self, typed: &str, expected: &[&str]) {
        self.type_in(&format!("{typed}\t{TO_BEGINNING}printf '<%s>\\n' \n"));
        let words: String = expected.iter().map(|word| format!("<{word}>\r\n")).collect();
        let seen = self.wait_for(&words);
        assert!(!seen.contains("broker"), "{} at {typed:?}: {seen}", self.shell.name);
    }
}

/// Shown if the story ends badly.
struct Screen {
    shell: &'static str,
    text: String,
}

impl Drop for Screen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the screen of {} ---\n{}", self.shell, self.text);
        }
    }
}

/// Both ends: where keys are pressed and the screen is seen, and what the shell gets.
fn pseudo_terminal() -> (File, File) {
    let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&keys).unwrap();
    unlockpt(&keys).unwrap();
    // So wide that no shell breaks a line.
    tcsetwinsize(&keys, Winsize { ws_row: 50, ws_col: 1000, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    rustix::io::ioctl_fionbio(&keys, true).unwrap();
    let name = ptsname(&keys, Vec::new()).unwrap();
    let screen =
        pipebus_tests::open(name.to_str().unwrap().as_ref(), rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY)
            .unwrap();
    rustix::io::ioctl_fionbio(&screen, false).unwrap();
    (keys.into(), screen.into())
}

fn path() -> OsString {
    let programs = binary("pipebus").parent().unwrap().to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&others))).unwrap()
}

fn script(program: &str, shell: &str) -> Vec<u8> {
    let print = if program == "pipebus" { "completions" } else { "--completions" };
    let output = run(command(program).args([print, shell]));
    succeed(&output);
    output.stdout
}

fn write_script(program: &str, shell: &str, bus: &TestBus) -> String {
    let path = bus.scratch().join(format!("_{program}"));
    fs::write(&path, script(program, shell)).unwrap();
    path.display().to_string()
}

async fn complete_in(shell: Shell) {
    let inhabited = Inhabited::start(&["sensors/kitchen/temp", ODD], "alarms/*/high").await;
    let other = Inhabited::start(&["elsewhere/only"], "x").await;
    let Some(mut terminal) = Terminal::open(shell, &inhabited.bus) else { return };
    terminal.check("pipebus stat", &["pipebus", "status"]);
    terminal.check("pipebus sub a --over", &["pipebus", "sub", "a", "--overflow"]);
    terminal.check("pipebus sub a --overflow drop-o", &["pipebus", "sub", "a", "--overflow", "drop-oldest"]);
    // What is on the bus of the environment.
    terminal.check("pipebus pub sens", &["pipebus", "pub", "sensors/kitchen/temp"]);
    terminal.check("pipebus sub 'sens", &["pipebus", "sub", "sensors/kitchen/temp"]);
    terminal.check("pipebus sub alarms/", &["pipebus", "sub", "alarms/*/high"]);
    // A pattern is no topic.
    terminal.check("pipebus pub alarms/", &["pipebus", "pub", "alarms/"]);
    terminal.check("pipebus pub od", &["pipebus", "pub", ODD]);
    terminal.check("pipebus sub alarms/x od", &["pipebus", "sub", "alarms/x", ODD]);
    // What is on the bus of the line.
    let address = other.bus.address();
    terminal.check(&format!("pipebus --bus {address} pub e"), &["pipebus", "--bus", &address, "pub", "elsewhere/only"]);
    terminal
        .check(&format!("pipebus pub --bus '{address}' e"), &["pipebus", "pub", "--bus", &address, "elsewhere/only"]);
    let named = format!("--bus={address}");
    terminal.check(&format!("pipebus {named} pub e"), &["pipebus", &named, "pub", "elsewhere/only"]);
    let directory = format!("--bus={}/", other.bus.scratch().join("bus").display());
    terminal.check(&format!("pipebus --bus={}/bu", other.bus.scratch().display()), &["pipebus", &directory]);
    // Nobody answers, and nobody is told.
    terminal.check("pipebus --bus /nowhere/x pub sens", &["pipebus", "--bus", "/nowhere/x", "pub", "sens"]);
    terminal.check("pipebus --bus nonsense pub sens", &["pipebus", "--bus", "nonsense", "pub", "sens"]);
    terminal.check("pipebusd --log-f", &["pipebusd", "--log-format"]);
    terminal.check("pipebusd --log-format jour", &["pipebusd", "--log-format", "journald"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_what_is_on_the_bus() {
    complete_in(BASH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zsh_completes_what_is_on_the_bus() {
    complete_in(ZSH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zsh_finds_the_scripts_by_their_names() {
    complete_in(ZSH_WITH_FPATH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fish_completes_what_is_on_the_bus() {
    complete_in(FISH).await;
}

#[tokio::test]
async fn instances_are_completed_with_who_they_are_and_the_one_that_asks_is_none_of_them() {
    let bus = TestBus::start();
    let client = bus.named_client("thermometer").await;
    let mut complete = bus.cli(&["complete", "--", "pipebus"]);
    let output = run(complete.args(["--bus", &bus.address(), "disconnect", ""]));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.starts_with("1\tthermometer of "), "{told}");
    drop(client);
}
