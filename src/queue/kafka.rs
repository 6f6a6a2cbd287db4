//! The queue in Apache Kafka.

#![allow(dead_code)]
mod consumer;
mod group;
mod held;
mod offsets;
mod producer;
mod record;

pub use self::group::GroupConfig;
pub use self::producer::{Batching, Compression};
