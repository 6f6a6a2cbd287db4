//! The queue in Apache Kafka.

#![allow(dead_code)]
mod producer;
mod record;

pub use self::producer::{Batching, Compression};
