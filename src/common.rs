//! Modules that all others share: cryptography, jobs, retries, HTTP, clients of Redis and Kafka, logs and metrics.
//!
//! Nothing in here depends on a module outside of it.

pub mod attempt;
pub mod clock;
pub mod crypto;
pub mod data_dir;
pub mod endpoint_url;
pub mod event_type;
pub mod http;
pub mod id;
pub mod job;
pub mod json;
pub mod kafka;
pub mod metrics;
pub mod redis;
pub mod retry;
pub mod secret_file;
pub mod shutdown;
pub mod sqlite;
pub mod task;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod test_services;
