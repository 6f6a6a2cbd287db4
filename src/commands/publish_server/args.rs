//! The flags of `whk publish-server`, by subject.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::DATA_DIR;
use crate::commands::flags::backend::{QueueKind, RegistryKind};
use crate::commands::flags::envelope::EnvelopeFlag;
use crate::commands::flags::value::{at_least_one, count, duration};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Tenants")]
pub(super) struct DataArgs {
    /// Store for tenants, their keys and endpoints. Default: redis with --queue redis, kafka with --queue kafka,
    /// else sqlite
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(super) registry: Option<RegistryKind>,
    /// Folder for tenants, keys, endpoints and the queue on disk; created if it doesn't exist. Only one server can use it
    /// at a time
    #[arg(long, env = "WHK_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    pub(super) data_dir: PathBuf,
    /// File with the key that encrypts the registry's secrets: 32 bytes in base64. Servers that share a registry need the
    /// same key. Default: secret.key in --data-dir, created at the first start
    #[arg(long, env = "WHK_SECRET_KEY_FILE", value_name = "FILE")]
    pub(super) secret_key_file: Option<PathBuf>,
    /// Replace the provider's API key in provider_key.txt with a new one, and revoke the old one
    #[arg(long)]
    pub(super) new_provider_key: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Direct mode")]
pub(super) struct DirectArgs {
    /// Turn direct mode on: take events that name their own URL, without an API key, and encrypt them with this public
    /// key (PEM, base64 of PEM, or JWK). Anyone who can reach the port can then publish
    #[arg(long, value_name = "FILE")]
    pub(super) public_key: Option<PathBuf>,
    /// Sign direct deliveries with the secrets in this file, one `whsec_…` per line. With --queue kafka pass it to
    /// `whk consume-kafka` instead
    #[arg(long, value_name = "FILE", requires = "public_key")]
    pub(super) signing_secret_file: Option<PathBuf>,
    /// Format of encrypted direct payloads
    #[arg(long, value_enum, default_value_t, requires = "public_key", value_name = "FORMAT")]
    pub(super) envelope: EnvelopeFlag,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP server")]
pub(super) struct HttpArgs {
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "SERVER_PORT", default_value_t = 4242)]
    pub(super) port: u16,
    /// Host name or address to listen on; 0.0.0.0 for all. In direct mode anyone who can reach it can publish
    #[arg(long, env = "SERVER_HOSTNAME", default_value = "127.0.0.1", value_name = "HOST")]
    pub(super) hostname: String,
    /// Maximum number of open connections; further ones wait
    #[arg(long, value_parser = count, default_value_t = 1_024, value_name = "COUNT")]
    pub(super) max_connections: usize,
    /// Time a connection may stay idle between requests, or take to send the headers of one
    #[arg(long, value_parser = duration, default_value = "60s", value_name = "DURATION")]
    pub(super) idle_timeout: Duration,
    /// Time a client may take to send the body of a request
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(super) request_timeout: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Maximum number of undelivered jobs in the queue; further events are answered 503. Not used with --queue kafka.
    /// Default: 1,000,000, or 10,000 in memory
    #[arg(long, env = "MAX_QUEUE_SIZE", value_parser = at_least_one, value_name = "JOBS")]
    max_queue_size: Option<usize>,
    /// Maximum bytes of undelivered jobs in the queue; further events are answered 503. With --queue kafka it limits only
    /// the jobs of one event. Default: 8 GiB on disk, 1 GiB in Redis or Kafka, 256 MiB in memory
    #[arg(long, value_parser = at_least_one, value_name = "BYTES")]
    max_queue_bytes: Option<usize>,
    /// Maximum bytes of one payload; larger ones are answered 413
    #[arg(long, env = "MAX_PAYLOAD_SIZE", value_parser = at_least_one, default_value_t = 1 << 20, value_name = "BYTES")]
    pub(super) max_payload_size: usize,
    /// Maximum number of undelivered jobs of one tenant; further events are answered 429. `whk tenant update` sets another
    /// limit for a tenant. Default: a quarter of --max-queue-size
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "JOBS")]
    tenant_queued_jobs: Option<u32>,
    /// Maximum bytes of undelivered jobs of one tenant; further events are answered 429. Default: a quarter of
    /// --max-queue-bytes
    #[arg(long, value_parser = at_least_one, value_name = "BYTES")]
    tenant_queued_bytes: Option<usize>,
    /// Number of delivered messages whose attempts `whk message` can still show; the oldest are forgotten first
    #[arg(long, default_value_t = 100_000, value_name = "COUNT")]
    pub(super) message_history: usize,
    /// Time after which dead letters are deleted. With --queue kafka set it with `whk kafka-setup` instead
    #[arg(long, value_parser = duration, default_value = "30d", value_name = "DURATION")]
    pub(super) dead_letter_retention: Duration,
    /// Maximum number of events per second published by one tenant, or by the provider to that tenant by name; further
    /// ones are answered 429. `whk tenant update` sets another limit for a tenant
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 1_000, value_name = "COUNT")]
    pub(super) tenant_publish_rate: u32,
    /// Maximum number of endpoints of one tenant. `whk tenant update` sets another limit for a tenant
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 100, value_name = "COUNT")]
    pub(super) tenant_endpoints: u32,
}

/// Default limits of a durable queue, where storage is the bound, and of one in memory.
const DURABLE_JOBS: usize = 1_000_000;
const MEMORY_JOBS: usize = 10_000;
const DISK_BYTES: usize = 8 << 30;
const REDIS_BYTES: usize = 1 << 30;
const MEMORY_BYTES: usize = 256 << 20;

impl LimitArgs {
    /// Returns the maximum number of undelivered jobs in the queue, and of their bytes.
    pub(super) fn of_queue(&self, kind: QueueKind) -> (usize, usize) {
        let (jobs, bytes) = match kind {
            QueueKind::Memory => (MEMORY_JOBS, MEMORY_BYTES),
            QueueKind::Disk => (DURABLE_JOBS, DISK_BYTES),
            // Kafka doesn't count the queued jobs. With Kafka, these limits apply to the jobs of one event.
            _ => (DURABLE_JOBS, REDIS_BYTES),
        };
        (self.max_queue_size.unwrap_or(jobs), self.max_queue_bytes.unwrap_or(bytes))
    }

    /// Returns the maximum number of undelivered jobs of one tenant, and of their bytes.
    pub(super) fn of_tenant(&self, kind: QueueKind) -> (u32, usize) {
        let (jobs, bytes) = self.of_queue(kind);
        let quarter = u32::try_from((jobs / 4).max(1)).unwrap_or(u32::MAX);
        (self.tenant_queued_jobs.unwrap_or(quarter), self.tenant_queued_bytes.unwrap_or((bytes / 4).max(1)))
    }
}
