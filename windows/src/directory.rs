//! Directories: where programs have their data, and who may do what in one, as its security descriptor says.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;

use windows_sys::Win32::Security::Authorization::{SE_FILE_OBJECT, SetNamedSecurityInfoW};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, SECURITY_ATTRIBUTES,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateDirectoryW, FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    READ_CONTROL,
};

use windows_sys::Win32::System::Registry::{HKEY_LOCAL_MACHINE, RRF_RT_REG_SZ, RegGetValueW};

use crate::descriptor::Descriptor;
use crate::system::{check, check_code, wide};

/// Where the machine's directories are noted.
const PROFILES: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion\ProfileList";

/// A path has at most so many UTF-16 units.
const PATH_UNITS_MAX: usize = 32 * 1024;

/// Where programs have data that is of no single user: what `%ProgramData%` says, unless somebody has changed that. Not asked
/// of the shell, since the console tells a program that has it nothing of logging off and shutting down.
///
/// # Errors
/// What the system says.
pub fn program_data() -> io::Result<PathBuf> {
    let mut path = vec![0u16; PATH_UNITS_MAX];
    let mut bytes = (path.len() * size_of::<u16>()) as u32;
    let (key, value) = (wide(PROFILES), wide("ProgramData"));
    // SAFETY: the texts end with a 0, and there is as much room as is said.
    check_code(unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            value.as_ptr(),
            RRF_RT_REG_SZ,
            ptr::null_mut(),
            path.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    })?;
    let text = path.split(|unit| *unit == 0).next().unwrap_or_default();
    Ok(PathBuf::from(OsString::from_wide(text)))
}

/// Makes one. There must be none yet.
///
/// # Errors
/// What the system says.
pub fn create(path: &Path, descriptor: &Descriptor) -> io::Result<()> {
    let attributes = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor.as_ptr(),
        bInheritHandle: 0,
    };
    // SAFETY: the path ends with a 0, and the descriptor lives until the call is over.
    check(unsafe { CreateDirectoryW(wide_path(path).as_ptr(), &raw const attributes) })
}

/// Gives one that is there, and what is in it, the list of a descriptor in place of what it has and inherits.
///
/// # Errors
/// What the system says.
pub fn protect(path: &Path, descriptor: &Descriptor) -> io::Result<()> {
    let list = descriptor.list()?;
    let what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
    // SAFETY: the path ends with a 0, and the list lives as long as its descriptor.
    check_code(unsafe {
        SetNamedSecurityInfoW(
            wide_path(path).as_ptr(),
            SE_FILE_OBJECT,
            what,
            ptr::null_mut(),
            ptr::null_mut(),
            list,
            ptr::null_mut(),
        )
    })
}

/// What is at a path, open: the same thing, whatever is put there in the meantime.
#[derive(Debug)]
pub struct Opened {
    file: File,
    /// It is a link or a junction, which leads elsewhere.
    pub is_link: bool,
}

impl Opened {
    /// Opens it to be asked about, through no link.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(path: &Path) -> io::Result<Opened> {
        let flags = FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT;
        let file = OpenOptions::new().access_mode(READ_CONTROL).custom_flags(flags).open(path)?;
        let is_link = file.metadata()?.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0;
        Ok(Opened { file, is_link })
    }

    /// Whose it is, and who may do what with it.
    ///
    /// # Errors
    /// What the system says.
    pub fn descriptor(&self) -> io::Result<Descriptor> {
        Descriptor::of(&self.file)
    }
}

pub(crate) fn wide_path(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_have_their_data_somewhere() {
        let path = program_data().unwrap();
        assert!(path.is_absolute() && path.is_dir(), "{path:?}");
    }

    #[test]
    fn one_is_made_looked_at_and_given_another_list() {
        let path = std::env::temp_dir().join(format!("pipebus-test-{}", std::process::id()));
        let all = Descriptor::parse("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;WD)").unwrap();
        create(&path, &all).unwrap();
        assert_eq!(create(&path, &all).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let opened = Opened::new(&path).unwrap();
        assert!(!opened.is_link);
        let descriptor = opened.descriptor().unwrap();
        // As long as it is open, it is there.
        drop(opened);
        assert!(descriptor.owner().unwrap().is_some() && descriptor.entries().unwrap().is_some(), "{descriptor:?}");
        protect(&path, &all).unwrap();
        std::fs::write(path.join("file"), "text").unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(Opened::new(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
