//! The rules of [`crate::filter`] as a program of the classic Berkeley packet filter, for the kernel to run before
//! it queues anything.
//!
//! A program can only jump forwards, and its conditional jumps reach 255 instructions. [`Assembler`] therefore
//! works with labels, and widens the jumps that need it.

use std::net::IpAddr;

use crate::error::SettingError;
use crate::filter::DNS_PORT;
use crate::frame::LinkType;
use crate::limits::{EXTENSION_HEADERS_MAX, VLAN_TAGS_MAX};
use crate::packet::{
    ETHERNET_HEADER_OCTETS, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPES_VLAN, IPV6_HEADER_OCTETS,
    PROTOCOL_FRAGMENT, PROTOCOL_UDP, PROTOCOLS_EXTENSION, VLAN_TAG_OCTETS,
};
use crate::resolvers::{Prefix, Resolvers};
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
    /// A := the 16 bits at k
    pub const LDH_ABSOLUTE: u16 = 0x28;
    /// A := the octet at k
    pub const LDB_ABSOLUTE: u16 = 0x30;
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
const M_NEXT_HEADER: u32 = 3;

/// Header flags that keep a message out: the opcode's bits and RD.
const FLAGS_UNWANTED: u32 = 0x7900;
const FLAG_RESPONSE: u32 = 0x8000;
const DNS_FLAGS_OFFSET: u32 = udp::HEADER_OCTETS as u32 + 2;

/// Where a family's header has its source address, and how long an address is.
struct Layout {
    source: u32,
    address: u32,
}

const IPV4: Layout = Layout { source: 12, address: 4 };
const IPV6: Layout = Layout { source: 8, address: 16 };

struct Compiler<'a> {
    assembler: Assembler,
    resolvers: &'a Resolvers,
    accept: Label,
    reject: Label,
}

/// Compiles the filter for an interface whose frames begin with `link`: Ethernet, or else bare IP.
pub fn compile(resolvers: &Resolvers, link: LinkType) -> Result<Vec<Instruction>, SettingError> {
    let mut assembler = Assembler::default();
    let (accept, reject, ipv4, ipv6) =
        (assembler.label(), assembler.label(), assembler.label(), assembler.label());
    let mut compiler = Compiler { assembler, resolvers, accept, reject };
    match link {
        LinkType::Ethernet => compiler.ethernet(ipv4, ipv6),
        _ => compiler.bare_ip(ipv4, ipv6),
    }
    compiler.assembler.here(ipv4);
    compiler.ipv4();
    compiler.assembler.here(ipv6);
    compiler.ipv6();
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
    /// Skips VLAN tags; leaves the network header's offset in X.
    ///
    /// The kernel has taken off the outermost tag already; that only makes one tag fewer to skip.
    fn ethernet(&mut self, ipv4: Label, ipv6: Label) {
        for tags in 0..=VLAN_TAGS_MAX {
            let network = (ETHERNET_HEADER_OCTETS + tags * VLAN_TAG_OCTETS) as u32;
            let next = self.assembler.label();
            self.assembler.plain(code::LDX_IMMEDIATE, network);
            self.assembler.plain(code::LDH_ABSOLUTE, network - 2);
            self.assembler.jump_if(code::JUMP_EQUAL, u32::from(ETHERTYPE_IPV4), ipv4);
            self.assembler.jump_if(code::JUMP_EQUAL, u32::from(ETHERTYPE_IPV6), ipv6);
            if tags < VLAN_TAGS_MAX {
                for ethertype in ETHERTYPES_VLAN {
                    self.assembler.jump_if(code::JUMP_EQUAL, u32::from(ethertype), next);
                }
            }
            self.assembler.jump(self.reject);
            self.assembler.here(next);
        }
    }

    fn bare_ip(&mut self, ipv4: Label, ipv6: Label) {
        self.assembler.plain(code::LDX_IMMEDIATE, 0);
        self.assembler.plain(code::LDB_ABSOLUTE, 0);
        self.assembler.plain(code::AND, 0xf0);
        self.assembler.jump_if(code::JUMP_EQUAL, 0x40, ipv4);
        self.assembler.jump_if(code::JUMP_EQUAL, 0x60, ipv6);
        self.assembler.jump(self.reject);
    }

    fn ipv4(&mut self) {
        self.assembler.plain(code::STX, M_NETWORK);
        self.assembler.plain(code::LDB_INDIRECT, 9);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PROTOCOL_UDP), self.reject);
        self.assembler.plain(code::LDH_INDIRECT, 6);
        self.assembler.jump_if(code::JUMP_SET, 0x3fff, self.reject);
        self.assembler.plain(code::LDB_INDIRECT, 0);
        self.assembler.plain(code::AND, 0x0f);
        self.assembler.plain(code::SHIFT_LEFT, 2);
        self.assembler.plain(code::ADD_X, 0);
        self.assembler.plain(code::TAX, 0);
        self.dns(&IPV4, Compiler::listed_ipv4);
    }

    fn ipv6(&mut self) {
        let udp = self.assembler.label();
        self.assembler.plain(code::STX, M_NETWORK);
        self.assembler.plain(code::LDB_INDIRECT, 6);
        self.assembler.plain(code::ST, M_NEXT_HEADER);
        self.assembler.plain(code::TXA, 0);
        self.assembler.plain(code::ADD, IPV6_HEADER_OCTETS as u32);
        self.assembler.plain(code::TAX, 0);
        self.assembler.plain(code::LD_MEMORY, M_NEXT_HEADER);
        for _ in 0..EXTENSION_HEADERS_MAX {
            let (extension, skip) = (self.assembler.label(), self.assembler.label());
            self.assembler.jump_if(code::JUMP_EQUAL, u32::from(PROTOCOL_UDP), udp);
            for protocol in PROTOCOLS_EXTENSION {
                self.assembler.jump_if(code::JUMP_EQUAL, u32::from(protocol), extension);
            }
            self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PROTOCOL_FRAGMENT), self.reject);
            // The first fragment and the last is the whole datagram (RFC 6946). Such a header has no length.
            self.assembler.plain(code::LDH_INDIRECT, 2);
            self.assembler.jump_if(code::JUMP_SET, 0xfff9, self.reject);
            self.assembler.plain(code::LDB_INDIRECT, 0);
            self.assembler.plain(code::ST, M_NEXT_HEADER);
            self.assembler.plain(code::TXA, 0);
            self.assembler.plain(code::ADD, 8);
            self.assembler.jump(skip);
            self.assembler.here(extension);
            self.assembler.plain(code::LDB_INDIRECT, 0);
            self.assembler.plain(code::ST, M_NEXT_HEADER);
            self.assembler.plain(code::LDB_INDIRECT, 1);
            self.assembler.plain(code::ADD, 1);
            self.assembler.plain(code::SHIFT_LEFT, 3);
            self.assembler.plain(code::ADD_X, 0);
            self.assembler.here(skip);
            self.assembler.plain(code::TAX, 0);
            self.assembler.plain(code::LD_MEMORY, M_NEXT_HEADER);
        }
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(PROTOCOL_UDP), self.reject);
        self.assembler.here(udp);
        self.dns(&IPV6, Compiler::listed_ipv6);
    }

    /// Judges flags, port and both addresses; X points to the UDP header.
    fn dns(&mut self, layout: &Layout, listed: fn(&mut Self, Label)) {
        let (response, addresses, resolver_listed) =
            (self.assembler.label(), self.assembler.label(), self.assembler.label());
        self.assembler.plain(code::LDH_INDIRECT, DNS_FLAGS_OFFSET);
        self.assembler.jump_if(code::JUMP_SET, FLAGS_UNWANTED, self.reject);
        self.assembler.jump_if(code::JUMP_SET, FLAG_RESPONSE, response);
        self.ends(layout, 2, M_RESOLVER, M_SERVER);
        self.assembler.jump(addresses);
        self.assembler.here(response);
        self.ends(layout, 0, M_SERVER, M_RESOLVER);
        self.assembler.here(addresses);
        self.assembler.plain(code::LDX_MEMORY, M_RESOLVER);
        listed(self, resolver_listed);
        self.assembler.jump(self.reject);
        self.assembler.here(resolver_listed);
        self.assembler.plain(code::LDX_MEMORY, M_SERVER);
        listed(self, self.reject);
        self.assembler.jump(self.accept);
    }

    /// Checks the server's port, and notes whose the source and the destination address are.
    fn ends(&mut self, layout: &Layout, port_offset: u32, source: u32, destination: u32) {
        self.assembler.plain(code::LDH_INDIRECT, port_offset);
        self.assembler.jump_unless(code::JUMP_EQUAL, u32::from(DNS_PORT), self.reject);
        self.assembler.plain(code::LD_MEMORY, M_NETWORK);
        self.assembler.plain(code::ST, source);
        self.assembler.plain(code::ADD, layout.address);
        self.assembler.plain(code::ST, destination);
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
        assert!(compile(&resolvers, LinkType::Ethernet).unwrap().len() < 250);
    }

    #[test]
    fn a_list_that_no_program_holds_is_refused() {
        let many: Vec<String> = (0..2000).map(|number| format!("2001:db8::{number:x}")).collect();
        let error = compile(&Resolvers::parse(&many).unwrap(), LinkType::Ethernet).unwrap_err();
        assert!(matches!(
            error,
            SettingError::FilterTooLarge { prefixes: 2000, limit: INSTRUCTIONS_MAX, .. }
        ));
    }
}
