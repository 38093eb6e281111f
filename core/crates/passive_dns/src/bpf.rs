//! The rules of [`crate::filter`] as a program of the classic Berkeley packet filter, for the kernel to run before
//! it queues anything.
//!
//! A program can only jump forwards, and its conditional jumps reach 255 instructions. [`Assembler`] therefore
//! works with labels, and widens the jumps that need it.

use std::net::IpAddr;

use crate::dns::DNS_PORT;
use crate::error::SettingError;
use crate::frame::LinkType;
use crate::icmp::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use crate::limits::{EXTENSION_HEADERS_MAX, TUNNELS_MAX, VLAN_TAGS_MAX};
use crate::link::{ETHERNET_HEADER_OCTETS, ETHERTYPES_VLAN, VLAN_TAG_OCTETS};
use crate::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6_HEADER_OCTETS, PROTOCOL_FRAGMENT, PROTOCOL_TCP, PROTOCOL_UDP,
    PROTOCOLS_EXTENSION,
};
use crate::resolvers::{Prefix, Resolvers};
use crate::tunnel::{
    ERSPAN_HEADER_OCTETS, ERSPAN_TRUNCATED, ERSPAN_VERSION, ERSPAN_VERSION_MASK, ETHERTYPE_ERSPAN,
    ETHERTYPE_ETHERNET, GRE_HEADER_OCTETS, GRE_OPTION_OCTETS, GRE_OPTIONS, GRE_SEQUENCE, GRE_UNREAD,
    PORT_VXLAN, PROTOCOL_GRE, VXLAN_HEADER_OCTETS, VXLAN_IDENTIFIED,
};
use crate::udp;

/// BPF_MAXINSNS of linux/bpf_common.h.
pub const INSTRUCTIONS_MAX: usize = 4096;

/// How much of an accepted packet is kept: more than any packet has.
const KEEP: u32 = 0x4_0000;

/// The layout of struct sock_filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub k: u32,
}

/// The operation codes used, named as in the BPF assembler of the kernel's documentation.
pub mod code {
    /// A := the 32 bits at X + k
    pub const LD_INDIRECT: u16 = 0x40;
    /// A := the 16 bits at X + k
    pub const LDH_INDIRECT: u16 = 0x48;
    /// A := the octet at X + k
    pub const LDB_INDIRECT: u16 = 0x50;
    /// A := M[k]
    pub const LD_MEMORY: u16 = 0x60;
    /// X := k
    pub const LDX_IMMEDIATE: u16 = 0x01;
    /// X := M[k]
    pub const LDX_MEMORY: u16 = 0x61;
    /// M[k] := A
    pub const ST: u16 = 0x02;
    /// M[k] := X
    pub const STX: u16 = 0x03;
    pub const ADD: u16 = 0x04;
    pub const ADD_X: u16 = 0x0c;
    pub const AND: u16 = 0x54;
    pub const SHIFT_LEFT: u16 = 0x64;
    pub const JUMP: u16 = 0x05;
    pub const JUMP_EQUAL: u16 = 0x15;
    /// Jump if A and X are equal.
    pub const JUMP_EQUAL_X: u16 = 0x1d;
    /// Jump if A and k have a bit in common.
    pub const JUMP_SET: u16 = 0x45;
    pub const RETURN: u16 = 0x06;
    /// X := A
    pub const TAX: u16 = 0x07;
    /// A := X
    pub const TXA: u16 = 0x87;
}

//------------ Assembler ---------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
struct Label(usize);

enum Item {
    Plain {
        code: u16,
        k: u32,
    },
    /// Jumps to the label if the condition is `when`, else goes on.
    Branch {
        code: u16,
        k: u32,
        when: bool,
        target: Label,
        wide: bool,
    },
    Jump(Label),
    Here(Label),
}

impl Item {
    fn instructions(&self) -> usize {
        match self {
            Item::Plain { .. } | Item::Jump(_) => 1,
            Item::Branch { wide, .. } => 1 + usize::from(*wide),
            Item::Here(_) => 0,
        }
    }
}

#[derive(Default)]
struct Assembler {
    items: Vec<Item>,
    labels: usize,
}

impl Assembler {
    fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    fn here(&mut self, label: Label) {
        self.items.push(Item::Here(label));
    }

    fn plain(&mut self, code: u16, k: u32) {
        self.items.push(Item::Plain { code, k });
    }

    fn jump(&mut self, target: Label) {
        self.items.push(Item::Jump(target));
    }

    fn jump_if(&mut self, code: u16, k: u32, target: Label) {
        self.items.push(Item::Branch { code, k, when: true, target, wide: false });
    }

    fn jump_unless(&mut self, code: u16, k: u32, target: Label) {
        self.items.push(Item::Branch { code, k, when: false, target, wide: false });
    }

    /// Where each label ends up, and where the program ends.
    fn places(&self) -> (Vec<usize>, usize) {
        let mut places = vec![0; self.labels];
        let mut at = 0;
        for item in &self.items {
            if let Item::Here(label) = item {
                places[label.0] = at;
            }
            at += item.instructions();
        }
        (places, at)
    }

    /// Widening one jump moves what lies behind it, so that others may no longer reach: repeat until none is left.
    fn widen(&mut self) -> (Vec<usize>, usize) {
        loop {
            let (places, end) = self.places();
            let mut at = 0;
            let mut changed = false;
            for item in &mut self.items {
                let length = item.instructions();
                if let Item::Branch { target, wide, .. } = item
                    && !*wide
                    && places[target.0] - (at + 1) > usize::from(u8::MAX)
                {
                    *wide = true;
                    changed = true;
                }
                at += length;
            }
            if !changed {
                return (places, end);
            }
        }
    }

    fn assemble(mut self) -> Vec<Instruction> {
        let (places, end) = self.widen();
        let mut program = Vec::with_capacity(end);
        for item in &self.items {
            let at = program.len();
            let jump = |target: &Label, at: usize| Instruction {
                code: code::JUMP,
                jump_true: 0,
                jump_false: 0,
                k: (places[target.0] - (at + 1)) as u32,
            };
            match item {
                Item::Plain { code, k } => {
                    program.push(Instruction { code: *code, jump_true: 0, jump_false: 0, k: *k })
                }
                Item::Jump(target) => program.push(jump(target, at)),
                Item::Branch { code, k, when, target, wide: true } => {
                    // Over the long jump if the condition is not as wanted.
                    let (jump_true, jump_false) = if *when { (0, 1) } else { (1, 0) };
                    program.push(Instruction { code: *code, jump_true, jump_false, k: *k });
                    program.push(jump(target, at + 1));
                }
                Item::Branch { code, k, when, target, wide: false } => {
                    let distance = (places[target.0] - (at + 1)) as u8;
                    let (jump_true, jump_false) = if *when { (distance, 0) } else { (0, distance) };
                    program.push(Instruction { code: *code, jump_true, jump_false, k: *k });
                }
                Item::Here(_) => {}
            }
        }
        program
    }
}

//------------ The program -------------------------------------------------------------------------------------

/// Scratch memory: where the network header begins; where it would begin if the address to be listed, or the one
/// not to be, were its source address.
const M_NETWORK: u32 = 0;
const M_RESOLVER: u32 = 1;
const M_SERVER: u32 = 2;
/// What is behind the IP header, or the next of its extension headers.
const M_PROTOCOL: u32 = 3;
const M_FLAGS: u32 = 4;
/// Where the packet begins that an ICMP error quotes, and four octets of an address in it.
const M_QUOTE: u32 = 5;
const M_WORD: u32 = 6;

/// Header flags that keep a message out: the opcode's bits and RD.
const FLAGS_UNWANTED: u32 = 0x7900;
const FLAG_RESPONSE: u32 = 0x8000;
const DNS_FLAGS_OFFSET: u32 = udp::HEADER_OCTETS as u32 + 2;

const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

/// The fragment field of IPv4, and that of IPv6's fragment header.
const IPV4_OFFSET: u32 = 0x1fff;
const IPV4_MORE: u32 = 0x2000;
const IPV6_OFFSET: u32 = 0xfff8;
const IPV6_OFFSET_OR_MORE: u32 = 0xfff9;

/// A family's header: where it has its source address, how long an address is, what its first octet says of the
/// version, and ICMP's number and the types of it that are read (crate::icmp).
struct Layout {
    source: u32,
    address: u32,
    version: u32,
    icmp: u8,
    errors: &'static [u32],
}

const IPV4: Layout = Layout { source: 12, address: 4, version: 0x40, icmp: PROTOCOL_ICMP, errors: &[3, 11] };
const IPV6: Layout =
    Layout { source: 8, address: 16, version: 0x60, icmp: PROTOCOL_ICMPV6, errors: &[1, 2, 3] };

/// Where a packet of each family goes on, with its network header's offset in X.
#[derive(Clone, Copy)]
struct Stage {
    ipv4: Label,
    ipv6: Label,
}

struct Compiler<'a> {
    assembler: Assembler,
    resolvers: &'a Resolvers,
    accept: Label,
    reject: Label,
}

/// Compiles the filter for an interface whose frames begin with `link`: Ethernet, or else bare IP. The packet may be
/// the innermost of up to [`TUNNELS_MAX`] tunnels if it may be `encapsulated`.
pub fn compile(
    resolvers: &Resolvers,
    link: LinkType,
    encapsulated: bool,
) -> Result<Vec<Instruction>, SettingError> {
    let mut assembler = Assembler::default();
    let (accept, reject) = (assembler.label(), assembler.label());
    let mut compiler = Compiler { assembler, resolvers, accept, reject };
    let mut stage = compiler.stage();
    compiler.assembler.plain(code::LDX_IMMEDIATE, 0);
    match link {
        LinkType::Ethernet => compiler.ethernet(stage),
        _ => compiler.bare_ip(stage),
    }
    if encapsulated {
        let innermost = compiler.stage();
        for level in 1..=TUNNELS_MAX {
            let inside = if level == TUNNELS_MAX { innermost } else { compiler.stage() };
            compiler.tunnel(stage, inside, innermost);
            stage = inside;
        }
    }
    compiler.ipv4(stage.ipv4);
    compiler.ipv6(stage.ipv6);
    let Compiler { mut assembler, .. } = compiler;
    assembler.here(accept);
    assembler.plain(code::RETURN, KEEP);
    assembler.here(reject);
    assembler.plain(code::RETURN, 0);
    let program = assembler.assemble();
    if program.len() > INSTRUCTIONS_MAX {
        return Err(SettingError::FilterTooLarge {
            prefixes: resolvers.prefixes().len(),
            instructions: program.len(),
            limit: INSTRUCTIONS_MAX,
        });
    }
    Ok(program)
}

impl Compiler<'_> {
    fn stage(&mut self) -> Stage {
        Stage { ipv4: self.assembler.label(), ipv6: self.assembler.label() }
    }

    /// X := X + octets
    fn advance(&mut self, octets: usize) {
        self.assembler.plain(code::TXA, 0);
        self.assembler.plain(code::ADD, octets as u32);
        self.assembler.plain(code::TAX, 0);
    }

    //--- Down to the network header

    /// Skips the Ethernet header at X, and VLAN tags.
    ///
    /// The kernel has taken off the outermost tag already; that only makes one tag fewer to skip.
    fn ethernet(&mut self, stage: Stage) {
        for tags in 0..=VLAN_TAGS_MAX {
            let network = ETHERNET_HEADER_OCTETS + tags * VLAN_TAG_OCTETS;
            let (ipv4, ipv6, tagged) =
                (self.assembler.label(), self.assembler.label(), self.assembler.label());
            self.assembler.plain(code::LDH_INDIRECT, network as u32 - 2);
            self.assembler.jump_if(code::JUMP_EQUAL, u32::from(ETHERTYPE_IPV4), ipv4);
            self.assembler.jump_if(code::JUMP_EQUAL, u32::from(ETHERTYPE_IPV6), ipv6);
            if tags < VLAN_TAGS_MAX {
                for ethertype in ETHERTYPES_VLAN {
                    self.assembler.jump_if(code::JUMP_EQUAL, u32::from(ethertype), tagged);
                }
            }
            self.assembler.jump(self.reject);
            for (found, family) in [(ipv4, stage.ipv4), (ipv6, stage.ipv6)] {
                self.assembler.here(found);
                self.advance(network);
                self.assembler.jump(family);
            }
            self.assembler.here(tagged);
        }
    }

    fn bare_ip(&mut self, stage: Stage) {
        self.assembler.plain(code::LDB_INDIRECT, 0);
        self.assembler.plain(code::AND, 0xf0);
        self.assembler.jump_if(code::JUMP_EQUAL, IPV4.version, stage.ipv4);
        self.assembler.jump_if(code::JUMP_EQUAL, IPV6.version, stage.ipv6);
        self.assembler.jump(self.reject);
    }

    /// Goes on `inside` what is a tunnel's packet, and with the `innermost` if it is none (crate::tunnel).
    fn tunnel(&mut self, here: Stage, inside: Stage, innermost: Stage) {
        let (gre, ethernet) = (self.assembler.label(), self.assembler.label());
        let (gre_of_ipv4, not_vxlan_of_ipv4, not_tunnel_of_ipv6, whole) =
            (self.assembler.label(), self.assembler.label(), self.assembler.label(), self.assembler.label());

        self.assembler.here(here.ipv4);
        self.assembler.plain(code::STX, M_NETWORK);
        self.assembler.plain(code::LDB_INDIRECT, 9);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(PROTOCOL_GRE), gre_of_ipv4);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PROTOCOL_UDP), innermost.ipv4);
        self.assembler.plain(code::LDH_INDIRECT, 6);
        self.assembler.jump_if(code::JUMP_SET, IPV4_OFFSET | IPV4_MORE, innermost.ipv4);
        self.skip_ipv4_header();
        self.vxlan(ethernet, not_vxlan_of_ipv4);
        self.assembler.here(not_vxlan_of_ipv4);
        self.assembler.plain(code::LDX_MEMORY, M_NETWORK);
        self.assembler.jump(innermost.ipv4);
        self.assembler.here(gre_of_ipv4);
        self.assembler.plain(code::LDH_INDIRECT, 6);
        self.assembler.jump_if(code::JUMP_SET, IPV4_OFFSET | IPV4_MORE, self.reject);
        self.skip_ipv4_header();
        self.assembler.jump(gre);

        self.assembler.here(here.ipv6);
        self.assembler.plain(code::STX, M_NETWORK);
        self.skip_ipv6_header(EXTENSION_HEADERS_MAX, IPV6_OFFSET_OR_MORE, not_tunnel_of_ipv6, whole);
        self.assembler.here(whole);
        self.assembler.plain(code::LD_MEMORY, M_PROTOCOL);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(PROTOCOL_GRE), gre);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PROTOCOL_UDP), not_tunnel_of_ipv6);
        self.vxlan(ethernet, not_tunnel_of_ipv6);
        self.assembler.here(not_tunnel_of_ipv6);
        self.assembler.plain(code::LDX_MEMORY, M_NETWORK);
        self.assembler.jump(innermost.ipv6);

        self.assembler.here(gre);
        self.gre(inside, ethernet);
        self.assembler.here(ethernet);
        self.ethernet(inside);
    }

    /// Goes on behind the VXLAN header if X points to a UDP header with one behind it.
    fn vxlan(&mut self, ethernet: Label, other: Label) {
        self.assembler.plain(code::LDH_INDIRECT, DESTINATION_PORT);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PORT_VXLAN), other);
        self.assembler.plain(code::LDH_INDIRECT, SOURCE_PORT);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(DNS_PORT), other);
        self.assembler.plain(code::LDB_INDIRECT, udp::HEADER_OCTETS as u32);
        self.assembler.jump_unless(code::JUMP_SET, u32::from(VXLAN_IDENTIFIED), other);
        self.advance(udp::HEADER_OCTETS + VXLAN_HEADER_OCTETS);
        self.assembler.jump(ethernet);
    }

    /// Goes on inside the GRE packet at X.
    fn gre(&mut self, inside: Stage, ethernet: Label) {
        self.assembler.plain(code::LDH_INDIRECT, 0);
        self.assembler.jump_if(code::JUMP_SET, u32::from(GRE_UNREAD), self.reject);
        self.assembler.plain(code::ST, M_FLAGS);
        self.assembler.plain(code::LDH_INDIRECT, 2);
        self.assembler.plain(code::ST, M_PROTOCOL);
        self.advance(GRE_HEADER_OCTETS);
        for option in GRE_OPTIONS {
            let next = self.assembler.label();
            self.assembler.plain(code::LD_MEMORY, M_FLAGS);
            self.assembler.jump_unless(code::JUMP_SET, u32::from(option), next);
            self.advance(GRE_OPTION_OCTETS);
            self.assembler.here(next);
        }
        self.assembler.plain(code::LD_MEMORY, M_PROTOCOL);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(ETHERTYPE_IPV4), inside.ipv4);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(ETHERTYPE_IPV6), inside.ipv6);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(ETHERTYPE_ETHERNET), ethernet);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(ETHERTYPE_ERSPAN), self.reject);
        self.assembler.plain(code::LD_MEMORY, M_FLAGS);
        self.assembler.jump_unless(code::JUMP_SET, u32::from(GRE_SEQUENCE), self.reject);
        self.assembler.plain(code::LDB_INDIRECT, 0);
        self.assembler.plain(code::AND, u32::from(ERSPAN_VERSION_MASK));
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(ERSPAN_VERSION), self.reject);
        self.assembler.plain(code::LDB_INDIRECT, 2);
        self.assembler.jump_if(code::JUMP_SET, u32::from(ERSPAN_TRUNCATED), self.reject);
        self.advance(ERSPAN_HEADER_OCTETS);
    }

    //--- Down to the transport header

    fn skip_ipv4_header(&mut self) {
        self.assembler.plain(code::LDB_INDIRECT, 0);
        self.assembler.plain(code::AND, 0x0f);
        self.assembler.plain(code::SHIFT_LEFT, 2);
        self.assembler.plain(code::ADD_X, 0);
        self.assembler.plain(code::TAX, 0);
    }

    /// Goes to `whole` behind the IPv6 header at X and its extension headers, up to `headers` of them; or to
    /// `fragment` with X at a fragment header that has one of these bits. M_PROTOCOL has what comes next.
    ///
    /// The first fragment and the last is the whole datagram (RFC 6946).
    fn skip_ipv6_header(&mut self, headers: usize, bits: u32, fragment: Label, whole: Label) {
        self.assembler.plain(code::LDB_INDIRECT, 6);
        self.assembler.plain(code::ST, M_PROTOCOL);
        self.advance(IPV6_HEADER_OCTETS);
        for _ in 0..headers {
            let (extension, skip) = (self.assembler.label(), self.assembler.label());
            self.assembler.plain(code::LD_MEMORY, M_PROTOCOL);
            for protocol in PROTOCOLS_EXTENSION {
                self.assembler.jump_if(code::JUMP_EQUAL, u32::from(protocol), extension);
            }
            self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PROTOCOL_FRAGMENT), whole);
            self.assembler.plain(code::LDH_INDIRECT, 2);
            self.assembler.jump_if(code::JUMP_SET, bits, fragment);
            self.assembler.plain(code::LDB_INDIRECT, 0);
            self.assembler.plain(code::ST, M_PROTOCOL);
            // This header has no length of its own.
            self.assembler.plain(code::TXA, 0);
            self.assembler.plain(code::ADD, 8);
            self.assembler.jump(skip);
            self.assembler.here(extension);
            self.assembler.plain(code::LDB_INDIRECT, 0);
            self.assembler.plain(code::ST, M_PROTOCOL);
            self.assembler.plain(code::LDB_INDIRECT, 1);
            self.assembler.plain(code::ADD, 1);
            self.assembler.plain(code::SHIFT_LEFT, 3);
            self.assembler.plain(code::ADD_X, 0);
            self.assembler.here(skip);
            self.assembler.plain(code::TAX, 0);
        }
        self.assembler.jump(whole);
    }

    //--- The judgement

    fn ipv4(&mut self, here: Label) {
        let (piece, first_piece, addresses) =
            (self.assembler.label(), self.assembler.label(), self.assembler.label());
        self.assembler.here(here);
        self.assembler.plain(code::STX, M_NETWORK);
        self.assembler.plain(code::LDB_INDIRECT, 9);
        self.assembler.plain(code::ST, M_PROTOCOL);
        self.assembler.plain(code::LDH_INDIRECT, 6);
        self.assembler.jump_if(code::JUMP_SET, IPV4_OFFSET, piece);
        self.assembler.jump_if(code::JUMP_SET, IPV4_MORE, first_piece);
        self.skip_ipv4_header();
        self.whole(&IPV4, addresses);
        self.assembler.here(first_piece);
        self.skip_ipv4_header();
        self.first_piece();
        self.assembler.here(piece);
        self.piece(&IPV4);
        self.assembler.here(addresses);
        self.addresses(true, Compiler::listed_ipv4);
    }

    fn ipv6(&mut self, here: Label) {
        let (fragment, whole, piece, addresses) =
            (self.assembler.label(), self.assembler.label(), self.assembler.label(), self.assembler.label());
        self.assembler.here(here);
        self.assembler.plain(code::STX, M_NETWORK);
        self.skip_ipv6_header(EXTENSION_HEADERS_MAX, IPV6_OFFSET_OR_MORE, fragment, whole);
        self.assembler.here(whole);
        self.whole(&IPV6, addresses);
        self.assembler.here(fragment);
        self.assembler.plain(code::LDB_INDIRECT, 0);
        self.assembler.plain(code::ST, M_PROTOCOL);
        self.assembler.plain(code::LDH_INDIRECT, 2);
        self.assembler.jump_if(code::JUMP_SET, IPV6_OFFSET, piece);
        self.advance(8);
        self.first_piece();
        self.assembler.here(piece);
        self.piece(&IPV6);
        self.assembler.here(addresses);
        self.addresses(false, Compiler::listed_ipv6);
    }

    /// Judges a whole datagram whose transport header is at X.
    fn whole(&mut self, layout: &Layout, addresses: Label) {
        let (udp, tcp) = (self.assembler.label(), self.assembler.label());
        self.assembler.plain(code::LD_MEMORY, M_PROTOCOL);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(PROTOCOL_UDP), udp);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(PROTOCOL_TCP), tcp);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(layout.icmp), self.reject);
        self.icmp(layout, addresses);
        self.assembler.here(udp);
        self.udp(layout, addresses);
        self.assembler.here(tcp);
        self.tcp(layout, addresses);
    }

    /// Judges flags and port of a message; whether it is a response tells which end is the server's.
    fn udp(&mut self, layout: &Layout, addresses: Label) {
        let response = self.assembler.label();
        self.assembler.plain(code::LDH_INDIRECT, DNS_FLAGS_OFFSET);
        self.assembler.jump_if(code::JUMP_SET, FLAGS_UNWANTED, self.reject);
        self.assembler.jump_if(code::JUMP_SET, FLAG_RESPONSE, response);
        self.require_port(DESTINATION_PORT);
        self.ends(layout, M_RESOLVER, M_SERVER);
        self.assembler.jump(addresses);
        self.assembler.here(response);
        self.require_port(SOURCE_PORT);
        self.ends(layout, M_SERVER, M_RESOLVER);
        self.assembler.jump(addresses);
    }

    /// Judges the ports of a segment: that of one end is 53.
    fn tcp(&mut self, layout: &Layout, addresses: Label) {
        let from_server = self.assembler.label();
        self.assembler.plain(code::LDH_INDIRECT, SOURCE_PORT);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(DNS_PORT), from_server);
        self.require_port(DESTINATION_PORT);
        self.ends(layout, M_RESOLVER, M_SERVER);
        self.assembler.jump(addresses);
        self.assembler.here(from_server);
        self.refuse_port(DESTINATION_PORT);
        self.ends(layout, M_SERVER, M_RESOLVER);
        self.assembler.jump(addresses);
    }

    /// Judges an error by the packet that it quotes, which must be the receiver's own.
    fn icmp(&mut self, layout: &Layout, addresses: Label) {
        let (error, quoted, tcp, ends) =
            (self.assembler.label(), self.assembler.label(), self.assembler.label(), self.assembler.label());
        self.assembler.plain(code::LDB_INDIRECT, 0);
        for kind in layout.errors {
            self.assembler.jump_if(code::JUMP_EQUAL, *kind, error);
        }
        self.assembler.jump(self.reject);
        self.assembler.here(error);
        self.advance(8);
        self.assembler.plain(code::STX, M_QUOTE);
        self.assembler.plain(code::LDB_INDIRECT, 0);
        self.assembler.plain(code::AND, 0xf0);
        self.assembler.jump_unless(code::JUMP_EQUAL, layout.version, self.reject);
        for word in (0..layout.address).step_by(4) {
            self.assembler.plain(code::LDX_MEMORY, M_NETWORK);
            self.assembler.plain(code::LD_INDIRECT, layout.source + layout.address + word);
            self.assembler.plain(code::ST, M_WORD);
            self.assembler.plain(code::LDX_MEMORY, M_QUOTE);
            self.assembler.plain(code::LD_INDIRECT, layout.source + word);
            self.assembler.plain(code::LDX_MEMORY, M_WORD);
            self.assembler.jump_unless(code::JUMP_EQUAL_X, 0, self.reject);
        }
        self.assembler.plain(code::LDX_MEMORY, M_QUOTE);
        if layout.version == IPV4.version {
            self.assembler.plain(code::LDB_INDIRECT, 9);
            self.assembler.plain(code::ST, M_PROTOCOL);
            self.assembler.plain(code::LDH_INDIRECT, 6);
            self.assembler.jump_if(code::JUMP_SET, IPV4_OFFSET, self.reject);
            self.skip_ipv4_header();
        } else {
            // A quoted fragment header comes on top of the others.
            self.skip_ipv6_header(EXTENSION_HEADERS_MAX + 1, IPV6_OFFSET, self.reject, quoted);
        }
        self.assembler.here(quoted);
        self.assembler.plain(code::LD_MEMORY, M_PROTOCOL);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(PROTOCOL_TCP), tcp);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PROTOCOL_UDP), self.reject);
        self.assembler.plain(code::LDH_INDIRECT, DNS_FLAGS_OFFSET);
        self.assembler.jump_if(code::JUMP_SET, FLAGS_UNWANTED | FLAG_RESPONSE, self.reject);
        self.require_port(DESTINATION_PORT);
        self.assembler.jump(ends);
        self.assembler.here(tcp);
        self.require_port(DESTINATION_PORT);
        self.refuse_port(SOURCE_PORT);
        self.assembler.here(ends);
        self.assembler.plain(code::LD_MEMORY, M_QUOTE);
        self.assembler.plain(code::ST, M_RESOLVER);
        self.assembler.plain(code::ADD, layout.address);
        self.assembler.plain(code::ST, M_SERVER);
        self.assembler.jump(addresses);
    }

    /// Judges the ports of a datagram's first piece, whose transport header is at X: it comes from a server.
    fn first_piece(&mut self) {
        let from_server = self.assembler.label();
        self.require_port(SOURCE_PORT);
        self.assembler.plain(code::LD_MEMORY, M_PROTOCOL);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PROTOCOL_TCP), from_server);
        self.refuse_port(DESTINATION_PORT);
        self.assembler.here(from_server);
    }

    /// Judges a piece of a datagram: its receiver is the resolver.
    fn piece(&mut self, layout: &Layout) {
        let read = self.assembler.label();
        self.assembler.plain(code::LD_MEMORY, M_PROTOCOL);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(PROTOCOL_UDP), read);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PROTOCOL_TCP), self.reject);
        self.assembler.here(read);
        self.ends(layout, M_SERVER, M_RESOLVER);
    }

    fn require_port(&mut self, place: u32) {
        self.assembler.plain(code::LDH_INDIRECT, place);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(DNS_PORT), self.reject);
    }

    fn refuse_port(&mut self, place: u32) {
        self.assembler.plain(code::LDH_INDIRECT, place);
        self.assembler.jump_if(code::JUMP_EQUAL, u32::from(DNS_PORT), self.reject);
    }

    /// Notes whose the source and the destination address are.
    fn ends(&mut self, layout: &Layout, source: u32, destination: u32) {
        self.assembler.plain(code::LD_MEMORY, M_NETWORK);
        self.assembler.plain(code::ST, source);
        self.assembler.plain(code::ADD, layout.address);
        self.assembler.plain(code::ST, destination);
    }

    /// Accepts if the one address is listed and the other is not.
    fn addresses(&mut self, ipv4: bool, listed: fn(&mut Self, Label)) {
        if self.resolvers.is_everybody(ipv4) {
            self.assembler.jump(self.accept);
            return;
        }
        let resolver_listed = self.assembler.label();
        self.assembler.plain(code::LDX_MEMORY, M_RESOLVER);
        listed(self, resolver_listed);
        self.assembler.jump(self.reject);
        self.assembler.here(resolver_listed);
        self.assembler.plain(code::LDX_MEMORY, M_SERVER);
        listed(self, self.reject);
        self.assembler.jump(self.accept);
    }

    /// Jumps to `found` if the IPv4 address is in the list; single addresses, the usual case, come first.
    fn listed_ipv4(&mut self, found: Label) {
        let (hosts, networks): (Vec<&Prefix>, Vec<&Prefix>) = self
            .resolvers
            .prefixes()
            .iter()
            .filter(|prefix| prefix.address().is_ipv4())
            .partition(|prefix| prefix.length() == 32);
        if !hosts.is_empty() {
            self.assembler.plain(code::LD_INDIRECT, IPV4.source);
        }
        for host in hosts {
            self.assembler.jump_if(code::JUMP_EQUAL, words(host)[0], found);
        }
        for network in networks {
            self.assembler.plain(code::LD_INDIRECT, IPV4.source);
            self.assembler.plain(code::AND, mask(network.length()));
            self.assembler.jump_if(code::JUMP_EQUAL, words(network)[0], found);
        }
    }

    /// Jumps to `found` if the IPv6 address is in the list.
    fn listed_ipv6(&mut self, found: Label) {
        for prefix in self.resolvers.prefixes().iter().filter(|prefix| prefix.address().is_ipv6()) {
            let next = self.assembler.label();
            for (index, word) in words(prefix).into_iter().enumerate() {
                let bits = prefix.length().saturating_sub(32 * index as u8).min(32);
                if bits == 0 {
                    break;
                }
                self.assembler.plain(code::LD_INDIRECT, IPV6.source + 4 * index as u32);
                if bits < 32 {
                    self.assembler.plain(code::AND, mask(bits));
                }
                self.assembler.jump_unless(code::JUMP_EQUAL, word, next);
            }
            self.assembler.jump(found);
            self.assembler.here(next);
        }
    }
}

/// The address of a prefix as 32-bit words, the first four octets first.
fn words(prefix: &Prefix) -> Vec<u32> {
    match prefix.address() {
        IpAddr::V4(address) => vec![address.to_bits()],
        IpAddr::V6(address) => address
            .octets()
            .chunks_exact(4)
            .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
            .collect(),
    }
}

/// The upper `bits` bits of a word; up to 32 of them.
fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_widened_when_they_do_not_reach() {
        for distance in [0, 254, 255, 256, 600] {
            let mut assembler = Assembler::default();
            let far = assembler.label();
            assembler.jump_if(code::JUMP_EQUAL, 7, far);
            for _ in 0..distance {
                assembler.plain(code::ADD, 1);
            }
            assembler.here(far);
            assembler.plain(code::RETURN, 0);
            let program = assembler.assemble();
            if distance <= 255 {
                assert_eq!(usize::from(program[0].jump_true), distance);
                assert_eq!(program.len(), distance + 2);
            } else {
                assert_eq!((program[0].jump_true, program[0].jump_false), (0, 1));
                assert_eq!((program[1].code, program[1].k as usize), (code::JUMP, distance));
                assert_eq!(program.len(), distance + 3);
            }
        }
    }

    #[test]
    fn two_resolvers_make_a_short_program() {
        let resolvers = Resolvers::parse(&["192.0.2.53", "2001:db8::53"]).unwrap();
        for (encapsulated, most) in [(false, 550), (true, 1000)] {
            let instructions = compile(&resolvers, LinkType::Ethernet, encapsulated).unwrap().len();
            assert!(instructions < most, "{instructions} instructions");
        }
    }

    #[test]
    fn a_list_that_no_program_holds_is_refused() {
        let many: Vec<String> = (0..2000).map(|number| format!("2001:db8::{number:x}")).collect();
        let error = compile(&Resolvers::parse(&many).unwrap(), LinkType::Ethernet, false).unwrap_err();
        assert!(matches!(
            error,
            SettingError::FilterTooLarge { prefixes: 2000, limit: INSTRUCTIONS_MAX, .. }
        ));
    }
}
