//! What the kernel is told to let in.

use passive_dns::bpf::{self, Instruction, code};
use passive_dns::error::SettingError;
use passive_dns::frame::LinkType;
use passive_dns::resolvers::Resolvers;

/// Lets nothing in.
pub const NOTHING: [Instruction; 1] = [Instruction { code: code::RETURN, jump_true: 0, jump_false: 0, k: 0 }];

/// The filters of one list of resolvers, for every kind of interface.
#[derive(Clone, Debug)]
pub struct Filters {
    ethernet: Vec<Instruction>,
    raw: Vec<Instruction>,
}

impl Filters {
    pub fn compile(resolvers: &Resolvers) -> Result<Self, SettingError> {
        Ok(Filters {
            ethernet: bpf::compile(resolvers, LinkType::Ethernet)?,
            raw: bpf::compile(resolvers, LinkType::Raw)?,
        })
    }

    pub fn of(&self, link: LinkType) -> &[Instruction] {
        match link {
            LinkType::Ethernet => &self.ethernet,
            _ => &self.raw,
        }
    }
}
