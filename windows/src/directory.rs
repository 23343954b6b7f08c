//! Directories of which a security descriptor says who may do what in them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr;

use windows_sys::Win32::Security::Authorization::{SE_FILE_OBJECT, SetNamedSecurityInfoW};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, SECURITY_ATTRIBUTES,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateDirectoryW, FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    READ_CONTROL,
};

use crate::descriptor::Descriptor;
use crate::system::{check, check_code};

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
    fn one_is_made_looked_at_and_given_another_list() {
        let path = std::env::temp_dir().join(format!("pipebus-test-{}", std::process::id()));
        let all = Descriptor::parse("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;WD)").unwrap();
        create(&path, &all).unwrap();
        assert_eq!(create(&path, &all).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let opened = Opened::new(&path).unwrap();
        assert!(!opened.is_link);
        let descriptor = opened.descriptor().unwrap();
        assert!(descriptor.owner().unwrap().is_some() && descriptor.entries().unwrap().is_some(), "{descriptor:?}");
        protect(&path, &all).unwrap();
        std::fs::write(path.join("file"), "text").unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(Opened::new(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
