//! `pipebusd`: arguments, the log, signals and systemd around [`pipebusd::Daemon`].

mod log;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use pipebus_manual::write_settings_page;
use pipebusd::config::{self, Config, LogFormat, Sources};
use pipebusd::transport::{BindError, check_door, inherited_door, raise_open_files};
use pipebusd::{Daemon, Host, Pulse, Reloader, rules};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

/// The broker of pipebus: a message bus whose only door is a named pipe.
///
/// Programs connect through the FIFO "bus" in the bus's directory; the permissions of that file decide who may.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Which bus to serve: session, system, or a directory
    #[arg(long, value_name = "ADDRESS")]
    bus: Option<String>,
    /// A configuration file to read after those in /etc/pipebus
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, such as queue.bytes_max=1048576; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How to log: text, json or journald
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json", "journald"])]
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
}

const EXAMPLES: &str = "\
Examples:
  pipebusd                             serve this user's session bus
  pipebusd --bus /tmp/my-bus           serve a bus of your own
  pipebusd --set limits.instances_max=100 --check-config

Exit codes: 0 ended cleanly, 1 failed, 2 wrong usage or configuration, 4 the bus is taken.";

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as queue.bytes_max=1048576")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Arguments {
    fn sources(&self) -> Sources {
        let mut settings = self.set.clone();
        let flags = [("bus.address", &self.bus), ("log.filter", &self.log), ("log.format", &self.log_format)];
        for (key, value) in flags {
            settings.extend(value.clone().map(|value| (key.to_owned(), value)));
        }
        Sources { file: self.config.clone(), settings, ..Sources::of_machine() }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(shell) = arguments.completions {
        return show(&script(shell));
    }
    if let Some(directory) = &arguments.man {
        let written = write_manual(directory);
        return written.map_or_else(|error| fail(&error, 1), |()| ExitCode::SUCCESS);
    }
    let config = match Config::load(&arguments.sources()) {
        Ok(config) => config,
        Err(error) => return fail(&error.into(), 2),
    };
    if arguments.print_config {
        return show(&config.to_toml());
    }
    let checked = check(&config).and_then(|()| rules::check(&config.policy.rules).map_err(anyhow::Error::msg));
    if let Err(error) = checked {
        return fail(&error, 2);
    }
    if arguments.check_config {
        return show("the configuration is valid\n");
    }
    let journald = config.log.format == LogFormat::Journald;
    let sources = arguments.sources();
    let served = log::start(&config.log).and_then(|filter| serve(config, Process { sources, filter }));
    let Err(error) = served else { return ExitCode::SUCCESS };
    if journald {
        error!(error = format!("{error:#}"), "cannot go on");
    }
    match error.downcast_ref() {
        Some(BindError::Taken { .. } | BindError::Served { .. }) => fail(&error, 4),
        _ => fail(&error, 1),
    }
}

/// What only this machine can tell to be wrong, besides the rules.
fn check(config: &Config) -> anyhow::Result<()> {
    log::filter(&config.log)?;
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

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("pipebusd: {error:#}");
    ExitCode::from(code)
}

/// This process, for the broker in it.
#[derive(Debug)]
struct Process {
    sources: Sources,
    filter: log::Filter,
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

    /// The time tells systemd that this is about its last wish to reload, and not about one before.
    fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => warn!(%error, "systemd could not be notified"),
        }
    }

    fn reloaded(&self) {
        notify(&[NotifyState::Ready]);
    }

    fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }
}

fn serve(config: Config, process: Process) -> anyhow::Result<()> {
    let door = inherited_door().context("cannot take over the door from systemd")?;
    let open_files = raise_open_files();
    // For the door and the signals only: clients are served by the broker's own threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let served = runtime.block_on(async {
        let instances_max = config.limits.instances_max as u64;
        if open_files.is_some_and(|files| files < instances_max * 2) {
            info!(open_files, instances_max, "not enough file descriptors for all instances that are allowed");
        }
        let daemon = Daemon::bind_inherited(config, door)?.hosted_by(process);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        info!(bus = %daemon.place().path().display(), version = env!("CARGO_PKG_VERSION"), "listening");
        notify(&[NotifyState::Ready]);
        let watchdog = tokio::spawn(feed_watchdog(daemon.pulse()));
        let reloads = tokio::spawn(reload_when_told(hangup, daemon.reloader()));
        let ended = daemon
            .run(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await;
        watchdog.abort();
        reloads.abort();
        info!("ended");
        anyhow::Ok(ended?)
    });
    // Not waiting for look-ups of users that hang.
    runtime.shutdown_background();
    served
}

/// Reads the configuration anew at each SIGHUP. One that is wrong changes nothing. The log tells what came of it.
async fn reload_when_told(mut hangup: Signal, reloader: Reloader) {
    while hangup.recv().await.is_some() {
        let _ = reloader.reload().await;
    }
}

/// Tells systemd's watchdog, twice within its time, that the broker is not stuck. If it is, or if this thread is, systemd
/// hears nothing, ends it and starts another.
async fn feed_watchdog(pulse: Pulse) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let part = (interval / 4).max(Duration::from_millis(1));
    let mut ticks = tokio::time::interval(part);
    loop {
        ticks.tick().await;
        // Asked again at once if not: one that is slow for a moment is not stuck.
        if pulse.beats(part).await {
            notify(&[NotifyState::Watchdog]);
        } else {
            error!("a thread is stuck; systemd will end this broker and start another, if it goes on");
        }
    }
}

/// Does nothing where systemd did not start this. Never fatal: a message bus does not depend on its supervisor.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd could not be notified");
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
        for (word, format) in [("text", LogFormat::Text), ("json", LogFormat::Json), ("journald", LogFormat::Journald)]
        {
            let arguments = Arguments::parse_from(["pipebusd", "--log-format", word]);
            let sources = Sources { system: None, environment: Vec::new(), ..arguments.sources() };
            assert_eq!(Config::load(&sources).unwrap().log.format, format);
        }
    }
}
