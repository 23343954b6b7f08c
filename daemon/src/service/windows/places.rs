//! Where the machine's configuration and the service's log are, and that only those who may write there whom the broker
//! can trust: under `%ProgramData%` any user may make directories.

use std::io;
use std::path::{Path, PathBuf};

use pipebus_windows::account::{self, ADMINISTRATORS, SYSTEM};
use pipebus_windows::descriptor::Descriptor;
use pipebus_windows::directory::{self, Opened};

/// Those whose the directory is and who may do everything in it, and the users, who may read it.
const CONFIGURATION: &str = "O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)";

/// Those whose the directory of logs is and who may do everything in it: logs tell who does what on the bus.
const LOGS: &str = "O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)";

/// What a service may do there, whatever its account: all but to say who else may.
const MODIFY: &str = "0x1301bf";

/// Windows itself, as far as it updates itself (`NT SERVICE\TrustedInstaller`).
const TRUSTED_INSTALLER: &str = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464";

/// All, of whom a list that is not there says that they may do everything.
const EVERYONE: &str = "S-1-1-0";

/// In place of whoever will make something in a directory.
const CREATOR: &str = "S-1-3-0";

/// To make files and directories in a directory, to remove what is in it or itself, and to say who may: FILE_ADD_FILE,
/// FILE_ADD_SUBDIRECTORY, FILE_DELETE_CHILD, DELETE, WRITE_DAC, WRITE_OWNER, GENERIC_ALL and GENERIC_WRITE.
const CHANGE: u32 = 0x2 | 0x4 | 0x40 | 0x1_0000 | 0x4_0000 | 0x8_0000 | 0x1000_0000 | 0x4000_0000;

/// Where the machine's configuration is.
pub(crate) fn system_directory() -> PathBuf {
    directory::program_data().unwrap_or_else(|_| PathBuf::from(r"C:\ProgramData")).join("pipebus")
}

/// Where a service logs to that is not told otherwise.
pub(super) fn log_file() -> PathBuf {
    log_directory().join("pipebusd.log")
}

fn log_directory() -> PathBuf {
    system_directory().join("log")
}

/// Makes sure that only those may change a file, or what is in a directory, whose configuration the broker may obey. What is
/// not there is fine.
pub(crate) fn check_trusted(path: &Path) -> io::Result<()> {
    let opened = match Opened::new(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let distrust = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
    if opened.is_link {
        return Err(distrust("it leads elsewhere, so that it can't be trusted; put there what it leads to".to_owned()));
    }
    let own = account::own()?.sid;
    let Some(who) = stranger(&opened.descriptor()?, Some(&own))? else { return Ok(()) };
    Err(distrust(format!(
        "{who} may change it, so that it can't be trusted; look at what is there, and remove it: `pipebusd service \
         install` makes the directory anew, and what administrators then put into it is theirs"
    )))
}

/// Somebody besides those who administer the machine who may change a file, or the directory that it is in.
pub(super) fn changed_by(file: &Path) -> io::Result<Option<String>> {
    let places = [Some(file), file.parent()];
    let mut strangers = places.into_iter().flatten().map(|path| stranger(&Opened::new(path)?.descriptor()?, None));
    strangers.find_map(Result::transpose).transpose()
}

/// The name of somebody who may change what has this descriptor, besides those who administer the machine and `own`.
fn stranger(descriptor: &Descriptor, own: Option<&str>) -> io::Result<Option<String>> {
    let is_trusted = |sid: &str| [SYSTEM, ADMINISTRATORS, TRUSTED_INSTALLER].contains(&sid) || Some(sid) == own;
    let Some(entries) = descriptor.entries()? else { return Ok(Some(account::name_of(EVERYONE))) };
    let allowed = entries.into_iter().filter(|entry| entry.allows && entry.rights & CHANGE != 0);
    let mut who = descriptor.owner()?.into_iter().chain(allowed.map(|entry| entry.sid).filter(|sid| sid != CREATOR));
    Ok(who.find(|sid| !is_trusted(sid)).map(|sid| account::name_of(&sid)))
}

/// Makes the directories, as far as they are not there, and lets the service's account write its log.
pub(super) fn prepare(account: Option<&str>) -> io::Result<()> {
    let of_configuration = Descriptor::parse(CONFIGURATION)?;
    make(&system_directory(), &of_configuration)?;
    check_trusted(&system_directory())?;
    let mut list = LOGS.to_owned();
    if let Some(account) = account.map(account::named).transpose()?.flatten() {
        list.push_str(&format!("(A;OICI;{MODIFY};;;{})", account.sid));
    }
    let of_logs = Descriptor::parse(&list)?;
    make(&log_directory(), &of_logs)?;
    directory::protect(&log_directory(), &of_logs)
}

fn make(path: &Path, descriptor: &Descriptor) -> io::Result<()> {
    match directory::create(path, descriptor) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(descriptor: &str, expected: Option<&str>) {
        let stranger = stranger(&Descriptor::parse(descriptor).unwrap(), Some("S-1-5-21-1-2-3-1000")).unwrap();
        assert_eq!(stranger, expected.map(account::name_of));
    }

    #[test]
    fn whoever_may_change_a_directory_must_be_trusted() {
        let (users, other) = ("S-1-5-32-545", "S-1-5-21-1-2-3-1001");
        check(CONFIGURATION, None);
        check(LOGS, None);
        check("O:S-1-5-21-1-2-3-1000D:(A;OICI;FA;;;S-1-5-21-1-2-3-1000)", None);
        check(&CONFIGURATION.replace("O:BA", &format!("O:{other}")), Some(other));
        check(&format!("O:BAD:(A;;FA;;;BA)(A;;FA;;;{other})"), Some(other));
        check("O:BA", Some(EVERYONE));
        // What a directory that is simply made under %ProgramData% inherits.
        let inherited = "(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIIOID;GA;;;CO)(A;OICIID;0x1200a9;;;BU)";
        check(&format!("O:BAD:AI{inherited}"), None);
        check(&format!("O:BAD:AI{inherited}(A;CIID;DCLCRPCR;;;BU)"), Some(users));
    }

    #[test]
    fn what_is_not_there_is_no_danger_and_ones_own_is_trusted() {
        let directory = tempfile::tempdir().unwrap();
        check_trusted(&directory.path().join("nowhere")).unwrap();
        let own = directory.path().join("own");
        let list = format!("D:P(A;OICI;FA;;;{})", account::own().unwrap().sid);
        directory::create(&own, &Descriptor::parse(&list).unwrap()).unwrap();
        check_trusted(&own).unwrap();
    }
}
