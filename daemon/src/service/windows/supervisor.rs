//! Who supervises a broker on Windows: the service control manager, where that has started it, or whoever has the console.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{error, warn};
use windows_service::service::{ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType};
use windows_service::service_control_handler::ServiceStatusHandle;

use super::console::Console;
use super::places;
use crate::pulse::Pulse;

/// How long the start may take: the accounts that the configuration names may be a domain controller's to look up.
const TO_START: Duration = Duration::from_secs(60);

/// What the end takes besides the time that clients are given: their last call, and the end of the process.
const TO_END_BESIDES: Duration = Duration::from_secs(10);

/// How often a broker is asked whether it is stuck, which may take as long.
const PULSE_INTERVAL: Duration = Duration::from_secs(15);

/// Whoever has started this process.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    service: Option<Arc<Service>>,
}

impl Supervisor {
    /// The service control manager.
    pub(super) fn of_service(service: Arc<Service>) -> Supervisor {
        Supervisor { service: Some(service) }
    }

    /// What it sets where the configuration says nothing else: `section.key`, and the value. A service has nobody's
    /// session and no standard error.
    pub fn defaults(&self) -> Vec<(String, String)> {
        if self.service.is_none() {
            return Vec::new();
        }
        let file = places::log_file().display().to_string();
        let defaults = [("bus.address", "system"), ("log.format", "event-log"), ("log.file", &file)];
        defaults.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// Begins to listen to what this process is told.
    ///
    /// # Errors
    /// What the system says.
    pub fn signals(&self) -> io::Result<(Ends, Reloads)> {
        let console = if self.service.is_none() { Some(Console::listen()?) } else { None };
        Ok((Ends { service: self.service.clone(), console }, Reloads { service: self.service.clone() }))
    }

    /// The broker lets clients in. To end, it will need at most this time.
    pub fn ready(&self, to_end: Duration) {
        let Some(service) = &self.service else { return };
        let to_end = u32::try_from((to_end + TO_END_BESIDES).as_millis()).unwrap_or(u32::MAX);
        service.to_end_ms.store(to_end, Ordering::Relaxed);
        service.report(ServiceState::Running);
    }

    /// It is about to read its configuration, of which the service control manager wants to know nothing.
    pub fn reloading(&self) {}

    /// It has read it.
    pub fn reloaded(&self) {}

    /// It ends.
    pub fn stopping(&self) {
        if let Some(service) = &self.service {
            service.report(ServiceState::StopPending);
        }
    }

    /// Tells the log of a service if it is stuck: the service control manager has nothing that would notice.
    pub async fn feed_watchdog(self, pulse: Pulse) {
        if self.service.is_none() {
            return;
        }
        let mut ticks = tokio::time::interval(PULSE_INTERVAL);
        loop {
            ticks.tick().await;
            if !pulse.beats(PULSE_INTERVAL).await {
                error!(target: "pipebusd", "a thread is stuck; restart the service, if it goes on");
            }
        }
    }
}

/// This process as the service control manager sees it.
#[derive(Debug, Default)]
pub(super) struct Service {
    handle: OnceLock<ServiceStatusHandle>,
    to_end_ms: AtomicU32,
    /// How often it has said that it is still about to begin or to end.
    checkpoint: AtomicU32,
    /// It has been said that it has ended. Held while anything is said, since nothing may be said after that.
    ended: Mutex<bool>,
    end: Notify,
    reload: Notify,
}

impl Service {
    /// To be said once, before anything is reported.
    pub(super) fn registered(&self, handle: ServiceStatusHandle) {
        let _ = self.handle.set(handle);
    }

    pub(super) fn wish_to_end(&self) {
        // At once, so that nothing more is asked of this service: what hears it is gone with the first such wish.
        self.report(ServiceState::StopPending);
        self.end.notify_one();
    }

    pub(super) fn wish_to_reload(&self) {
        self.reload.notify_one();
    }

    pub(super) fn report(&self, state: ServiceState) {
        let wait_hint = match state {
            ServiceState::StartPending => TO_START,
            ServiceState::StopPending => Duration::from_millis(self.to_end_ms.load(Ordering::Relaxed).into()),
            _ => Duration::ZERO,
        };
        self.tell(state, wait_hint, ServiceExitCode::NO_ERROR);
    }

    pub(super) fn ended(&self, exit_code: ServiceExitCode) {
        self.tell(ServiceState::Stopped, Duration::ZERO, exit_code);
    }

    fn tell(&self, current_state: ServiceState, wait_hint: Duration, exit_code: ServiceExitCode) {
        let Some(handle) = self.handle.get() else { return };
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return;
        }
        *ended = current_state == ServiceState::Stopped;
        let is_pending = !wait_hint.is_zero();
        let controls_accepted = if current_state == ServiceState::Running {
            ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN | ServiceControlAccept::PARAM_CHANGE
        } else {
            ServiceControlAccept::empty()
        };
        let told = handle.set_service_status(ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state,
            controls_accepted,
            exit_code,
            checkpoint: if is_pending { self.checkpoint.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 },
            wait_hint,
            process_id: None,
        });
        if let Err(error) = told {
            warn!(target: "pipebusd", %error, "the service control manager could not be told");
        }
    }
}

/// Wishes that the broker end: of the service control manager, or of the console.
#[derive(Debug)]
pub struct Ends {
    service: Option<Arc<Service>>,
    console: Option<Console>,
}

impl Ends {
    /// Waits for one.
    ///
    /// # Cancel safety
    /// None is lost.
    pub async fn wished(&mut self) {
        match (&self.service, &mut self.console) {
            (Some(service), _) => service.end.notified().await,
            (None, Some(console)) => console.wished().await,
            (None, None) => std::future::pending().await,
        }
    }
}

/// Wishes that it read its configuration anew: `sc.exe control pipebusd paramchange`.
#[derive(Debug)]
pub struct Reloads {
    service: Option<Arc<Service>>,
}

impl Reloads {
    /// Waits for one; `None`, if there will be none any more.
    ///
    /// # Cancel safety
    /// None is lost.
    pub async fn wished(&mut self) -> Option<()> {
        let service = self.service.as_ref()?;
        service.reload.notified().await;
        Some(())
    }
}
