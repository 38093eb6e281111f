//! Where resolvers connect: UNIX sockets and TCP addresses.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use passive_dns::resolvers::Resolvers;

use crate::dnstap::{peer, system};
use crate::error::CaptureError;

/// How soon a TCP peer whose machine has gone is noticed, so that its place becomes free.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);

//------------ Endpoint ----------------------------------------------------------------------------------------

/// `unix:/PATH` or `tcp:ADDRESS:PORT`, an IPv6 address in brackets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Endpoint {
    type Err = CaptureError;

    fn from_str(text: &str) -> Result<Self, CaptureError> {
        let wrong = || CaptureError::Endpoint { given: text.to_owned() };
        match text.split_once(':').ok_or_else(wrong)? {
            ("unix", path) if path.starts_with('/') => Ok(Endpoint::Unix(path.into())),
            ("tcp", address) => address.parse().map(Endpoint::Tcp).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(to, "unix:{}", path.display()),
            Endpoint::Tcp(address) => write!(to, "tcp:{address}"),
        }
    }
}

/// Who may connect.
#[derive(Clone, Debug)]
pub struct Access {
    /// The permissions of a UNIX socket; connecting takes the right to write.
    pub mode: u32,
    /// Its group, by number; None leaves this process's own.
    pub group: Option<u32>,
    /// The addresses from which TCP is taken; None stands for whoever reaches a loopback address, and no other address
    /// is listened on without.
    pub senders: Option<Resolvers>,
}

impl Default for Access {
    fn default() -> Self {
        Access { mode: 0o660, group: None, senders: None }
    }
}

//------------ Listener ----------------------------------------------------------------------------------------

/// A socket that resolvers connect to. The file of a UNIX socket goes with it.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix { listener: UnixListener, file: (u64, u64) },
    Tcp { listener: TcpListener, senders: Option<Resolvers> },
}

/// What a listener has for whoever asks.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, and a name for its other end.
    Taken(Stream, String),
    /// One that was closed: its sender's address is none of those listed.
    Refused(String),
    /// Nobody waits.
    Nobody,
}

impl Listener {
    pub fn open(endpoint: Endpoint, access: Access) -> Result<Self, CaptureError> {
        let failed = |action| {
            let endpoint = endpoint.to_string();
            move |error| CaptureError::Listen { endpoint, action, error }
        };
        let socket = match &endpoint {
            Endpoint::Unix(path) => {
                remove_stale(&endpoint, path)?;
                let listener = UnixListener::bind(path).map_err(failed("making the socket"))?;
                listener.set_nonblocking(true).map_err(failed("making the socket"))?;
                let made = fs::symlink_metadata(path).map_err(failed("looking at the socket"))?;
                // In a process of that very group the socket has it from the start, and a sandbox may forbid to give it.
                if access.group.is_some_and(|group| group != made.gid()) {
                    chown(path, None, access.group).map_err(failed("giving the socket to its group"))?;
                }
                let permissions = fs::Permissions::from_mode(access.mode);
                fs::set_permissions(path, permissions).map_err(failed("setting the socket's mode"))?;
                let file = identity(path).map_err(failed("looking at the socket"))?;
                Socket::Unix { listener, file }
            }
            Endpoint::Tcp(address) => {
                if !address.ip().is_loopback() && access.senders.is_none() {
                    return Err(CaptureError::RemoteEndpoint { endpoint: endpoint.to_string() });
                }
                let listener = TcpListener::bind(address).map_err(failed("listening"))?;
                listener.set_nonblocking(true).map_err(failed("listening"))?;
                Socket::Tcp { listener, senders: access.senders }
            }
        };
        Ok(Listener { endpoint, socket })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The port that is listened on, if it was left open.
    pub fn port(&self) -> Option<u16> {
        match &self.socket {
            Socket::Unix { .. } => None,
            Socket::Tcp { listener, .. } => listener.local_addr().ok().map(|address| address.port()),
        }
    }

    /// The next connection.
    pub fn accept(&self) -> io::Result<Accepted> {
        let accepted = match &self.socket {
            Socket::Unix { listener, .. } => listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                let peer = peer::name(stream.as_fd());
                Ok(Accepted::Taken(Stream::Unix(stream), peer))
            }),
            Socket::Tcp { listener, senders } => listener.accept().and_then(|(stream, address)| {
                if senders.as_ref().is_some_and(|senders| !senders.contains(&plain(address.ip()))) {
                    return Ok(Accepted::Refused(address.to_string()));
                }
                stream.set_nonblocking(true)?;
                system::keep_alive(stream.as_fd(), KEEP_ALIVE_IDLE)?;
                Ok(Accepted::Taken(Stream::Tcp(stream), address.to_string()))
            }),
        };
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Accepted::Nobody),
            accepted => accepted,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix { listener, .. } => listener.as_fd(),
            Socket::Tcp { listener, .. } => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The file goes, unless another program has put its own in the place. Whether that works matters to
        // nobody: the next one to listen there removes what is stale.
        if let (Endpoint::Unix(path), Socket::Unix { file, .. }) = (&self.endpoint, &self.socket)
            && identity(path).is_ok_and(|found| found == *file)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// An IPv4 address as such, where it came by a socket of both families.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(endpoint: &Endpoint, path: &Path) -> Result<(), CaptureError> {
    let failed = |action| move |error| CaptureError::Listen { endpoint: endpoint.to_string(), action, error };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(CaptureError::NotSocket { endpoint: endpoint.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking for an earlier socket")(error)),
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(CaptureError::EndpointInUse { endpoint: endpoint.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("removing a stale socket"))
        }
        Err(error) => Err(failed("finding out whether an earlier socket is in use")(error)),
    }
}

//------------ Stream ------------------------------------------------------------------------------------------

/// A connection of either kind; reading and writing never wait.
#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(to),
            Stream::Tcp(stream) => stream.read(to),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(octets),
            Stream::Tcp(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}
