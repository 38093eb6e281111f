//! Packet sockets: the system calls that [`super::interface`] and [`super::ring`] need.

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use passive_dns::bpf::Instruction;

/// An AF_PACKET socket.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// What [`wait`] came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// The time is over, or there is something on a socket.
    Over,
    /// A signal arrived.
    Interrupted,
}

/// What is known of a socket after [`wait`].
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Poll(libc::pollfd);

impl Poll {
    /// A place for a socket that is waited for, or for none.
    pub fn of(socket: Option<&Socket>) -> Self {
        // A negative descriptor is passed over (poll(2)).
        let descriptor = socket.map_or(-1, |socket| socket.0.as_raw_fd());
        Poll(libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 })
    }

    /// Whether an error waits on the socket.
    pub fn failed(&self) -> bool {
        self.0.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0
    }
}

/// Waits for a block in a ring of any of the sockets, or for an error on one.
pub fn wait(polls: &mut [Poll], patience: Duration) -> io::Result<Wait> {
    // Rounded up: a wait of zero over and over would be a busy one.
    let milliseconds = c_int::try_from(patience.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX);
    let count = polls.len() as libc::nfds_t;
    // SAFETY: `Poll` is a pollfd and nothing else, so that the pointer and the count are those of pollfds, which live
    // through the call.
    match check(unsafe { libc::poll(polls.as_mut_ptr().cast(), count, milliseconds) }) {
        Ok(_) => Ok(Wait::Over),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Wait::Interrupted),
        Err(error) => Err(error),
    }
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
        let request = self.ask(interface, libc::SIOCGIFHWADDR)?;
        // SAFETY: SIOCGIFHWADDR has filled this member of the union.
        Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
    }

    /// Whether an interface is up.
    pub fn is_up(&self, interface: &str) -> io::Result<bool> {
        let request = self.ask(interface, libc::SIOCGIFFLAGS)?;
        // SAFETY: SIOCGIFFLAGS has filled this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        Ok(c_int::from(flags) & libc::IFF_UP != 0)
    }

    /// Asks a question of netdevice(7) about an interface.
    fn ask(&self, interface: &str, question: libc::Ioctl) -> io::Result<libc::ifreq> {
        // SAFETY: ifreq is a plain C structure, of which all zeros is a value.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        let name = interface.as_bytes();
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (place, octet) in request.ifr_name.iter_mut().zip(name) {
            *place = *octet as libc::c_char;
        }
        // SAFETY: the questions above take and fill an ifreq, which lives through the call and whose name ends in
        // zero.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), question, &mut request) })?;
        Ok(request)
    }

    /// Puts a filter in the place of the one before, from one packet to the next; what is queued stays.
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

    /// Leaves out frames that this host sends: on a loopback interface the same ones arrive too.
    pub fn ignore_outgoing(&self) -> io::Result<()> {
        let yes: c_int = 1;
        self.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &yes)
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
