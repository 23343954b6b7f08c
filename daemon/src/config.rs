//! Configuration: the file's shape as written, its layers, and what the core makes of it.
//!
//! Durations and sizes are integers with their unit in the key here, and nowhere else.

mod log;
mod metrics;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use config::{Environment, File, FileFormat};
use pipebus_proto::frame::BODY_BYTES_MAX;
use pipebus_proto::place::{Address, AddressError};
use serde::{Deserialize, Serialize};

pub use self::log::{LogFormat, LogSection};
pub use self::metrics::MetricsSection;
use crate::core::limits::{Limits, Rate};
use crate::rules::RuleSection;
use crate::service;
use crate::transport::Access;

/// The file that is built in: every key, explained, with its default.
pub const BUILT_IN: &str = include_str!("../../config/pipebus.toml");

/// What [`DoorSection::buffer_bytes`] may be.
const BUFFER_BYTES: RangeInclusive<u32> = 4096..=1024 * 1024;

/// The smallest queue, in bytes: a page.
const QUEUE_BYTES_MIN: usize = 4096;

/// What the broker is told, from all layers together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which bus.
    pub bus: BusSection,
    /// Who may connect.
    pub door: DoorSection,
    /// Who may do what.
    pub policy: PolicySection,
    /// The bounds of what clients can make grow.
    pub limits: LimitsSection,
    /// What waits for each instance.
    pub queue: QueueSection,
    /// How long things may take.
    pub timeouts: TimeoutsSection,
    /// Where metrics are written to.
    pub metrics: MetricsSection,
    /// What is logged, and how.
    pub log: LogSection,
}

/// `[bus]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusSection {
    /// `session`, `system`, a directory, or a pipe's name.
    pub address: String,
}

/// `[door]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoorSection {
    /// Who may connect.
    pub access: Access,
    /// For [`Access::Group`]: which.
    pub group: String,
    /// On Windows: the security descriptor of the pipe, in place of what `access` and `group` say.
    pub security: String,
    /// On Windows: clients on other machines may come.
    pub remote: bool,
    /// On Windows: how many bytes each buffer of an instance's pipe has.
    pub buffer_bytes: u32,
}

impl DoorSection {
    fn check(&self) -> Result<(), String> {
        if !BUFFER_BYTES.contains(&self.buffer_bytes) {
            let (least, most) = BUFFER_BYTES.into_inner();
            return Err(format!("door.buffer_bytes: must be from {least} to {most}"));
        }
        if self.access == Access::Group && self.group.is_empty() {
            return Err("door.access is \"group\", but door.group is empty; name the group".to_owned());
        }
        Ok(())
    }
}

/// `[policy]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySection {
    /// In their order.
    pub rules: Vec<RuleSection>,
    /// Milliseconds for which it is believed which groups a user is in.
    pub groups_lifetime_ms: u64,
}

/// `[limits]`; see [`Limits`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsSection {
    /// Instances on the bus.
    pub instances_max: usize,
    /// Those of them for administrators only.
    pub instances_reserved: usize,
    /// Instances of one user.
    pub instances_per_user_max: usize,
    /// Subscriptions on the bus.
    pub subscriptions_max: usize,
    /// Subscriptions of one user.
    pub subscriptions_per_user_max: usize,
    /// Subscriptions of one instance.
    pub subscriptions_per_instance_max: usize,
    /// Topics on the bus.
    pub topics_max: usize,
    /// Declared topics of one user.
    pub topics_per_user_max: usize,
    /// Declared topics of one instance.
    pub topics_per_instance_max: usize,
    /// Unanswered requests of one instance.
    pub requests_per_instance_max: usize,
    /// The largest message in bytes.
    pub message_bytes_max: u64,
    /// Bytes waiting for all instances.
    pub queued_bytes_max: usize,
    /// Bytes waiting for the instances of one user.
    pub queued_bytes_per_user_max: usize,
    /// Messages that one user may send in a second.
    pub messages_per_second_per_user_max: PerSecond,
    /// Bytes that one user may send in a second.
    pub bytes_per_second_per_user_max: PerSecond,
    /// Messages that all may send in a second.
    pub messages_per_second_max: PerSecond,
    /// Bytes that all may send in a second.
    pub bytes_per_second_max: PerSecond,
}

/// How much in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or \"unlimited\"")]
pub enum PerSecond {
    /// So much.
    Number(u64),
    /// As much as goes.
    Word(Unlimited),
}

/// The word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unlimited {
    /// `unlimited`
    Unlimited,
}

impl PerSecond {
    fn number(self) -> Option<u64> {
        match self {
            PerSecond::Number(number) => Some(number),
            PerSecond::Word(Unlimited::Unlimited) => None,
        }
    }
}

/// `[queue]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSection {
    /// Bytes waiting for one instance.
    pub bytes_max: usize,
    /// Milliseconds without progress until a `block` subscriber's messages are dropped.
    pub stall_timeout_ms: u64,
}

/// `[timeouts]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeoutsSection {
    /// Milliseconds from a knock to the Hello.
    pub handshake_ms: u64,
    /// Milliseconds for a clean end.
    pub shutdown_ms: u64,
}

/// Where the layers come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// `section.key=value`, in place of what is built in: of whoever has started the broker.
    pub defaults: Vec<(String, String)>,
    /// A directory with `pipebus.toml` and `conf.d/*.toml`, each optional.
    pub system: Option<PathBuf>,
    /// A file that must exist.
    pub file: Option<PathBuf>,
    /// Environment variables, as `std::env::vars` gives them.
    pub environment: Vec<(String, String)>,
    /// `section.key=value`, from the command line.
    pub settings: Vec<(String, String)>,
}

impl Sources {
    /// What a broker on this machine reads: the machine's own directory and the environment of the process.
    pub fn of_machine() -> Sources {
        // What is no Unicode is none of the broker's variables.
        let variables =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Sources { system: Some(service::system_directory()), environment: variables.collect(), ..Sources::none() }
    }

    /// Nothing but what is built in.
    pub fn none() -> Sources {
        Sources { defaults: Vec::new(), system: None, file: None, environment: Vec::new(), settings: Vec::new() }
    }
}

impl Default for Config {
    /// The built-in configuration, `config/pipebus.toml`.
    fn default() -> Config {
        Config::load(&Sources::none()).expect("the built-in configuration is valid, which a test holds")
    }
}

impl Config {
    /// Reads all layers. Keys and types are checked in each by itself, values in what comes of all, so that an error
    /// names the layer that is wrong.
    ///
    /// # Errors
    /// A file that can't be read, an unknown key, a wrong type, or a value out of its range.
    pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
        let mut layers = vec![Layer::text("the built-in configuration", BUILT_IN)];
        layers.push(Layer::settings("the defaults of a service", &sources.defaults)?);
        if let Some(directory) = &sources.system {
            for path in system_files(directory)? {
                layers.push(Layer::file(&path)?);
            }
        }
        if let Some(path) = &sources.file {
            layers.push(Layer::file(path)?);
        }
        layers.push(Layer::environment(&sources.environment));
        layers.push(Layer::settings("the command line", &sources.settings)?);
        for layer in &layers {
            merge(&[&layers[0], layer]).map_err(|error| layer.bad(error.to_string()))?;
        }
        let merged = |count: usize| merge(&layers[..count].iter().collect::<Vec<_>>());
        let all = merged(layers.len()).map_err(|error| layers[0].bad(error.to_string()))?;
        if let Err(text) = all.check() {
            // The layer to name is the one after which all was still well.
            let well = |count: &usize| merged(*count).is_ok_and(|config| config.check().is_ok());
            let last_well = (1..layers.len()).rev().find(well).unwrap_or(0);
            return Err(layers[last_well].bad(text));
        }
        Ok(all)
    }

    /// The bounds, in the core's own type.
    pub fn limits(&self) -> Limits {
        let limits = &self.limits;
        Limits {
            instances_max: limits.instances_max,
            instances_reserved: limits.instances_reserved,
            instances_per_user_max: limits.instances_per_user_max,
            subscriptions_max: limits.subscriptions_max,
            subscriptions_per_user_max: limits.subscriptions_per_user_max,
            subscriptions_per_instance_max: limits.subscriptions_per_instance_max,
            topics_max: limits.topics_max,
            topics_per_user_max: limits.topics_per_user_max,
            topics_per_instance_max: limits.topics_per_instance_max,
            requests_per_instance_max: limits.requests_per_instance_max,
            message_bytes_max: limits.message_bytes_max,
            queue_bytes_max: self.queue.bytes_max,
            queued_bytes_per_user_max: limits.queued_bytes_per_user_max,
            queued_bytes_max: limits.queued_bytes_max,
            rate_per_user_max: Rate {
                messages: limits.messages_per_second_per_user_max.number(),
                bytes: limits.bytes_per_second_per_user_max.number(),
            },
            rate_max: Rate {
                messages: limits.messages_per_second_max.number(),
                bytes: limits.bytes_per_second_max.number(),
            },
            stall_timeout: Duration::from_millis(self.queue.stall_timeout_ms),
        }
    }

    /// Which bus.
    ///
    /// # Errors
    /// The text is no address.
    pub fn address(&self) -> Result<Address, AddressError> {
        Address::from_str(&self.bus.address)
    }

    /// For how long it is believed which groups a user is in.
    pub fn groups_lifetime(&self) -> Duration {
        Duration::from_millis(self.policy.groups_lifetime_ms)
    }

    /// From a knock to the Hello.
    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.timeouts.handshake_ms)
    }

    /// From the wish to end to the end.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.timeouts.shutdown_ms)
    }

    /// The sections in which another configuration differs, of those that hold for as long as a broker runs.
    pub fn unlike(&self, other: &Config) -> Vec<&'static str> {
        let same = [
            ("[bus]", self.bus == other.bus),
            ("[door]", self.door == other.door),
            ("[timeouts]", self.timeouts == other.timeouts),
            ("[metrics]", self.metrics == other.metrics),
            ("[log]", self.log == other.log),
            ("policy.groups_lifetime_ms", self.policy.groups_lifetime_ms == other.policy.groups_lifetime_ms),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(section, _)| section).collect()
    }

    /// As a file with every key, for `--print-config`.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// What the types can't say. There is no zero that means "unlimited".
    fn check(&self) -> Result<(), String> {
        self.address().map_err(|error| format!("bus.address: {error}"))?;
        let limits = &self.limits;
        let rate = |rate: PerSecond| rate.number().unwrap_or(1);
        let counts = [
            ("limits.instances_max", limits.instances_max as u64),
            ("limits.instances_per_user_max", limits.instances_per_user_max as u64),
            ("limits.subscriptions_max", limits.subscriptions_max as u64),
            ("limits.subscriptions_per_user_max", limits.subscriptions_per_user_max as u64),
            ("limits.subscriptions_per_instance_max", limits.subscriptions_per_instance_max as u64),
            ("limits.topics_max", limits.topics_max as u64),
            ("limits.topics_per_user_max", limits.topics_per_user_max as u64),
            ("limits.topics_per_instance_max", limits.topics_per_instance_max as u64),
            ("limits.requests_per_instance_max", limits.requests_per_instance_max as u64),
            ("limits.queued_bytes_max", limits.queued_bytes_max as u64),
            ("limits.queued_bytes_per_user_max", limits.queued_bytes_per_user_max as u64),
            ("limits.messages_per_second_per_user_max", rate(limits.messages_per_second_per_user_max)),
            ("limits.bytes_per_second_per_user_max", rate(limits.bytes_per_second_per_user_max)),
            ("limits.messages_per_second_max", rate(limits.messages_per_second_max)),
            ("limits.bytes_per_second_max", rate(limits.bytes_per_second_max)),
        ];
        let times = [
            ("queue.stall_timeout_ms", self.queue.stall_timeout_ms),
            ("timeouts.handshake_ms", self.timeouts.handshake_ms),
            ("timeouts.shutdown_ms", self.timeouts.shutdown_ms),
            ("policy.groups_lifetime_ms", self.policy.groups_lifetime_ms),
            ("metrics.interval_ms", self.metrics.interval_ms),
        ];
        if let Some((key, _)) = counts.iter().chain(&times).find(|(_, value)| *value == 0) {
            return Err(format!("{key}: 0 would allow nothing; give it at least 1"));
        }
        let day = 24 * 60 * 60 * 1000;
        if let Some((key, value)) = times.iter().find(|(_, value)| *value > day) {
            return Err(format!("{key}: {value} ms is more than a day; give it at most {day}"));
        }
        if limits.instances_reserved >= limits.instances_max {
            return Err(
                "limits.instances_reserved: nothing would be left; give it less than limits.instances_max".into()
            );
        }
        for (number, rule) in (1..).zip(&self.policy.rules) {
            rule.check().map_err(|text| format!("policy.rules, rule {number}: {text}"))?;
        }
        if self.queue.bytes_max < QUEUE_BYTES_MIN {
            return Err(format!(
                "queue.bytes_max: {} is too little; give it at least {QUEUE_BYTES_MIN}",
                self.queue.bytes_max
            ));
        }
        self.metrics.check()?;
        self.log.check()?;
        let (least, most) = (BODY_BYTES_MAX as u64, 1 << 30);
        if !(least..=most).contains(&limits.message_bytes_max) {
            return Err(format!("limits.message_bytes_max: must be from {least} to {most}"));
        }
        self.door.check()
    }
}

struct Layer {
    place: String,
    source: Box<dyn config::Source + Send + Sync>,
}

impl Layer {
    fn text(place: &str, text: &str) -> Layer {
        Layer { place: place.to_owned(), source: Box::new(File::from_str(text, FileFormat::Toml)) }
    }

    fn file(path: &Path) -> Result<Layer, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Ok(Layer::text(&path.display().to_string(), &text))
    }

    fn environment(variables: &[(String, String)]) -> Layer {
        let environment = Environment::with_prefix("PIPEBUSD")
            .prefix_separator("__")
            .separator("__")
            .try_parsing(true)
            .source(Some(variables.iter().cloned().collect()));
        Layer { place: "the environment (PIPEBUSD__SECTION__KEY)".to_owned(), source: Box::new(environment) }
    }

    fn settings(place: &str, settings: &[(String, String)]) -> Result<Layer, ConfigError> {
        let place = place.to_owned();
        let mut builder = config::Config::builder();
        for (key, value) in settings {
            // As TOML where it is some, so that 5 is a number; as plain text otherwise.
            let parsed = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("value"));
            let value = match parsed.map(toml::Value::try_into::<config::Value>) {
                Some(Ok(parsed)) => parsed,
                _ => config::Value::from(value.clone()),
            };
            let set = builder.set_override(key, value);
            builder = set.map_err(|error| ConfigError::Wrong { place: place.clone(), text: error.to_string() })?;
        }
        let built =
            builder.build().map_err(|error| ConfigError::Wrong { place: place.clone(), text: error.to_string() })?;
        Ok(Layer { place, source: Box::new(built) })
    }

    fn bad(&self, text: String) -> ConfigError {
        ConfigError::Wrong { place: self.place.clone(), text }
    }
}

fn merge(layers: &[&Layer]) -> Result<Config, config::ConfigError> {
    let mut builder = config::Config::builder();
    for layer in layers {
        builder = builder.add_source(vec![layer.source.clone_into_box()]);
    }
    builder.build()?.try_deserialize()
}

fn system_files(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let check_trusted = |path: &Path| {
        let place = path.display().to_string();
        service::check_trusted(path).map_err(|error| ConfigError::Wrong { place, text: error.to_string() })
    };
    check_trusted(directory)?;
    let main = directory.join("pipebus.toml");
    let mut files = Vec::new();
    if main.exists() {
        files.push(main);
    }
    let conf_d = directory.join("conf.d");
    check_trusted(&conf_d)?;
    match std::fs::read_dir(&conf_d) {
        Ok(entries) => {
            let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            more.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
            more.sort();
            files.extend(more);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(ConfigError::Unreadable { path: conf_d, source }),
    }
    // Whoever made one while others could is still its owner.
    for path in &files {
        check_trusted(path)?;
    }
    Ok(files)
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file that was named or found can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key or a value is wrong.
    #[error("{place}: {text}")]
    Wrong {
        /// The file, or another layer.
        place: String,
        /// Which key, and what is wrong.
        text: String,
    },
}

#[cfg(test)]
mod tests;
