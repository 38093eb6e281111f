//! The TPACKET_V3 ring: blocks of memory that kernel and program hand to each other.
//!
//! Each block begins with a descriptor whose status word says who owns it. The kernel fills a block with packets
//! and gives it over when it is full or a short while old; the program reads them and gives it back. Source:
//! Documentation/networking/packet_mmap.rst of the kernel.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use passive_dns::frame::Timestamp;

use super::socket::Socket;
use crate::limits::{BLOCK_OCTETS, BLOCK_PATIENCE};

/// TPACKET_V3 packs packets of any size into a block; the frame size is a formality that has to divide it.
const FRAME_OCTETS: usize = 2048;

/// A packet in the ring.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub time: Timestamp,
    pub wire_length: usize,
    pub checksum_ready: bool,
    pub octets: &'a [u8],
}

/// What is next in the ring: a packet `P`, or what is asked of it.
#[derive(Clone, Copy, Debug)]
pub enum Next<P> {
    Packet(P),
    /// The kernel owns the next block.
    Empty,
    /// A packet that does not lie within its block.
    Broken,
}

/// The mapped ring.
pub struct Ring {
    memory: NonNull<c_void>,
    blocks: usize,
    /// The block that is read, or will be next.
    block: usize,
    /// Packets of the block that were not given out, and where the next of them begins; None if the block was not
    /// looked at since the kernel had it.
    unread: Option<(u32, usize)>,
}

// SAFETY: the mapping belongs to this value alone and does not care which thread reads it.
unsafe impl Send for Ring {}

impl Ring {
    /// Requests a ring of so many blocks and maps it.
    pub fn new(socket: &Socket, blocks: usize) -> io::Result<Self> {
        let number =
            |value: usize| u32::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
        socket.request_ring(&libc::tpacket_req3 {
            tp_block_size: number(BLOCK_OCTETS)?,
            tp_block_nr: number(blocks)?,
            tp_frame_size: number(FRAME_OCTETS)?,
            tp_frame_nr: number(BLOCK_OCTETS / FRAME_OCTETS * blocks)?,
            tp_retire_blk_tov: BLOCK_PATIENCE.as_millis() as u32,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        })?;
        let memory = socket.map(blocks * BLOCK_OCTETS)?;
        let memory = NonNull::new(memory).ok_or(io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Ring { memory, blocks, block: 0, unread: None })
    }

    /// Whether there is a packet. A block that was read to its end goes back to the kernel here.
    #[inline]
    fn is_ready(&mut self) -> bool {
        loop {
            match self.unread {
                None if !self.owned() => return false,
                None => self.unread = Some(self.contents()),
                Some((0, _)) => {
                    self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
                    self.block = (self.block + 1) % self.blocks;
                    self.unread = None;
                }
                Some(_) => return true,
            }
        }
    }

    /// The time of the next packet.
    #[inline]
    pub fn head(&mut self) -> Next<Timestamp> {
        if !self.is_ready() {
            return Next::Empty;
        }
        match self.unread.map(|(_, offset)| self.header(offset)) {
            Some(Some(header)) => Next::Packet(Timestamp::new(header.tp_sec, header.tp_nsec)),
            Some(None) => Next::Broken,
            None => Next::Empty,
        }
    }

    /// The next packet.
    #[inline]
    pub fn next(&mut self) -> Next<Packet<'_>> {
        if !self.is_ready() {
            return Next::Empty;
        }
        match self.unread {
            Some((packets, offset)) => self.read(packets, offset),
            None => Next::Empty,
        }
    }

    fn descriptor(&self) -> *mut libc::tpacket_block_desc {
        debug_assert!(self.block < self.blocks);
        // SAFETY: the block lies within the mapping of `blocks` blocks. Blocks are aligned to pages.
        unsafe { self.memory.as_ptr().cast::<u8>().add(self.block * BLOCK_OCTETS).cast() }
    }

    /// The word by which kernel and program hand over the block.
    fn status(&self) -> &AtomicU32 {
        // SAFETY: the descriptor begins the current block of the mapping, which lives as long as self; the kernel
        // writes this word too, so that it is only ever touched as an atomic.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.descriptor()).hdr.bh1.block_status) }
    }

    fn owned(&self) -> bool {
        // Acquire: what the kernel wrote before it handed the block over must be seen after it.
        self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// How many packets are in the current block, and where the first of them is.
    fn contents(&self) -> (u32, usize) {
        // SAFETY: the block is ours, as `owned` found, so that nobody writes its descriptor but for the status
        // word, which is not read here.
        unsafe {
            let header = &raw const (*self.descriptor()).hdr.bh1;
            ((*header).num_pkts, (*header).offset_to_first_pkt as usize)
        }
    }

    /// The header at `offset` of the current block, which is ours; None if there is no room for one.
    fn header(&self, offset: usize) -> Option<&libc::tpacket3_hdr> {
        const HEADER_OCTETS: usize = size_of::<libc::tpacket3_hdr>();
        if offset.saturating_add(HEADER_OCTETS) > BLOCK_OCTETS
            || !offset.is_multiple_of(align_of::<libc::tpacket3_hdr>())
        {
            return None;
        }
        let block: *const u8 = self.descriptor().cast();
        // SAFETY: the header lies within the block and is aligned, as was checked; the block is ours, and stays so
        // while self is borrowed; the kernel wrote a tpacket3_hdr where the descriptor or the header before says
        // that there is one, and any octets are one.
        Some(unsafe { &*block.add(offset).cast::<libc::tpacket3_hdr>() })
    }

    /// Reads the packet at `offset` of the current block, which is ours.
    fn read(&mut self, packets: u32, offset: usize) -> Next<Packet<'_>> {
        let Some(header) = self.header(offset).copied() else {
            return Next::Broken;
        };
        let start = offset + usize::from(header.tp_mac);
        let captured = header.tp_snaplen as usize;
        if start.saturating_add(captured) > BLOCK_OCTETS {
            return Next::Broken;
        }
        self.unread = Some((packets - 1, offset + header.tp_next_offset as usize));
        let block: *const u8 = self.descriptor().cast();
        // SAFETY: the packet lies within the block, as was checked. Its octets stay as they are while the block is
        // ours; it goes back in `is_ready`, which the slice's borrow of self keeps from being called.
        let octets = unsafe { std::slice::from_raw_parts(block.add(start), captured) };
        Next::Packet(Packet {
            time: Timestamp::new(header.tp_sec, header.tp_nsec),
            wire_length: header.tp_len as usize,
            checksum_ready: header.tp_status & libc::TP_STATUS_CSUMNOTREADY == 0,
            octets,
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and nothing borrows from it any more. munmap of a whole
        // mapping does not fail.
        unsafe { libc::munmap(self.memory.as_ptr(), self.blocks * BLOCK_OCTETS) };
    }
}
