//! What every step shares: cryptography, jobs, the retry policy, HTTP plumbing, shutdown and telemetry.
//!
//! Nothing here depends on a module above it.

pub mod clock;
pub mod crypto;
pub mod endpoint_url;
pub mod http;
pub mod job;
pub mod metrics;
pub mod output;
pub mod retry;
pub mod shutdown;
pub mod telemetry;
