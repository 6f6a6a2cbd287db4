//! The subcommands, one file each: an `Args` struct with the flags, and `run(args)`.
//!
//! [`flags`] holds flags that several commands share. `service` is the part that the two delivering commands share.
//! `output` prints results.

mod confirm;
pub mod customer;
pub mod dlq;
pub mod flags;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod keygen;
pub mod message;
mod output;
pub mod publish_server;
pub mod send;
mod service;
pub mod tenant;

/// Default of `--data-dir`. `whk publish-server` stores its data there, and `whk tenant` finds the API key in it.
const DATA_DIR: &str = "whk-data";
