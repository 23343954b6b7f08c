//! Arguments of `scan` and `doctor`.

use clap::Args;
use pipebus_proto::place::Address;

use super::address;
use crate::transport::words::{DOCTOR_EXAMPLES, SCAN_ALL, SCAN_BUSES, SCAN_EXAMPLES, SCAN_PIPES};

#[derive(Debug, Args)]
#[command(after_help = SCAN_EXAMPLES)]
pub(crate) struct Scan {
    #[arg(value_name = "BUS", help = SCAN_BUSES, value_parser = address)]
    pub(crate) buses: Vec<Address>,
    #[arg(long, help = SCAN_ALL)]
    pub(crate) all: bool,
    #[arg(long, help = SCAN_PIPES)]
    pub(crate) pipes: bool,
    /// Connect to no bus but those that you name, so that no broker logs it
    #[arg(long)]
    pub(crate) no_ask: bool,
    /// Show JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub(crate) struct Doctor {
    /// Show JSON instead of lines
    #[arg(long)]
    pub(crate) json: bool,
}
