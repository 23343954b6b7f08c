//! Security descriptors: whose something is, and who may do what with it.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::AsRawHandle;
use std::ptr;

use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, ConvertStringSecurityDescriptorToSecurityDescriptorW,
    GetSecurityInfo, SDDL_REVISION_1, SE_KERNEL_OBJECT,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACE_HEADER, ACL, DACL_SECURITY_INFORMATION, GROUP_SECURITY_INFORMATION, GetAce,
    GetSecurityDescriptorControl, GetSecurityDescriptorDacl, GetSecurityDescriptorOwner, OWNER_SECURITY_INFORMATION,
    PSID, SE_DACL_PROTECTED,
};
use windows_sys::Win32::System::SystemServices::{ACCESS_ALLOWED_ACE_TYPE, ACCESS_DENIED_ACE_TYPE};

use crate::account::text_of;
use crate::system::{Local, check, check_code, wide};

/// To read from a pipe and to write to it, as a client does, and nothing else: what FILE_GENERIC_READ and
/// FILE_GENERIC_WRITE have, but for FILE_CREATE_PIPE_INSTANCE, with which a client could pretend to be the server
/// ("Named Pipe Security and Access Rights" in Microsoft's documentation).
pub const USE_PIPE: u32 = 0x0012_019b;

/// All that can be done with a pipe or a file (FILE_ALL_ACCESS).
pub const ALL_ACCESS: u32 = 0x001f_01ff;

/// What generic rights mean for a pipe, which is what the system keeps of them.
pub fn specific(rights: u32) -> u32 {
    const ALL_OF_READ: u32 = 0x0012_0089;
    const ALL_OF_WRITE: u32 = 0x0012_0116;
    let of = |generic: u32, meaning: u32| if rights & generic != 0 { meaning } else { 0 };
    let meant = of(0x1000_0000, ALL_ACCESS) | of(0x8000_0000, ALL_OF_READ) | of(0x4000_0000, ALL_OF_WRITE);
    rights & 0x0fff_ffff | meant
}

/// A security descriptor.
#[derive(Debug)]
pub struct Descriptor(Local<c_void>);

// SAFETY: it is memory that nobody changes.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

/// An entry of a list of who may do what (DACL).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// It allows; otherwise, it denies.
    pub allows: bool,
    /// What, as bits.
    pub rights: u32,
    /// Whom, by the identifier.
    pub sid: String,
}

impl Descriptor {
    /// What a text says in the language of security descriptors (SDDL), such as `D:P(A;;GA;;;SY)`.
    ///
    /// # Errors
    /// What is wrong with it, as far as the system says.
    pub fn parse(text: &str) -> io::Result<Descriptor> {
        let mut descriptor = ptr::null_mut();
        // SAFETY: `descriptor` is where it is to be put.
        check(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                wide(text).as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                ptr::null_mut(),
            )
        })?;
        // SAFETY: the system has allocated it for whoever asked.
        Ok(Descriptor(unsafe { Local::new(descriptor) }?))
    }

    /// That of something that is open: its owner, its group and its list.
    ///
    /// # Errors
    /// What the system says: it may not be asked that through this handle.
    pub fn of(object: &impl AsRawHandle) -> io::Result<Descriptor> {
        let mut descriptor = ptr::null_mut();
        // SAFETY: the caller has it open; `descriptor` is where what is asked is to be put.
        check_code(unsafe {
            GetSecurityInfo(
                object.as_raw_handle(),
                SE_KERNEL_OBJECT,
                OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                &raw mut descriptor,
            )
        })?;
        // SAFETY: the system has allocated it for whoever asked.
        Ok(Descriptor(unsafe { Local::new(descriptor) }?))
    }

    /// As text.
    ///
    /// # Errors
    /// What the system says.
    pub fn to_sddl(&self) -> io::Result<String> {
        let mut text = ptr::null_mut();
        // SAFETY: it is a descriptor; `text` is where the text is to be put.
        check(unsafe {
            ConvertSecurityDescriptorToStringSecurityDescriptorW(
                self.as_ptr(),
                SDDL_REVISION_1,
                OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
                &raw mut text,
                ptr::null_mut(),
            )
        })?;
        // SAFETY: the system has allocated it for whoever asked, and ended it with a 0.
        Ok(unsafe { Local::new(text)?.text() })
    }

    /// Whose it is, by the identifier; `None`, if it does not say.
    ///
    /// # Errors
    /// What the system says.
    pub fn owner(&self) -> io::Result<Option<String>> {
        let (mut owner, mut is_default): (PSID, _) = (ptr::null_mut(), 0);
        // SAFETY: it is a descriptor, and these are where the answer is to be put.
        check(unsafe { GetSecurityDescriptorOwner(self.as_ptr(), &raw mut owner, &raw mut is_default) })?;
        // SAFETY: what is not null is an identifier in the descriptor.
        if owner.is_null() { Ok(None) } else { unsafe { text_of(owner) }.map(Some) }
    }

    /// Whether nothing is added to its list by inheritance.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_protected(&self) -> io::Result<bool> {
        let (mut control, mut revision) = (0, 0);
        // SAFETY: it is a descriptor, and these are where the answer is to be put.
        check(unsafe { GetSecurityDescriptorControl(self.as_ptr(), &raw mut control, &raw mut revision) })?;
        Ok(control & SE_DACL_PROTECTED != 0)
    }

    /// Who may do what, in order: the first entry that fits counts. `None`: everybody may do everything.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::Unsupported`], if some are of other kinds than those that allow or deny, such as
    /// those with conditions: nobody is to believe that there are none.
    pub fn entries(&self) -> io::Result<Option<Vec<Entry>>> {
        let list = self.list()?;
        if list.is_null() {
            return Ok(None);
        }
        // SAFETY: it is a list in the descriptor.
        let count = unsafe { (*list).AceCount };
        let mut entries = Vec::new();
        for index in 0..u32::from(count) {
            let mut entry = ptr::null_mut();
            // SAFETY: the list has so many.
            check(unsafe { GetAce(list, index, &raw mut entry) })?;
            // SAFETY: every entry begins with this.
            let kind = u32::from(unsafe { (*entry.cast::<ACE_HEADER>()).AceType });
            if kind != ACCESS_ALLOWED_ACE_TYPE && kind != ACCESS_DENIED_ACE_TYPE {
                let text =
                    format!("it has an entry of kind {kind}, such as one with a condition, which is not understood");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
            let entry = entry.cast::<ACCESS_ALLOWED_ACE>();
            // SAFETY: entries of both kinds look like this, and end with an identifier, of which this is the beginning.
            let (rights, sid) = unsafe { ((*entry).Mask, text_of((&raw mut (*entry).SidStart).cast())?) };
            entries.push(Entry { allows: kind == ACCESS_ALLOWED_ACE_TYPE, rights, sid });
        }
        Ok(Some(entries))
    }

    /// The list, which is in the descriptor's memory; null, if there is none.
    pub(crate) fn list(&self) -> io::Result<*mut ACL> {
        let (mut list, mut is_there, mut is_default): (*mut ACL, _, _) = (ptr::null_mut(), 0, 0);
        // SAFETY: it is a descriptor, and these are where the answer is to be put.
        check(unsafe {
            GetSecurityDescriptorDacl(self.as_ptr(), &raw mut is_there, &raw mut list, &raw mut is_default)
        })?;
        Ok(if is_there == 0 { ptr::null_mut() } else { list })
    }

    /// Whether it lets the same do the same, in the same order.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_like(&self, other: &Descriptor) -> io::Result<bool> {
        let [mut own, mut theirs] = [self.entries()?, other.entries()?];
        for entry in own.iter_mut().chain(&mut theirs).flatten() {
            entry.rights = specific(entry.rights);
        }
        Ok(own == theirs && self.is_protected()? == other.is_protected()?)
    }

    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_says_is_read_back() {
        let descriptor = Descriptor::parse("O:SYD:P(D;;GA;;;AN)(A;;0x12019b;;;S-1-5-11)").unwrap();
        assert!(descriptor.is_protected().unwrap());
        assert_eq!(descriptor.owner().unwrap().as_deref(), Some("S-1-5-18"));
        let [anonymous, authenticated] = <[Entry; 2]>::try_from(descriptor.entries().unwrap().unwrap()).unwrap();
        assert_eq!((anonymous.allows, anonymous.sid.as_str()), (false, "S-1-5-7"));
        let expected = Entry { allows: true, rights: USE_PIPE, sid: "S-1-5-11".to_owned() };
        assert_eq!(authenticated, expected);
        assert!(descriptor.to_sddl().unwrap().contains("D:P"), "{:?}", descriptor.to_sddl());
    }

    #[test]
    fn what_says_nothing_lets_everybody_do_everything_and_what_is_wrong_is_an_error() {
        assert_eq!(Descriptor::parse("O:SY").unwrap().entries().unwrap(), None);
        assert!(!Descriptor::parse("D:(A;;GA;;;SY)").unwrap().is_protected().unwrap());
        for wrong in ["D:(A;;GA;;;SY", "Z:", "D:(A;;GA;;;nobody)"] {
            assert!(Descriptor::parse(wrong).is_err(), "{wrong}");
        }
    }
    #[test]
    fn what_lets_the_same_do_the_same_is_alike() {
        let alike = |one: &str, other: &str| {
            Descriptor::parse(one).unwrap().is_like(&Descriptor::parse(other).unwrap()).unwrap()
        };
        assert!(alike("O:SYD:P(A;;GA;;;SY)", "D:P(A;;0x1f01ff;;;SY)"));
        for other in ["D:(A;;GA;;;SY)", "D:P(A;;GR;;;SY)", "D:P(A;;GA;;;BA)", "D:P(A;;GA;;;SY)(A;;GR;;;BA)", "O:SY"] {
            assert!(!alike("D:P(A;;GA;;;SY)", other), "{other}");
        }
    }
}
