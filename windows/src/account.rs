//! Accounts: users and groups, by their security identifiers, which are texts such as `S-1-5-18` here.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::{ERROR_INSUFFICIENT_BUFFER, ERROR_NONE_MAPPED, HANDLE};
use windows_sys::Win32::Security::Authorization::{ConvertSidToStringSidW, ConvertStringSidToSidW};
use windows_sys::Win32::Security::{
    GetTokenInformation, LookupAccountNameW, LookupAccountSidW, PSID, RevertToSelf, SECURITY_MAX_SID_SIZE,
    SID_AND_ATTRIBUTES, SID_NAME_USE, SidTypeAlias, SidTypeGroup, SidTypeUser, SidTypeWellKnownGroup, TOKEN_GROUPS,
    TOKEN_INFORMATION_CLASS, TOKEN_QUERY, TOKEN_USER, TokenGroups, TokenUser,
};
use windows_sys::Win32::System::Pipes::ImpersonateNamedPipeClient;
use windows_sys::Win32::System::SystemServices::{SE_GROUP_ENABLED, SE_GROUP_USE_FOR_DENY_ONLY};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetCurrentThread, OpenProcessToken, OpenThreadToken};

use crate::system::{Local, check, wide};

/// The system itself, which services run as unless told otherwise.
pub const SYSTEM: &str = "S-1-5-18";

/// Those who administer the machine.
pub const ADMINISTRATORS: &str = "S-1-5-32-544";

/// Nobody who has said who it is.
const ANONYMOUS: &str = "S-1-5-7";

/// A name has at most so many UTF-16 units (UNLEN and DNLEN are less).
const NAME_UNITS_MAX: usize = 512;

/// Whose token something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub sid: String,
    /// The groups that count for it.
    pub groups: Vec<String>,
    /// The groups that count only where something is denied them: those of an administrator that is not elevated, and what a
    /// token was restricted by ("SID Attributes in an Access Token" in Microsoft's documentation).
    pub only_denied: Vec<String>,
}

/// What a name or an identifier stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The identifier.
    pub sid: String,
    /// The name, with its domain if it has one: `DOMAIN\NAME`.
    pub name: String,
    /// It is a group of users.
    pub is_group: bool,
    /// It is a user; of what is known everywhere, such as the system itself, Windows does not tell which of both.
    pub is_user: bool,
}

/// The user that this process runs as.
///
/// # Errors
/// The system can't tell.
pub fn own() -> io::Result<Account> {
    let mut token = ptr::null_mut();
    // SAFETY: `token` is where the token is to be put.
    check(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) })?;
    // SAFETY: it has just been opened, for this function alone.
    of_token(&unsafe { OwnedHandle::from_raw_handle(token) })
}

/// The user at the client's end of a pipe, of which something must have been read before. This thread takes its
/// client's part for that moment (ImpersonateNamedPipeClient), and no longer.
///
/// # Errors
/// The system can't tell, or the client lets nobody know.
pub fn of_client(pipe: &impl AsRawHandle) -> io::Result<Account> {
    let token = client_token(pipe.as_raw_handle())?;
    let account = of_token(&token)?;
    if account.sid == ANONYMOUS {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the client is anonymous"));
    }
    Ok(account)
}

fn client_token(pipe: HANDLE) -> io::Result<OwnedHandle> {
    /// While this lives, the thread is its client. A thread that could not be itself again must not do anything more.
    struct Impersonation;
    impl Drop for Impersonation {
        fn drop(&mut self) {
            // SAFETY: it needs nothing.
            if unsafe { RevertToSelf() } == 0 {
                std::process::abort();
            }
        }
    }
    // SAFETY: the caller has the pipe open.
    check(unsafe { ImpersonateNamedPipeClient(pipe) })?;
    let impersonation = Impersonation;
    let mut token = ptr::null_mut();
    // As itself, since a client may only let itself be identified. SAFETY: `token` is where the token is to be put.
    let opened = check(unsafe { OpenThreadToken(GetCurrentThread(), TOKEN_QUERY, 1, &raw mut token) });
    drop(impersonation);
    opened?;
    // SAFETY: it has just been opened, for this function alone.
    Ok(unsafe { OwnedHandle::from_raw_handle(token) })
}

fn of_token(token: &OwnedHandle) -> io::Result<Account> {
    let user = information(token, TokenUser)?;
    // SAFETY: the system has put a TOKEN_USER there, and what it points to is in the same memory.
    let SID_AND_ATTRIBUTES { Sid, Attributes } = unsafe { (*user.as_ptr().cast::<TOKEN_USER>()).User };
    if Attributes & SE_GROUP_USE_FOR_DENY_ONLY.cast_unsigned() != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the token does not stand for its user"));
    }
    // SAFETY: as above.
    let sid = unsafe { text_of(Sid) }?;
    let all = information(token, TokenGroups)?;
    // SAFETY: the system has put TOKEN_GROUPS there, with as many groups as it says.
    let groups = unsafe {
        let groups = all.as_ptr().cast::<TOKEN_GROUPS>();
        std::slice::from_raw_parts::<SID_AND_ATTRIBUTES>(
            (&raw const (*groups).Groups).cast(),
            (*groups).GroupCount as usize,
        )
    };
    let mut account = Account { sid, groups: Vec::new(), only_denied: Vec::new() };
    for group in groups {
        let has = |attribute: i32| group.Attributes & attribute.cast_unsigned() != 0;
        let list = match (has(SE_GROUP_ENABLED), has(SE_GROUP_USE_FOR_DENY_ONLY)) {
            (_, true) => &mut account.only_denied,
            (true, false) => &mut account.groups,
            (false, false) => continue,
        };
        // SAFETY: as above.
        list.push(unsafe { text_of(group.Sid) }?);
    }
    Ok(account)
}

/// What the system says of a token, in memory that is aligned for any of it.
fn information(token: &OwnedHandle, what: TOKEN_INFORMATION_CLASS) -> io::Result<Vec<u64>> {
    let mut bytes = 0;
    // SAFETY: it is asked how much room it needs, and given none.
    unsafe { GetTokenInformation(token.as_raw_handle(), what, ptr::null_mut(), 0, &raw mut bytes) };
    let mut room = vec![0u64; (bytes as usize).div_ceil(size_of::<u64>())];
    // SAFETY: there is as much room as is said.
    check(unsafe {
        GetTokenInformation(token.as_raw_handle(), what, room.as_mut_ptr().cast(), bytes, &raw mut bytes)
    })?;
    Ok(room)
}

/// An identifier as text.
///
/// # Safety
/// It is one.
pub(crate) unsafe fn text_of(sid: PSID) -> io::Result<String> {
    let mut text = ptr::null_mut();
    // SAFETY: the caller promises that it is one; `text` is where the text is to be put.
    check(unsafe { ConvertSidToStringSidW(sid, &raw mut text) })?;
    // SAFETY: the system has allocated it for whoever asked, and ended it with a 0.
    Ok(unsafe { Local::new(text)?.text() })
}

/// What a name stands for, such as `alice`, `CORP\alice` or `Users`, or an identifier such as `S-1-5-18`; `None`, if for
/// nobody. May ask a domain controller, which takes time.
///
/// # Errors
/// The system can't tell.
pub fn named(name: &str) -> io::Result<Option<Named>> {
    if let Some(sid) = parse(name) {
        // SAFETY: it is one.
        let text = unsafe { text_of(sid.as_ptr()) }?;
        let unknown = Named { sid: text.clone(), name: text, is_group: true, is_user: true };
        return Ok(Some(lookup(&sid)?.unwrap_or(unknown)));
    }
    let mut sid = [0u64; (SECURITY_MAX_SID_SIZE as usize).div_ceil(size_of::<u64>())];
    let mut domain = [0u16; NAME_UNITS_MAX];
    let (mut sid_bytes, mut domain_units) = (SECURITY_MAX_SID_SIZE, NAME_UNITS_MAX as u32);
    let mut kind: SID_NAME_USE = 0;
    // SAFETY: there is as much room as is said.
    let found = check(unsafe {
        LookupAccountNameW(
            ptr::null(),
            wide(name).as_ptr(),
            sid.as_mut_ptr().cast(),
            &raw mut sid_bytes,
            domain.as_mut_ptr(),
            &raw mut domain_units,
            &raw mut kind,
        )
    });
    if let Err(error) = found {
        return if is(&error, ERROR_NONE_MAPPED) { Ok(None) } else { Err(error) };
    }
    // SAFETY: the system has put it there.
    let sid = unsafe { text_of(sid.as_mut_ptr().cast()) }?;
    Ok(Some(Named { sid, name: name.to_owned(), is_group: is_group(kind), is_user: is_user(kind) }))
}

/// What people call an identifier; the identifier itself, if nobody knows it.
pub fn name_of(sid: &str) -> String {
    parse(sid).and_then(|parsed| lookup(&parsed).ok().flatten()).map_or_else(|| sid.to_owned(), |named| named.name)
}

/// Whether a text is an identifier.
pub fn is_sid(text: &str) -> bool {
    parse(text).is_some()
}

/// An identifier as the system writes it, which takes `S-1-5-0x20-544`, too.
pub fn canonical(text: &str) -> Option<String> {
    // SAFETY: it is one.
    unsafe { text_of(parse(text)?.as_ptr()) }.ok()
}

fn parse(text: &str) -> Option<Local<std::ffi::c_void>> {
    // The system takes short names of well-known groups for identifiers, too, which are none here.
    if !text.starts_with("S-1-") {
        return None;
    }
    let mut sid: PSID = ptr::null_mut();
    // SAFETY: `sid` is where it is to be put.
    check(unsafe { ConvertStringSidToSidW(wide(text).as_ptr(), &raw mut sid) }).ok()?;
    // SAFETY: the system has allocated it for whoever asked.
    unsafe { Local::new(sid) }.ok()
}

fn lookup(sid: &Local<std::ffi::c_void>) -> io::Result<Option<Named>> {
    let (mut name, mut domain) = ([0u16; NAME_UNITS_MAX], [0u16; NAME_UNITS_MAX]);
    let (mut name_units, mut domain_units) = (NAME_UNITS_MAX as u32, NAME_UNITS_MAX as u32);
    let mut kind: SID_NAME_USE = 0;
    // SAFETY: there is as much room as is said.
    let found = check(unsafe {
        LookupAccountSidW(
            ptr::null(),
            sid.as_ptr(),
            name.as_mut_ptr(),
            &raw mut name_units,
            domain.as_mut_ptr(),
            &raw mut domain_units,
            &raw mut kind,
        )
    });
    match found {
        Err(error) if is(&error, ERROR_NONE_MAPPED) || is(&error, ERROR_INSUFFICIENT_BUFFER) => return Ok(None),
        found => found?,
    }
    let text = |units: &[u16]| String::from_utf16_lossy(units.split(|unit| *unit == 0).next().unwrap_or_default());
    let (name, domain) = (text(&name), text(&domain));
    let name = if domain.is_empty() { name } else { format!(r"{domain}\{name}") };
    // SAFETY: it is one, as whoever made it was told.
    Ok(Some(Named { sid: unsafe { text_of(sid.as_ptr()) }?, name, is_group: is_group(kind), is_user: is_user(kind) }))
}

fn is_group(kind: SID_NAME_USE) -> bool {
    [SidTypeGroup, SidTypeAlias, SidTypeWellKnownGroup].contains(&kind)
}

fn is_user(kind: SID_NAME_USE) -> bool {
    [SidTypeUser, SidTypeWellKnownGroup].contains(&kind)
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_somebody_who_is_in_groups() {
        let own = own().unwrap();
        assert!(is_sid(&own.sid), "{own:?}");
        assert!(own.groups.iter().all(|group| is_sid(group)) && !own.groups.is_empty(), "{own:?}");
    }

    #[test]
    fn names_are_looked_up_both_ways() {
        let system = named(SYSTEM).unwrap().unwrap();
        assert_eq!(system.sid, SYSTEM);
        assert!(!name_of(SYSTEM).is_empty());
        assert_eq!(named("nobody-of-this-name").unwrap(), None);
        assert_eq!(name_of("S-1-5-21-1-2-3-99999"), "S-1-5-21-1-2-3-99999", "nobody knows it");
        for text in ["S-1-5-32-544", "S-1-5-032-544", "S-1-5-0x20-0x220"] {
            assert_eq!(canonical(text).as_deref(), Some(ADMINISTRATORS), "{text}");
        }
        for text in ["S-1", "BA", "", "S-1-x"] {
            assert!(!is_sid(text), "{text}");
        }
    }
}
