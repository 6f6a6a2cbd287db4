//! What every step shares: cryptography, jobs, the retry policy, HTTP plumbing, shutdown and telemetry.
//!
//! Nothing here depends on a module above it.

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
