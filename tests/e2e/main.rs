//! End to end: the real binary, real sockets, real signals.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that can't go on panics"
)]

mod cli;
mod customer;
mod dead_letters;
mod delivery;
mod disk;
mod drain;
mod interop;
mod isolation;
mod kafka;
mod kafka_partitions;
mod kafka_registry;
mod kafka_setup;
mod publish;
mod redis;
mod registry;
mod shared;
mod support;
mod tenant_cli;
mod tenants;
mod tls;
mod torture;
