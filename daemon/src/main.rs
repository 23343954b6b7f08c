//! `pipebusd`: arguments, the log, signals and whoever supervises it around [`pipebusd::Daemon`].

mod log;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use pipebus_manual::write_settings_page;
use pipebusd::config::{self, Config, Sources};
use pipebusd::service::{self, Failure, Program, Reloads, Supervisor};
use pipebusd::transport::{BindError, check_door, inherited_door, raise_open_files};
use pipebusd::{Daemon, Host, Reloader, rules};
use tracing::{error, info};

/// The broker of pipebus: a message bus whose only door is a named pipe.
#[derive(Debug, Parser)]
#[command(version, long_about = service::ABOUT, after_help = service::EXAMPLES)]
struct Arguments {
    #[arg(long, value_name = "ADDRESS", global = true, help = service::BUS_HELP)]
    bus: Option<String>,
    #[arg(long, value_name = "FILE", global = true, help = service::CONFIG_HELP)]
    config: Option<PathBuf>,
    /// Set one key, such as queue.bytes_max=1048576; may be repeated
    #[arg(long, value_name = "KEY=VALUE", global = true, value_parser = key_value)]
    set: Vec<(String, String)>,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "FILTER", global = true)]
    log: Option<String>,
    #[arg(long, value_name = "FORMAT", global = true, value_parser = service::LOG_FORMATS, help = service::LOG_FORMAT_HELP)]
    log_format: Option<String>,
    /// Print the configuration that comes of all files, variables and options, and exit
    #[arg(long)]
    print_config: bool,
    /// Check the configuration and exit
    #[arg(long)]
    check_config: bool,
    /// Print a script that lets a shell complete these options, and exit
    #[arg(long, value_name = "SHELL")]
    completions: Option<Shell>,
    /// Write the manual pages to this directory, and exit
    #[arg(long, value_name = "DIRECTORY", hide = true)]
    man: Option<PathBuf>,
    #[command(flatten)]
    service: service::Options,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as queue.bytes_max=1048576")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Arguments {
    fn sources(&self, defaults: Vec<(String, String)>) -> Sources {
        let mut settings = self.set.clone();
        let flags = [("bus.address", &self.bus), ("log.filter", &self.log), ("log.format", &self.log_format)];
        for (key, value) in flags {
            settings.extend(value.clone().map(|value| (key.to_owned(), value)));
        }
        Sources { defaults, file: self.config.clone(), settings, ..Sources::of_machine() }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(shell) = arguments.completions {
        return show(&script(shell));
    }
    if let Some(directory) = &arguments.man {
        return shown(write_manual(directory).map(|()| String::new()).map_err(|error| failure(&error, 1)));
    }
    if arguments.print_config {
        let config = Config::load(&arguments.sources(Vec::new()));
        return shown(config.map(|config| config.to_toml()).map_err(|error| failure(&error.into(), 2)));
    }
    if arguments.check_config {
        let checked = load(&arguments.sources(Vec::new()));
        return shown(checked.map(|_| "the configuration is valid\n".to_owned()));
    }
    service::start(&arguments.service.clone(), arguments)
}

impl Program for Arguments {
    fn options(&self) -> Vec<OsString> {
        let mut options = Vec::new();
        let mut add = |name: &str, value: OsString| options.extend([name.into(), value]);
        if let Some(file) = self.configuration() {
            add("--config", file.into());
        }
        for (key, value) in &self.set {
            add("--set", format!("{key}={value}").into());
        }
        for (name, value) in [("--bus", &self.bus), ("--log", &self.log), ("--log-format", &self.log_format)] {
            value.iter().for_each(|value| add(name, value.into()));
        }
        options
    }

    /// It may be started in another directory.
    fn configuration(&self) -> Option<PathBuf> {
        self.config.as_ref().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone()))
    }

    fn check(&self, supervisor: &Supervisor) -> Result<(), Failure> {
        load(&self.sources(supervisor.defaults())).map(|_| ())
    }

    fn serve(self, supervisor: Supervisor) -> Result<(), Failure> {
        let sources = self.sources(supervisor.defaults());
        let config = load(&sources)?;
        let is_elsewhere = config.log.is_elsewhere();
        let filter = log::start(&config.log).map_err(|error| failure(&error, 1))?;
        let served = serve(config, Process { sources, filter, supervisor: supervisor.clone() }, supervisor);
        served.map_err(|error| {
            if is_elsewhere {
                error!(error = format!("{error:#}"), "cannot go on");
            }
            let exit_code = match error.downcast_ref() {
                Some(BindError::Taken { .. } | BindError::Served { .. }) => 4,
                Some(BindError::NotOwn) => 2,
                _ => 1,
            };
            Failure { is_logged: is_elsewhere, ..failure(&error, exit_code) }
        })
    }
}

/// The configuration, if it is one that can be served with.
fn load(sources: &Sources) -> Result<Config, Failure> {
    let config = Config::load(sources).map_err(|error| failure(&error.into(), 2))?;
    let checked = check(&config).and_then(|()| rules::check(&config.policy.rules).map_err(anyhow::Error::msg));
    checked.map_err(|error| failure(&error, 2))?;
    Ok(config)
}

/// What only this machine can tell to be wrong, besides the rules.
fn check(config: &Config) -> anyhow::Result<()> {
    log::check(&config.log)?;
    Ok(check_door(&config.door)?)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pipebusd", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn write_manual(directory: &Path) -> anyhow::Result<()> {
    let about = "configuration of the broker of pipebus";
    pipebus_manual::write_pages(Arguments::command(), "8", "pipebus(1), pipebus.toml(5)", directory)
        .and_then(|()| {
            write_settings_page("pipebus.toml", about, config::BUILT_IN, "pipebusd(8), pipebus(1)", directory)
        })
        .with_context(|| format!("cannot write manual pages to {}", directory.display()))
}

fn show(text: &str) -> ExitCode {
    use std::io::Write;
    let shown = std::io::stdout().write_all(text.as_bytes());
    if shown.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn shown(text: Result<String, Failure>) -> ExitCode {
    text.map_or_else(|failure| failure.show(), |text| show(&text))
}

fn failure(error: &anyhow::Error, exit_code: u8) -> Failure {
    Failure { exit_code, text: format!("{error:#}"), is_logged: false }
}

/// This process, for the broker in it.
#[derive(Debug)]
struct Process {
    sources: Sources,
    filter: log::Filter,
    supervisor: Supervisor,
}

impl Host for Process {
    fn configuration(&self) -> Result<Config, String> {
        let config = Config::load(&self.sources).map_err(|error| error.to_string())?;
        check(&config).map_err(|error| format!("{error:#}"))?;
        Ok(config)
    }

    fn log_filter(&self) -> Result<String, String> {
        self.filter.show()
    }

    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        self.filter.change(filter)
    }

    fn reloading(&self) {
        self.supervisor.reloading();
    }

    fn reloaded(&self) {
        self.supervisor.reloaded();
    }

    fn stopping(&self) {
        self.supervisor.stopping();
    }
}

fn serve(config: Config, process: Process, supervisor: Supervisor) -> anyhow::Result<()> {
    let door = inherited_door().context("cannot take over the door from systemd")?;
    let open_files = raise_open_files();
    // For the door and the signals only: clients are served by the broker's own threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let served = runtime.block_on(async {
        let (instances_max, to_end) = (config.limits.instances_max as u64, config.shutdown_timeout());
        if open_files.is_some_and(|files| files < instances_max * 2) {
            info!(open_files, instances_max, "not enough file descriptors for all instances that are allowed");
        }
        let daemon = Daemon::bind_inherited(config, door)?.hosted_by(process);
        let (mut ends, reloads) = supervisor.signals()?;
        info!(bus = %daemon.place().path().display(), version = env!("CARGO_PKG_VERSION"), "listening");
        supervisor.ready(to_end);
        let watchdog = tokio::spawn(supervisor.feed_watchdog(daemon.pulse()));
        let reloads = tokio::spawn(reload_when_told(reloads, daemon.reloader()));
        let ended = daemon.run(async { ends.wished().await }).await;
        watchdog.abort();
        reloads.abort();
        info!("ended");
        anyhow::Ok(ended?)
    });
    // Not waiting for look-ups of users that hang.
    runtime.shutdown_background();
    served
}

/// Reads the configuration anew at each wish. One that is wrong changes nothing. The log tells what came of it.
async fn reload_when_told(mut reloads: Reloads, reloader: Reloader) {
    while reloads.wished().await.is_some() {
        let _ = reloader.reload().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_log_format_has_its_word() {
        for word in service::LOG_FORMATS {
            let arguments = Arguments::parse_from(["pipebusd", "--log-format", word]);
            let sources = Sources { settings: arguments.sources(Vec::new()).settings, ..Sources::none() };
            let format = Config::load(&sources).unwrap().log.format;
            assert_eq!(serde_json::to_value(format).unwrap(), word);
            service::check_log_format(format).unwrap();
        }
    }

    #[test]
    fn its_options_start_it_in_the_same_way() {
        let given = ["pipebusd", "--bus", "system", "--set", "log.file=\"\"", "--log", "debug", "--config", "x.toml"];
        let arguments = Arguments::parse_from(given);
        let again = Arguments::parse_from([OsString::from("pipebusd")].into_iter().chain(arguments.options()));
        assert_eq!(again.config, Some(std::path::absolute("x.toml").unwrap()));
        assert_eq!(again.sources(Vec::new()).settings, arguments.sources(Vec::new()).settings);
    }
}
