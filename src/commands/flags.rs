//! Flags that several commands share, by subject.
//!
//! Each group of flags is a clap struct with methods that turn it into the configuration of the library. The
//! library's types carry no clap derives: a flag with named values is an enum here, converted with `From`.

pub(super) mod api_key;
pub(super) mod backend;
pub(super) mod connection;
pub(super) mod delivery;
pub(super) mod envelope;
pub(super) mod kafka;
pub mod log;
pub(super) mod redis;
pub(super) mod retry;
pub(super) mod value;
