//! Packet sockets: the system calls that [`crate::live`] needs.

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use passive_dns::bpf::Instruction;

/// An AF_PACKET socket.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// What [`Socket::wait`] waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    Readable,
    Failed,
    Elapsed,
    Interrupted,
}

/// The index of an interface; None if there is none of this name.
pub fn interface_index(name: &str) -> Option<c_int> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is a C string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    c_int::try_from(index).ok().filter(|index| *index != 0)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Socket {
    /// Opens a socket that receives nothing: it has no protocol before it is bound.
    pub fn open() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let descriptor =
            check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the descriptor is new, and nobody else knows of it.
        Ok(Socket(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    fn set_option<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        let length = mem::size_of::<T>() as libc::socklen_t;
        let value: *const T = value;
        // SAFETY: the pointer and the length are those of a value that lives through the call.
        check(unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, value.cast(), length) })?;
        Ok(())
    }

    /// Reads an option into `value`.
    fn get_option<T>(&self, level: c_int, option: c_int, value: &mut T) -> io::Result<()> {
        let mut length = mem::size_of::<T>() as libc::socklen_t;
        let value: *mut T = value;
        // SAFETY: the pointer and the length are those of a value that lives through the call; both options read
        // below are plain integers, of which every pattern of bits is one.
        check(unsafe { libc::getsockopt(self.0.as_raw_fd(), level, option, value.cast(), &mut length) })?;
        Ok(())
    }

    /// The ARPHRD_ number of an interface.
    pub fn hardware_type(&self, interface: &str) -> io::Result<u16> {
        // SAFETY: ifreq is a plain C structure, of which all zeros is a value.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        let name = interface.as_bytes();
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (place, octet) in request.ifr_name.iter_mut().zip(name) {
            *place = *octet as libc::c_char;
        }
        // SAFETY: SIOCGIFHWADDR takes and fills an ifreq, which lives through the call and whose name ends in zero.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCGIFHWADDR, &mut request) })?;
        // SAFETY: SIOCGIFHWADDR has filled this member of the union.
        Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
    }

    pub fn attach_filter(&self, program: &[Instruction]) -> io::Result<()> {
        let mut filter: Vec<libc::sock_filter> = program
            .iter()
            .map(|instruction| libc::sock_filter {
                code: instruction.code,
                jt: instruction.jump_true,
                jf: instruction.jump_false,
                k: instruction.k,
            })
            .collect();
        let length = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
        // The kernel copies the program that the pointer in it leads to, during the call.
        self.set_option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    /// Asks for a TPACKET_V3 ring; [`crate::ring`] maps it.
    pub fn request_ring(&self, request: &libc::tpacket_req3) -> io::Result<()> {
        let version = libc::tpacket_versions::TPACKET_V3 as c_int;
        self.set_option(libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        self.set_option(libc::SOL_PACKET, libc::PACKET_RX_RING, request)
    }

    /// Has the interface pass on frames that are not for this host, until the socket is closed.
    pub fn make_promiscuous(&self, index: c_int) -> io::Result<()> {
        let request = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        self.set_option(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// Begins to receive every frame of the interface, in both directions.
    pub fn bind(&self, index: c_int) -> io::Result<()> {
        // SAFETY: sockaddr_ll is a plain C structure, of which all zeros is a value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index;
        let length = mem::size_of_val(&address) as libc::socklen_t;
        let address: *const libc::sockaddr_ll = &address;
        // SAFETY: the pointer and the length are those of an address that lives through the call.
        check(unsafe { libc::bind(self.0.as_raw_fd(), address.cast(), length) })?;
        Ok(())
    }

    /// The error that is waiting on the socket, if any; asking takes it away.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let mut error: c_int = 0;
        self.get_option(libc::SOL_SOCKET, libc::SO_ERROR, &mut error)?;
        Ok((error != 0).then(|| io::Error::from_raw_os_error(error)))
    }

    /// Packets dropped for want of room since this was asked last: the kernel starts anew with each answer.
    pub fn take_drops(&self) -> io::Result<u32> {
        let mut statistics = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        self.get_option(libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut statistics)?;
        Ok(statistics.tp_drops)
    }

    /// Waits for a block of the ring, or for an error.
    pub fn wait(&self, patience: Duration) -> io::Result<Wait> {
        // Rounded up: a wait of zero over and over would be a busy one.
        let milliseconds = c_int::try_from(patience.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX);
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is that of one pollfd, which lives through the call.
        match check(unsafe { libc::poll(&mut poll, 1, milliseconds) }) {
            Ok(0) => Ok(Wait::Elapsed),
            Ok(_) if poll.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 => Ok(Wait::Failed),
            Ok(_) => Ok(Wait::Readable),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Wait::Interrupted),
            Err(error) => Err(error),
        }
    }

    /// Maps the first `octets` octets of the socket's ring.
    pub fn map(&self, octets: usize) -> io::Result<*mut c_void> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), octets, protection, libc::MAP_SHARED, self.0.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address) }
    }
}
