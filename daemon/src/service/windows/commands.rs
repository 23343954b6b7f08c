//! `pipebusd service`: the commands for who administers the machine.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use pipebus_windows::event_log;
use serde::Serialize;
use windows_service::Error;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl, ServiceExitCode,
    ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState, ServiceType,
};
use windows_service::service_manager::ServiceManagerAccess;

use super::supervisor::Supervisor;
use super::{NAME, manager, places};
use crate::service::{Failure, Program};

/// What people see in lists of services.
const DISPLAY_NAME: &str = "Pipebus";

const DESCRIPTION: &str = "The message bus of this machine: programs publish messages and subscribe to topics through a \
                           named pipe. Without it, programs that use the system bus can't talk to each other.";

/// After which times a broker that has failed is started again. After the last it is not, until it has run for long enough:
/// a wrong configuration does not get better by trying again.
const RESTARTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];
const RESTARTS_COUNT_FOR: Duration = Duration::from_secs(60 * 60);

/// How long the machine's shutdown may wait for it. It takes no longer than it needs.
const PRESHUTDOWN_TIMEOUT: Duration = Duration::from_secs(180);

/// What `status` ends with if the service does not run.
const NOT_RUNNING: u8 = 3;

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Action {
    /// Have the system bus served whenever the machine runs
    ///
    /// The other options hold for the service: --bus, --config, --set, --log and --log-format.
    Install {
        /// Whom it runs as: LocalSystem, or NT SERVICE\pipebusd, which is an account of its own
        #[arg(long, value_name = "ACCOUNT", default_value = "LocalSystem")]
        account: String,
    },
    /// Stop the service, and remove it; configuration and logs stay
    Uninstall,
    /// Start the service, and wait until it runs
    Start,
    /// Stop the service, and wait until it has ended
    Stop,
    /// Tell whether the service runs
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Be the service, which is for the service control manager to say
    #[command(hide = true)]
    Run,
}

impl Action {
    /// Does it, but for [`Action::Run`], which is not done for anybody at a console.
    pub(super) fn perform(&self, program: &impl Program) -> Result<ExitCode, Failure> {
        match self {
            Action::Install { account } => install(program, account),
            Action::Uninstall => uninstall(),
            Action::Start => {
                let service =
                    manager::service("start the service", ServiceAccess::START | ServiceAccess::QUERY_STATUS)?;
                let status = manager::start(&service)?;
                say(&status.process_id.map_or_else(|| "running\n".to_owned(), |pid| format!("running, pid {pid}\n")))
            }
            Action::Stop => {
                manager::stop(&manager::service(
                    "stop the service",
                    ServiceAccess::STOP | ServiceAccess::QUERY_STATUS,
                )?)?;
                say("stopped\n")
            }
            Action::Status { json } => status(*json),
            Action::Run => Err(manager::failed("the service manager runs this, and nobody else".to_owned())),
        }
    }
}

fn install(program: &impl Program, account: &str) -> Result<ExitCode, Failure> {
    let account = account_name(account)?;
    program.check(&Supervisor::of_service(Arc::default()))?;
    let doing = "install the service";
    let executable = std::env::current_exe().map_err(|error| manager::failed(format!("cannot {doing}: {error}")))?;
    let program_files = [Some(executable.clone()), program.configuration()].into_iter().flatten();
    let mut launch_arguments: Vec<OsString> = vec!["service".into(), "run".into()];
    launch_arguments.extend(program.options());
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: DISPLAY_NAME.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: executable,
        launch_arguments,
        dependencies: Vec::new(),
        account_name: account.clone().map(OsString::from),
        account_password: None,
    };
    let access_to_service = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START | ServiceAccess::DELETE;
    let service = manager::manager(doing, access)?
        .create_service(&info, access_to_service)
        .map_err(|error| manager::failure(doing, &error))?;
    let prepared = configure(&service)
        .map_err(|error| manager::failure(doing, &error))
        // After it is there, since it may have an account of its own.
        .and_then(|()| {
            prepare(account.as_deref()).map_err(|error| manager::failed(format!("cannot {doing}: {error}")))
        });
    if let Err(failure) = prepared {
        let _ = service.delete();
        return Err(failure);
    }
    for file in program_files {
        warn_of_change(&file);
    }
    let directory = places::system_directory();
    say(&format!(
        "installed; its configuration is in {}, its log in {}; `pipebusd service start` starts it\n",
        directory.display(),
        places::log_file().display(),
    ))
}

/// Whoever may change what a service runs, or obeys, can do whatever the service may.
fn warn_of_change(file: &Path) {
    let whom = match places::changed_by(file) {
        Ok(None) => return,
        Ok(Some(who)) => who,
        Err(error) => format!("it can't be told who ({error})"),
    };
    let file = file.display();
    eprintln!("pipebusd: not only administrators may change {file}: {whom}; install from where only they may");
}

/// The account as the service control manager wants it; `None` for the system itself.
fn account_name(account: &str) -> Result<Option<String>, Failure> {
    let is = |name: &str| account.eq_ignore_ascii_case(name);
    if is("LocalSystem") {
        return Ok(None);
    }
    let shared = ["LocalService", "NetworkService", "Local Service", "Network Service"];
    if shared.iter().any(|short| is(short) || is(&format!(r"NT AUTHORITY\{short}"))) {
        return Err(Failure {
            exit_code: 2,
            text: format!(
                r"many services are {account}, each of which could pretend to be the broker; say --account NT SERVICE\{NAME}, which is an account of its own"
            ),
            is_logged: false,
        });
    }
    if is(r"NT AUTHORITY\SYSTEM") {
        return Ok(None);
    }
    // Those that Windows makes for one service.
    if account.to_ascii_uppercase().starts_with(r"NT SERVICE\") {
        return Ok(Some(account.to_owned()));
    }
    Err(Failure {
        exit_code: 2,
        text: format!(
            r"the pipe would be {account}'s, whom no other account's clients trust; say --account NT SERVICE\{NAME}, or leave it out"
        ),
        is_logged: false,
    })
}

fn configure(service: &Service) -> Result<(), Error> {
    service.set_description(DESCRIPTION)?;
    let restart = |delay| ServiceAction { action_type: ServiceActionType::Restart, delay };
    let give_up = ServiceAction { action_type: ServiceActionType::None, delay: Duration::ZERO };
    service.update_failure_actions(ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(RESTARTS_COUNT_FOR),
        reboot_msg: None,
        command: None,
        actions: Some(RESTARTS.into_iter().map(restart).chain([give_up]).collect()),
    })?;
    match service.set_failure_actions_on_non_crash_failures(true) {
        // Windows can since Vista; what stands for it elsewhere may not.
        Err(error) if manager::is_unknown_setting(&error) => {
            eprintln!(
                "pipebusd: this system starts the service again only after a crash, and not when it ends with an error"
            );
        }
        set => set?,
    }
    service.set_preshutdown_timeout(PRESHUTDOWN_TIMEOUT)
}

fn prepare(account: Option<&str>) -> io::Result<()> {
    places::prepare(account)?;
    event_log::register(NAME)
}

fn uninstall() -> Result<ExitCode, Failure> {
    let doing = "uninstall the service";
    let access = ServiceAccess::STOP | ServiceAccess::QUERY_STATUS | ServiceAccess::DELETE;
    let service = manager::service(doing, access)?;
    manager::stop(&service)?;
    service.delete().map_err(|error| manager::failure(doing, &error))?;
    event_log::unregister(NAME).map_err(|error| manager::failed(format!("cannot {doing}: {error}")))?;
    say(&format!("uninstalled; what is in {} stays\n", places::system_directory().display()))
}

/// What is told of the service.
#[derive(Serialize)]
struct Status {
    service: &'static str,
    /// In a word.
    state: &'static str,
    /// While it runs.
    pid: Option<u32>,
    /// What it ended with the last time, if it does not run.
    exit_code: Option<u32>,
    /// The same in words.
    ended: Option<String>,
    account: Option<String>,
    command: Option<String>,
}

fn status(json: bool) -> Result<ExitCode, Failure> {
    let doing = "look at the service";
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG;
    let status = match manager::service_if_any(doing, access)? {
        Some(service) => Status::of(&service).map_err(|error| manager::failure(doing, &error))?,
        None => Status::of_none(),
    };
    let text = if json { status.to_json() } else { status.to_text() };
    say(&text)?;
    Ok(if status.pid.is_some() { ExitCode::SUCCESS } else { ExitCode::from(NOT_RUNNING) })
}

impl Status {
    fn of(service: &Service) -> Result<Status, Error> {
        let (now, config) = (service.query_status()?, service.query_config()?);
        let has_ended = now.current_state == ServiceState::Stopped;
        let exit_code: Option<&ServiceExitCode> = Some(&now.exit_code).filter(|_| has_ended);
        Ok(Status {
            service: NAME,
            state: manager::state_word(now.current_state),
            pid: now.process_id,
            exit_code: exit_code.and_then(manager::exit_number),
            ended: exit_code.map(manager::words),
            account: config.account_name.map(|name| name.to_string_lossy().into_owned()),
            command: Some(config.executable_path.display().to_string()),
        })
    }

    fn of_none() -> Status {
        let state = "not installed";
        Status { service: NAME, state, pid: None, exit_code: None, ended: None, account: None, command: None }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).map(|json| json + "\n").unwrap_or_default()
    }

    fn to_text(&self) -> String {
        let exit_code = self.exit_code.map_or_else(String::new, |code| format!(" ({code})"));
        let rows = [
            ("state", Some(self.state.to_owned())),
            ("pid", self.pid.map(|pid| pid.to_string())),
            ("last end", self.ended.as_ref().map(|words| format!("{words}{exit_code}"))),
            ("account", self.account.clone()),
            ("command", self.command.clone()),
        ];
        let known = rows.into_iter().filter_map(|(name, value)| Some((name, value?)));
        known.map(|(name, value)| format!("{name:<9} {value}\n")).collect()
    }
}

fn say(text: &str) -> Result<ExitCode, Failure> {
    let said = io::stdout().write_all(text.as_bytes());
    said.map(|()| ExitCode::SUCCESS).map_err(|error| manager::failed(format!("cannot write the answer: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_without_a_password_are_taken() {
        let check = |account: &str, expected: Option<&str>| {
            assert_eq!(account_name(account).unwrap().as_deref(), expected);
        };
        check("localsystem", None);
        check(r"NT SERVICE\pipebusd", Some(r"NT SERVICE\pipebusd"));
        for shared in ["LocalService", r"NT AUTHORITY\NETWORK SERVICE"] {
            let failure = account_name(shared).unwrap_err();
            assert!(failure.exit_code == 2 && failure.text.contains(r"NT SERVICE\pipebusd"), "{failure:?}");
        }
        for other in [r"CORP\ann", r"CORP\bus$"] {
            let failure = account_name(other).unwrap_err();
            assert!(failure.exit_code == 2 && failure.text.contains("clients trust"), "{failure:?}");
        }
    }

    #[test]
    fn a_status_says_only_what_is_known() {
        assert_eq!(Status::of_none().to_text(), "state     not installed\n");
        let ended = Status { state: "stopped", exit_code: Some(2), ended: Some("failed".into()), ..Status::of_none() };
        assert_eq!(ended.to_text(), "state     stopped\nlast end  failed (2)\n");
        let json: serde_json::Value = serde_json::from_str(&ended.to_json()).unwrap();
        assert_eq!((json["exit_code"].as_u64(), json["pid"].is_null()), (Some(2), true));
    }
}
