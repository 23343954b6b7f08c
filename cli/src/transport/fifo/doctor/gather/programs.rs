//! What other programs tell: systemctl of the units, pipebusd of the configuration.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::stage::find_pipebusd;
use crate::transport::fifo::doctor::facts::{Configuration, Manager, Unit};
use crate::transport::fifo::processes::Process;
use crate::transport::fifo::survey::BROKER;

/// How long a program may take.
const PROGRAM_WAIT: Duration = Duration::from_secs(5);

/// There is this directory where systemd is the system's manager (sd_booted(3)).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// The system bus's configuration, unless the broker says otherwise.
const SYSTEM_CONFIGURATION: &str = "/etc/pipebus/system.toml";

/// What systemd knows of the units of a bus; none where it does not run.
pub(super) async fn units(manager: Manager) -> Vec<Unit> {
    if !Path::new(SYSTEMD_RUNS).is_dir() {
        return Vec::new();
    }
    let mut words = manager.systemctl().split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).args(["show", "--no-pager", "--property=Id,LoadState,ActiveState,UnitFileState,Result"]);
    command.args(["pipebusd.socket", "pipebusd.service"]);
    let shown = run(&mut command).await.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    shown.map(|text| parse_units(&text)).unwrap_or_default()
}

/// Blocks of `Key=value`, one for each unit, with an empty line between.
fn parse_units(text: &str) -> Vec<Unit> {
    let unit = |block: &str| {
        let value = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        Unit {
            name: value("Id"),
            is_loaded: value("LoadState") == "loaded",
            active: value("ActiveState"),
            file: value("UnitFileState"),
            result: value("Result"),
        }
    };
    text.split("\n\n").map(unit).filter(|unit| !unit.name.is_empty()).collect()
}

/// Whether the configuration is valid that the broker was started with, or would be.
pub(super) async fn configuration(is_system: bool, broker: Option<u32>) -> Configuration {
    let broker = broker.and_then(Process::of).filter(is_trusted);
    let (file, settings) = match broker {
        Some(broker) => told(&broker.arguments(), broker.working_directory().as_deref()),
        None => (Some(PathBuf::from(SYSTEM_CONFIGURATION)).filter(|file| is_system && file.exists()), Vec::new()),
    };
    let program = std::env::current_exe().map_err(|error| error.to_string());
    let program = program.and_then(|own| find_pipebusd(&own).map_err(|error| error.to_string()));
    let checked = match program {
        Ok(program) => {
            let mut command = Command::new(program);
            command.arg("--check-config");
            command.args(file.iter().map(|file| joined("--config", file.as_os_str())));
            run(command.args(settings.iter().map(|setting| joined("--set", setting)))).await
        }
        Err(why) => return Configuration::Unchecked(why),
    };
    match checked {
        Ok(output) if output.status.success() => Configuration::Valid { file },
        Ok(output) => {
            let says = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let says = says.strip_prefix(BROKER).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&says).to_owned();
            Configuration::Invalid { file, says }
        }
        Err(why) => Configuration::Unchecked(why),
    }
}

/// Whether what a process says may be read for this user: root does not read files that others name.
fn is_trusted(process: &Process) -> bool {
    process.uid().is_some_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw())
}

/// What a broker's arguments say about its configuration, but for the bus and the log: the file, and single keys.
fn told(arguments: &[OsString], working_directory: Option<&Path>) -> (Option<PathBuf>, Vec<OsString>) {
    let (mut files, mut settings) = (Vec::new(), Vec::new());
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        for (key, values) in [("--config", &mut files), ("--set", &mut settings)] {
            let joined = argument.as_bytes().strip_prefix(key.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            match joined {
                Some(value) => values.push(OsString::from_vec(value.to_owned())),
                None if argument == key => values.extend(arguments.next().cloned()),
                None => {}
            }
        }
    }
    let file = files.pop().map(|file| working_directory.unwrap_or(Path::new("")).join(file));
    (file, settings)
}

/// As one word, so that no value is taken for another option.
fn joined(key: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(key);
    word.push("=");
    word.push(value);
    word
}

async fn run(command: &mut Command) -> Result<Output, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let name = command.as_std().get_program().to_owned();
    let name = Path::new(&name).file_name().unwrap_or(OsStr::new("a program")).to_string_lossy().into_owned();
    match tokio::time::timeout(PROGRAM_WAIT, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(format!("cannot start {name}: {error}")),
        Err(_) => Err(format!("{name} took longer than {} s", PROGRAM_WAIT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_from_what_systemctl_shows() {
        let text = "Id=pipebusd.socket\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nResult=success\n\n\
                    Result=exit-code\nId=pipebusd.service\nLoadState=not-found\nActiveState=failed\nUnitFileState=\n";
        let unit = |name: &str, is_loaded, active: &str, file: &str, result: &str| Unit {
            name: name.into(),
            is_loaded,
            active: active.into(),
            file: file.into(),
            result: result.into(),
        };
        let expected = [
            unit("pipebusd.socket", true, "active", "enabled", "success"),
            unit("pipebusd.service", false, "failed", "", "exit-code"),
        ];
        assert_eq!(parse_units(text), expected);
        assert_eq!(parse_units(""), []);
    }

    #[test]
    fn of_a_brokers_arguments_only_its_configuration_is_repeated() {
        let check = |words: &[&str], file: Option<&str>, settings: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let (told_file, told_settings) = told(&words, Some(Path::new("/srv")));
            assert_eq!(
                (told_file, told_settings),
                (file.map(PathBuf::from), settings.iter().map(OsString::from).collect())
            );
        };
        check(&["pipebusd"], None, &[]);
        check(&["pipebusd", "--bus", "system", "--config", "/a b", "--set=x.y=1"], Some("/a b"), &["x.y=1"]);
        check(&["pipebusd", "--set", "--print-config", "--config=c.toml"], Some("/srv/c.toml"), &["--print-config"]);
        check(&["pipebusd", "--config"], None, &[]);
    }

    #[test]
    fn a_value_is_never_taken_for_an_option() {
        assert_eq!(joined("--set", OsStr::new("--print-config")), "--set=--print-config");
    }
}
