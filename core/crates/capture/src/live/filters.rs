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
    plain: OfLinks,
    /// For interfaces by which mirrored packets come in tunnels, if there are any.
    encapsulated: Option<OfLinks>,
}

#[derive(Clone, Debug)]
struct OfLinks {
    ethernet: Vec<Instruction>,
    raw: Vec<Instruction>,
}

impl Filters {
    /// Those that look into tunnels, which leave less room for resolvers, are made if they are `needed`.
    pub fn compile(resolvers: &Resolvers, needed: bool) -> Result<Self, SettingError> {
        let of_links = |encapsulated| -> Result<OfLinks, SettingError> {
            Ok(OfLinks {
                ethernet: bpf::compile(resolvers, LinkType::Ethernet, encapsulated)?,
                raw: bpf::compile(resolvers, LinkType::Raw, encapsulated)?,
            })
        };
        Ok(Filters { plain: of_links(false)?, encapsulated: needed.then(|| of_links(true)).transpose()? })
    }

    /// The filter of an interface. One that looks into tunnels lets less through where none was made.
    pub fn of(&self, link: LinkType, encapsulated: bool) -> &[Instruction] {
        let of_links = self.encapsulated.as_ref().filter(|_| encapsulated).unwrap_or(&self.plain);
        match link {
            LinkType::Ethernet => &of_links.ethernet,
            _ => &of_links.raw,
        }
    }
}
