//! The kernel's filter and the one in user space are one: a program run by a small interpreter of classic BPF
//! agrees with the recorder on generated frames.

mod common;

use std::collections::HashMap;

use passive_dns::bpf::{self, INSTRUCTIONS_MAX, Instruction, code};
use passive_dns::frame::{Frame, LinkType};
use passive_dns::icmp::IcmpError;
use passive_dns::link;
use passive_dns::nmsg::dnsqr::Kind;
use passive_dns::outcome::{MessageOutcome, PacketOutcome};
use passive_dns::recorder::Recorder;
use passive_dns::resolvers::Resolvers;
use passive_dns::settings::Settings;
use proptest::prelude::*;

/// Runs a program; what it returns is how much of the packet to keep. A load beyond the packet returns 0, as in
/// the kernel.
fn run(program: &[Instruction], packet: &[u8]) -> u32 {
    fn load(packet: &[u8], offset: u32, octets: usize) -> Option<u32> {
        let offset = offset as usize;
        let slice = packet.get(offset..offset + octets)?;
        Some(slice.iter().fold(0, |value, octet| value << 8 | u32::from(*octet)))
    }
    let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; 16]);
    let mut at = 0;
    loop {
        let Instruction { code, jump_true, jump_false, k } = program[at];
        at += 1;
        let loaded = match code {
            code::LD_INDIRECT => load(packet, x + k, 4),
            code::LDH_INDIRECT => load(packet, x + k, 2),
            code::LDB_INDIRECT => load(packet, x + k, 1),
            code::LD_MEMORY => Some(memory[k as usize]),
            code::ADD => Some(a + k),
            code::ADD_X => Some(a + x),
            code::AND => Some(a & k),
            code::SHIFT_LEFT => Some(a << k),
            code::TXA => Some(x),
            _ => Some(a),
        };
        let Some(loaded) = loaded else { return 0 };
        a = loaded;
        match code {
            code::LDX_IMMEDIATE => x = k,
            code::LDX_MEMORY => x = memory[k as usize],
            code::TAX => x = a,
            code::ST => memory[k as usize] = a,
            code::STX => memory[k as usize] = x,
            code::JUMP => at += k as usize,
            code::JUMP_EQUAL => at += usize::from(if a == k { jump_true } else { jump_false }),
            code::JUMP_EQUAL_X => at += usize::from(if a == x { jump_true } else { jump_false }),
            code::JUMP_SET => at += usize::from(if a & k != 0 { jump_true } else { jump_false }),
            code::RETURN => return k,
            _ => {}
        }
    }
}

/// What the kernel checks of a program before it takes it: jumps within it, a return at its end.
fn assert_valid(program: &[Instruction]) {
    assert!(program.len() <= INSTRUCTIONS_MAX);
    assert_eq!(program.last().map(|last| last.code), Some(code::RETURN));
    for (at, instruction) in program.iter().enumerate() {
        let behind = program.len() - at - 1;
        match instruction.code {
            code::JUMP => assert!((instruction.k as usize) < behind),
            code::JUMP_EQUAL | code::JUMP_EQUAL_X | code::JUMP_SET => {
                assert!(usize::from(instruction.jump_true.max(instruction.jump_false)) < behind);
            }
            code::ST | code::STX | code::LD_MEMORY | code::LDX_MEMORY => assert!(instruction.k < 16),
            _ => {}
        }
    }
}

fn many_resolvers() -> Vec<String> {
    let hosts = (0..250).map(|number| format!("203.0.113.{number}"));
    let networks = (0..50).map(|number| format!("192.0.2.{}/31", 128 + 2 * number));
    let ipv6 = (0..60).map(|number| format!("2001:db8:aaaa:{number:x}::53"));
    let ipv6_networks = (0..60).map(|number| format!("2001:db8:bbbb:{number:x}00::/56"));
    let known = common::RESOLVERS.into_iter().map(str::to_owned);
    hosts.chain(networks).chain(ipv6).chain(ipv6_networks).chain(known).collect()
}

/// Names are not looked at in the kernel, so that here none is kept out.
fn settings() -> Settings {
    Settings { suppress_special_use: false, ..Settings::default() }
}

fn agree(frame: &Frame<'_>, resolvers: &Resolvers, program: &[Instruction]) -> Result<(), TestCaseError> {
    use MessageOutcome as Of;
    use PacketOutcome::*;
    let kernel = run(program, frame.octets) > 0;
    let mut recorder = Recorder::new(resolvers.clone(), &settings()).unwrap();
    let fate = recorder.record(frame);
    let message = fate.messages.first().map(|fate| fate.outcome);
    let expected = match (fate.packet, message) {
        // Lengths, names and what is asked for are not looked at in the kernel.
        (RejectedMalformed, _) | (Passed, Some(Of::RejectedMalformed | Of::FilteredQtype)) => None,
        (Passed, Some(Of::Recorded | Of::Pending)) => Some(true),
        // It does not follow connections, so that it cannot read the messages in them either.
        (Passed | Waiting | FilteredNoData | RejectedOutOfStep, _) if is_tcp(frame) => Some(true),
        (Waiting, _) => Some(true),
        // An error may quote too little of a message for its flags to be read.
        (FilteredNoData, _) => None,
        (_, _) => Some(false),
    };
    if let Some(expected) = expected {
        let outcome = (fate.packet, message);
        prop_assert_eq!(kernel, expected, "the kernel passed it on: {}; user space: {:?}", kernel, outcome);
    }
    Ok(())
}

/// Whether the packet is TCP, or an error that quotes TCP.
fn is_tcp(frame: &Frame<'_>) -> bool {
    match link::packet(frame, |_| true) {
        Ok(packet) => match packet.protocol {
            6 => true,
            1 | 58 => IcmpError::parse(packet.source, packet.destination, packet.octets, packet.transport)
                .is_ok_and(|error| error.quote.protocol == 6),
            _ => false,
        },
        Err(_) => false,
    }
}

const LINKS: [LinkType; 2] = [LinkType::Ethernet, LinkType::Raw];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn agrees_with_user_space((link, octets) in prop::sample::select(&LINKS[..]).prop_flat_map(|link| (Just(link), common::octets(link)))) {
        let resolvers = Resolvers::parse(&common::RESOLVERS).unwrap();
        let program = bpf::compile(&resolvers, link, false).unwrap();
        agree(&common::frame(link, &octets, 0), &resolvers, &program)?;
    }

    #[test]
    fn agrees_for_a_long_list(octets in common::octets(LinkType::Ethernet)) {
        let resolvers = Resolvers::parse(&many_resolvers()).unwrap();
        let program = bpf::compile(&resolvers, LinkType::Ethernet, false).unwrap();
        agree(&common::frame(LinkType::Ethernet, &octets, 0), &resolvers, &program)?;
    }

    #[test]
    fn agrees_inside_tunnels((link, octets) in prop::sample::select(&LINKS[..]).prop_flat_map(|link| (Just(link), common::encapsulated_octets(link)))) {
        let resolvers = Resolvers::parse(&common::RESOLVERS).unwrap();
        let program = bpf::compile(&resolvers, link, true).unwrap();
        let frame = Frame { encapsulated: true, ..common::frame(link, &octets, 0) };
        agree(&frame, &resolvers, &program)?;
    }

    #[test]
    fn looks_into_no_tunnel_unasked(octets in common::encapsulated_octets(LinkType::Raw)) {
        let resolvers = Resolvers::parse(&common::RESOLVERS).unwrap();
        let program = bpf::compile(&resolvers, LinkType::Raw, false).unwrap();
        agree(&common::frame(LinkType::Raw, &octets, 0), &resolvers, &program)?;
    }
}

/// The generator is worth nothing if it does not reach every outcome that a single packet can have.
#[test]
fn generated_frames_reach_every_outcome_of_the_filter() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen: HashMap<&str, u64> = HashMap::new();
    for number in 0..20_000 {
        let octets = match number % 4 {
            0 => common::encapsulated_octets(LinkType::Ethernet).new_tree(&mut runner).unwrap().current(),
            _ => common::octets(LinkType::Ethernet).new_tree(&mut runner).unwrap().current(),
        };
        let resolvers = Resolvers::parse(&common::RESOLVERS).unwrap();
        let mut recorder = Recorder::new(resolvers, &settings()).unwrap();
        let frame = common::frame(LinkType::Ethernet, &octets, 0);
        let fate = recorder.record(&Frame { encapsulated: true, ..frame });
        *seen.entry(fate.packet.counter()).or_default() += 1;
        for fate in fate.messages {
            *seen.entry(fate.outcome.counter()).or_default() += 1;
            *seen.entry(fate.kind.map_or("", Kind::name)).or_default() += 1;
        }
    }
    // These take a capture that cuts short, a link type that is not read, or several packets.
    let unreachable = [
        "packets_rejected_linktype",
        "packets_filtered_retransmitted",
        "packets_rejected_overlap",
        "packets_lost_gap",
        "packets_lost_unfinished",
        "packets_lost_time",
        "packets_lost_room",
        // Every address is public, and no name is kept out.
        "messages_filtered_scope",
        "messages_filtered_local_zone",
        "messages_filtered_qname_regex",
    ];
    let names = PacketOutcome::COUNTERS.into_iter().chain(MessageOutcome::COUNTERS);
    let missing: Vec<_> =
        names.filter(|name| !seen.contains_key(name) && !unreachable.contains(name)).collect();
    assert_eq!(missing, [""; 0]);
    assert!(seen.contains_key("icmp") && seen.contains_key("unsolicited_response"));
}

#[test]
fn programs_are_valid() {
    for link in LINKS {
        for resolvers in [&["192.0.2.53"][..], &["2001:db8::/32"], &["0.0.0.0/0", "::/0"], &common::RESOLVERS]
        {
            for encapsulated in [false, true] {
                let resolvers = Resolvers::parse(resolvers).unwrap();
                assert_valid(&bpf::compile(&resolvers, link, encapsulated).unwrap());
            }
        }
        assert_valid(&bpf::compile(&Resolvers::parse(&many_resolvers()).unwrap(), link, true).unwrap());
    }
}
