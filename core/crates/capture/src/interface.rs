//! What is asked of an interface, and how it is, the same on every system.

/// What is asked of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterfaceSettings {
    pub name: String,
    /// Whether frames for other hosts are taken in.
    pub promiscuous: bool,
    /// Whether tunnels are looked into: mirrored packets come in them.
    pub encapsulated: bool,
}

/// How an interface is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InterfaceStatus {
    pub interface: String,
    /// Whether it is listened to.
    pub up: bool,
    /// How often it vanished, or could not be opened.
    pub failures: u64,
    /// Packets that passed the filter and found the ring full, as last asked of the kernel.
    pub kernel_drops: u64,
    /// Why it is not listened to.
    pub last_error: Option<String>,
}
