//! Wireshark's own programs, with the dissector of contrib/wireshark: what they make of a capture.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the dissector fails at.
const FAILURES: &str = "_ws.lua.error || _ws.malformed.expert || _ws.malformed.dissector_bug || !pipebus";

/// How much of what is wrong is shown.
const SHOWN_BYTES: usize = 4000;

/// Whether Wireshark's programs are here; says so where they are not.
pub fn can_dissect() -> bool {
    let version = Command::new("tshark").arg("--version").stderr(Stdio::null()).output();
    let found = version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("with Lua"));
    if !found {
        eprintln!("skipped: there is no tshark with Lua; install the package tshark");
    }
    found
}

/// The dissector's file.
pub fn dissector() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("contrib/wireshark/pipebus.lua")
}

/// A capture file that Wireshark's programs read.
#[derive(Debug)]
pub struct CaptureFile(pub PathBuf);

impl CaptureFile {
    /// Of packets with these bytes, written by Wireshark's text2pcap into a file in this directory.
    pub fn of_packets(directory: &Path, packets: &[Vec<u8>]) -> CaptureFile {
        let (dump, capture) = (directory.join("packets.txt"), directory.join("packets.pcapng"));
        let mut text = String::new();
        for packet in packets {
            for (number, bytes) in packet.chunks(64).enumerate() {
                let _ = write!(text, "{:06x}", number * 64);
                bytes.iter().for_each(|byte| _ = write!(text, " {byte:02x}"));
                text.push('\n');
            }
        }
        fs::write(&dump, text).unwrap();
        let made = Command::new("text2pcap").args(["-q", "-l", "147"]).arg(dump).arg(&capture).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        CaptureFile(capture)
    }

    /// For each packet that the filter lets pass: these fields, as text.
    pub fn fields(&self, filter: &str, names: &[&str]) -> Vec<Vec<String>> {
        let names = names.iter().flat_map(|name| ["-e", name]);
        let all: Vec<&str> = ["-Y", filter, "-T", "fields"].into_iter().chain(names).collect();
        self.tshark(&all).lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }

    /// How many packets the filter lets pass.
    pub fn count(&self, filter: &str) -> usize {
        self.fields(filter, &["frame.number"]).len()
    }

    /// The same of several filters, none with a comma, in a capture of several packets.
    pub fn counts(&self, filters: &[&str]) -> Vec<usize> {
        let table = self.tshark(&["-q", "-z", &format!("io,stat,0,{}", filters.join(","))]);
        let numbers = table.lines().find(|line| line.contains("<>")).unwrap();
        // |interval|frames|bytes|frames|bytes|...
        numbers.split('|').skip(2).step_by(2).map_while(|cell| cell.trim().parse().ok()).collect()
    }

    /// Fails if the dissector fails at a packet, or if this filter lets one pass.
    pub fn check_none(&self, filter: &str) {
        let details = self.tshark(&["-V", "-Y", &format!("{FAILURES} || {filter}")]);
        let shown: String = details.chars().take(SHOWN_BYTES).collect();
        assert!(details.is_empty(), "{shown}");
    }

    /// Fails if a packet is not dissected, or found to be malformed.
    pub fn check_sound(&self) {
        self.check_none("pipebus.malformed");
    }

    /// What tshark says with these arguments, once it has seen all packets.
    pub fn tshark(&self, arguments: &[&str]) -> String {
        let mut command = tshark();
        let output = command.arg("-2").arg("-r").arg(&self.0).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// tshark with the dissector, and without what is the user's own.
pub fn tshark() -> Command {
    let mut command = Command::new("tshark");
    command.env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME").env_remove("WIRESHARK_CONFIG_DIR");
    command.arg("-X").arg(format!("lua_script:{}", dissector().display()));
    command.stdin(Stdio::null());
    command
}
