//! Packets, transactions, containers.
#![forbid(unsafe_code)]
