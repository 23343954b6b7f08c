//! Files with a security descriptor.

use std::fs::File;
use std::io;
use std::os::windows::io::FromRawHandle;
use std::path::Path;
use std::ptr;

use windows_sys::Win32::Foundation::{GENERIC_WRITE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::{CREATE_ALWAYS, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_READ};

use crate::account;
use crate::descriptor::Descriptor;
use crate::directory::wide_path;
use crate::system::check;

/// Makes a file to be written, or empties the one that is there. A new one is for its owner and the system alone, whatever
/// is true of the others in its directory.
///
/// # Errors
/// What the system says.
pub fn create_private(path: &Path) -> io::Result<File> {
    let me = account::own()?.sid;
    let descriptor = Descriptor::parse(&format!("D:P(A;;FA;;;{me})(A;;FA;;;SY)"))?;
    let attributes = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor.as_ptr(),
        bInheritHandle: 0,
    };
    // SAFETY: the path ends with a 0, and the attributes live until the call is over.
    let file = unsafe {
        CreateFileW(
            wide_path(path).as_ptr(),
            GENERIC_WRITE,
            FILE_SHARE_READ,
            &raw const attributes,
            CREATE_ALWAYS,
            FILE_ATTRIBUTE_NORMAL,
            ptr::null_mut(),
        )
    };
    check(i32::from(file != INVALID_HANDLE_VALUE))?;
    // SAFETY: it has just been opened, and belongs to nobody else.
    Ok(unsafe { File::from_raw_handle(file) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_written_is_there_and_what_was_there_is_gone() {
        let path = std::env::temp_dir().join(format!("pipebus-windows-{}", std::process::id()));
        std::fs::write(&path, "a longer text").unwrap();
        create_private(&path).unwrap().write_all(b"text").unwrap();
        let read = std::fs::read(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.unwrap(), b"text");
        let descriptor = Descriptor::of(&create_private(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        let entries = descriptor.unwrap().entries().unwrap().unwrap();
        let allowed = entries.iter().filter(|entry| entry.allows).map(|entry| entry.sid.as_str());
        let me = account::own().unwrap().sid;
        assert!(allowed.clone().all(|sid| [me.as_str(), account::SYSTEM].contains(&sid)), "{entries:?}");
        assert!(allowed.count() > 0, "{entries:?}");
        assert!(create_private(Path::new(r"C:\there\is\no\such\directory")).is_err());
    }
}
