//! Named pipes: made with a security descriptor, opened with no more rights than needed, and looked at.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, IntoRawHandle, RawHandle};
use std::ptr;
use std::time::Duration;

use tokio::net::windows::named_pipe::{NamedPipeClient, NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::{
    ERROR_BAD_DEV_TYPE, ERROR_BAD_PATHNAME, ERROR_CALL_NOT_IMPLEMENTED, ERROR_FILE_NOT_FOUND, ERROR_INVALID_FUNCTION,
    ERROR_NOT_SUPPORTED, ERROR_PIPE_BUSY, ERROR_SEM_TIMEOUT,
};
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_OVERLAPPED, SECURITY_IDENTIFICATION};
use windows_sys::Win32::System::Pipes::{
    GetNamedPipeClientProcessId, GetNamedPipeHandleStateW, GetNamedPipeInfo, GetNamedPipeServerProcessId,
    PIPE_UNLIMITED_INSTANCES, WaitNamedPipeW,
};

use crate::descriptor::{Descriptor, USE_PIPE};
use crate::system::{check, wide};

/// How much is written at once: tokio keeps a copy of what the pipe has not taken yet, and takes more only after that.
pub const WRITE_BYTES: usize = 16 * 1024;

/// As much of these pieces as is written at once, in one: tokio takes one piece at a time.
pub fn first_bytes<'a>(pieces: &'a [IoSlice<'a>]) -> Cow<'a, [u8]> {
    match pieces {
        [] => Cow::Borrowed(&[]),
        [first] => Cow::Borrowed(&first[..first.len().min(WRITE_BYTES)]),
        [first, ..] if first.len() >= WRITE_BYTES => Cow::Borrowed(&first[..WRITE_BYTES]),
        _ => {
            let all = pieces.iter().map(|piece| piece.len()).sum::<usize>();
            let mut bytes = Vec::with_capacity(all.min(WRITE_BYTES));
            for piece in pieces {
                bytes.extend_from_slice(&piece[..piece.len().min(WRITE_BYTES - bytes.len())]);
            }
            Cow::Owned(bytes)
        }
    }
}

/// How an instance of a pipe is made.
#[derive(Debug)]
pub struct Instance<'a> {
    /// There must be no other yet, of whomever.
    pub first: bool,
    /// Clients on other machines may open it.
    pub remote: bool,
    /// How many bytes each of its two buffers has, as a hint.
    pub buffer_bytes: u32,
    /// Whose it is, and who may do what with it.
    pub descriptor: &'a Descriptor,
}

impl Instance<'_> {
    /// Makes one, in byte mode, for both directions. To be called in a tokio runtime.
    ///
    /// # Errors
    /// What the system says; of the first one, that the name is taken.
    pub fn create(&self, name: &str) -> io::Result<NamedPipeServer> {
        let mut attributes = SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: self.descriptor.as_ptr(),
            bInheritHandle: 0,
        };
        let options = self.options();
        // SAFETY: it is what is asked for, and lives until the call is over.
        unsafe { options.create_with_security_attributes_raw(name, (&raw mut attributes).cast()) }
    }

    /// Whether remote clients are rejected is said last, so that nothing after it can take it back.
    fn options(&self) -> ServerOptions {
        let mut options = ServerOptions::new();
        options
            .first_pipe_instance(self.first)
            .in_buffer_size(self.buffer_bytes)
            .out_buffer_size(self.buffer_bytes)
            .reject_remote_clients(!self.remote);
        options
    }
}

/// Opens a pipe as its client, who lets the server know who it is and no more. To be called in a tokio runtime.
///
/// # Errors
/// What the system says: [`is_absent`], [`is_busy`], or that this user may not.
pub fn open(name: &str) -> io::Result<NamedPipeClient> {
    // Not through tokio, which asks for the right to make instances, too.
    let pipe = OpenOptions::new()
        .access_mode(USE_PIPE)
        .custom_flags(FILE_FLAG_OVERLAPPED)
        .security_qos_flags(SECURITY_IDENTIFICATION)
        .open(name)?;
    // SAFETY: it is an open pipe for overlapped operations, and given away for good.
    unsafe { NamedPipeClient::from_raw_handle(pipe.into_raw_handle()) }
}

/// Whether there is no such pipe.
pub fn is_absent(error: &io::Error) -> bool {
    is(error, &[ERROR_FILE_NOT_FOUND])
}

/// Whether each instance of the pipe has a client.
pub fn is_busy(error: &io::Error) -> bool {
    is(error, &[ERROR_PIPE_BUSY, ERROR_SEM_TIMEOUT])
}

fn is(error: &io::Error, codes: &[u32]) -> bool {
    error.raw_os_error().is_some_and(|code| codes.contains(&code.cast_unsigned()))
}

/// Whether there is a pipe of this name, without opening it, which would use up an instance.
pub fn is_there(name: &str) -> bool {
    let soon = Duration::from_millis(1).as_millis() as u32;
    // SAFETY: the name ends with a 0.
    check(unsafe { WaitNamedPipeW(wide(name).as_ptr(), soon) }).map_or_else(|error| is_busy(&error), |()| true)
}

/// The process at the client's end.
///
/// # Errors
/// What the system says: the client may be on another machine.
pub fn client_process(pipe: &impl AsRawHandle) -> io::Result<u32> {
    let mut pid = 0;
    // SAFETY: the caller has it open; `pid` is where the answer is to be put.
    check(unsafe { GetNamedPipeClientProcessId(pipe.as_raw_handle(), &raw mut pid) })?;
    Ok(pid)
}

/// The process at the server's end.
///
/// # Errors
/// What the system says.
pub fn server_process(pipe: &impl AsRawHandle) -> io::Result<u32> {
    let mut pid = 0;
    // SAFETY: as above.
    check(unsafe { GetNamedPipeServerProcessId(pipe.as_raw_handle(), &raw mut pid) })?;
    Ok(pid)
}

/// What the system says of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How many instances it has now.
    pub instances: u32,
    /// How many it may have; `None`, if there is no bound.
    pub instances_max: Option<u32>,
    /// How many bytes the buffer to the client has.
    pub out_bytes: u32,
    /// How many bytes the buffer to the server has.
    pub in_bytes: u32,
}

/// Looks at a pipe of which the caller has an instance open.
///
/// # Errors
/// What the system says.
pub fn facts(pipe: &impl AsRawHandle) -> io::Result<Facts> {
    let pipe: RawHandle = pipe.as_raw_handle();
    let (mut flags, mut out_bytes, mut in_bytes, mut instances_max, mut instances) = (0, 0, 0, 0, 0);
    // SAFETY: the caller has it open; these are where the answers are to be put.
    check(unsafe {
        GetNamedPipeInfo(pipe, &raw mut flags, &raw mut out_bytes, &raw mut in_bytes, &raw mut instances_max)
    })?;
    // SAFETY: as above; what is null is not asked.
    check(unsafe {
        GetNamedPipeHandleStateW(
            pipe,
            ptr::null_mut(),
            &raw mut instances,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            0,
        )
    })?;
    // Wine says more than that if there is no bound.
    let instances_max = Some(instances_max).filter(|max| *max < PIPE_UNLIMITED_INSTANCES);
    Ok(Facts { instances, instances_max, out_bytes, in_bytes })
}

/// A pipe in the list of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, without what all names begin with.
    pub name: String,
    /// How many instances it has.
    pub instances: u64,
}

/// All pipes of this machine, without opening any; what a file system would call the size of a file is the number of
/// instances here (PipeList of Sysinternals rests on that).
///
/// # Errors
/// What the system says; [`io::ErrorKind::Unsupported`], if it can't list pipes, as Wine.
pub fn list() -> io::Result<Vec<Listed>> {
    let unsupported = [
        ERROR_BAD_DEV_TYPE,
        ERROR_BAD_PATHNAME,
        ERROR_INVALID_FUNCTION,
        ERROR_CALL_NOT_IMPLEMENTED,
        ERROR_NOT_SUPPORTED,
    ];
    let listed = |error: io::Error| {
        if is(&error, &unsupported) { io::ErrorKind::Unsupported.into() } else { error }
    };
    std::fs::read_dir(r"\\.\pipe\")
        .map_err(listed)?
        .map(|entry| {
            let entry = entry.map_err(listed)?;
            // What the list says, and not a look at the pipe itself.
            let instances = entry.metadata().map_or(0, |metadata| metadata.len());
            Ok(Listed { name: entry.file_name().to_string_lossy().into_owned(), instances })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account;

    const OWNER_ALONE: &str = "D:P(A;;GA;;;OW)(A;;GA;;;SY)";

    fn name(of: &str) -> String {
        format!(r"\\.\pipe\pipebus-windows-{of}-{}", std::process::id())
    }

    fn instance(descriptor: &Descriptor) -> Instance<'_> {
        Instance { first: true, remote: false, buffer_bytes: 4096, descriptor }
    }

    /// How `reject_remote_clients` and the rest are set, since the system does not tell of a pipe that is there.
    #[test]
    fn remote_clients_are_rejected_unless_they_are_wanted() {
        let descriptor = Descriptor::parse(OWNER_ALONE).unwrap();
        let shown = |remote| format!("{:?}", Instance { remote, ..instance(&descriptor) }.options());
        assert!(shown(false).contains("reject_remote_clients: true"), "{}", shown(false));
        assert!(shown(true).contains("reject_remote_clients: false"), "{}", shown(true));
    }

    #[tokio::test]
    async fn each_end_knows_the_other_and_what_the_pipe_is_like() {
        let (name, descriptor) = (name("ends"), Descriptor::parse(OWNER_ALONE).unwrap());
        assert!(!is_there(&name));
        assert!(is_absent(&open(&name).unwrap_err()));
        let server = instance(&descriptor).create(&name).unwrap();
        assert!(is_there(&name));
        let client = open(&name).unwrap();
        server.connect().await.unwrap();
        assert!(is_there(&name) && is_busy(&open(&name).unwrap_err()), "its one instance is taken");
        assert_eq!(client_process(&server).unwrap(), std::process::id());
        assert_eq!(server_process(&client).unwrap(), std::process::id());
        assert_eq!(
            facts(&client).unwrap(),
            Facts { instances: 1, instances_max: None, out_bytes: 4096, in_bytes: 4096 }
        );
        let again = Instance { first: false, ..instance(&descriptor) };
        let _second = again.create(&name).unwrap();
        assert_eq!(facts(&client).unwrap().instances, 2);
        client.writable().await.unwrap();
        client.try_write(b"x").unwrap();
        server.readable().await.unwrap();
        assert_eq!(account::of_client(&server).unwrap(), account::own().unwrap());
    }

    #[tokio::test]
    async fn every_instance_has_the_descriptor_that_it_was_made_with() {
        let name = name("descriptor");
        let own = account::own().unwrap().sid;
        let descriptor = Descriptor::parse(&format!("O:{own}D:P(A;;GA;;;SY)(A;;0x12019b;;;{own})")).unwrap();
        let server = instance(&descriptor).create(&name).unwrap();
        let client = open(&name).unwrap();
        for read in [Descriptor::of(&server).unwrap(), Descriptor::of(&client).unwrap()] {
            assert!(read.is_protected().unwrap(), "{:?}", read.to_sddl());
            let entries = read.entries().unwrap().unwrap();
            let sids: Vec<_> = entries.iter().map(|entry| entry.sid.as_str()).collect();
            assert_eq!(sids, [account::SYSTEM, own.as_str()], "{:?}", read.to_sddl());
            assert_eq!(entries[1].rights, USE_PIPE);
            assert_eq!(read.owner().unwrap().as_deref(), Some(own.as_str()));
        }
    }
}
