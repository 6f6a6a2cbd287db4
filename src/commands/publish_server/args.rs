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
    /// Where tenants, keys and endpoints are kept: sqlite, or where --queue is redis or kafka there, unless it is given
    #[arg(long, value_enum)]
    pub(super) registry: Option<RegistryKind>,
    /// Folder for tenants, keys, endpoints and the queue on disk; it is made where it doesn't exist
    #[arg(long, env = "WHK_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    pub(super) data_dir: PathBuf,
    /// What the secrets of the registry are encrypted with: base64 of 32 bytes; secret.key in the data dir without it.
    /// Servers that share a registry share it too
    #[arg(long, env = "WHK_SECRET_KEY_FILE", value_name = "FILE")]
    pub(super) secret_key_file: Option<PathBuf>,
    /// Make an API key for the provider that replaces the one in the data dir's provider_key.txt, which is revoked
    #[arg(long)]
    pub(super) new_provider_key: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Direct mode")]
pub(super) struct DirectArgs {
    /// Take events that name their URL themselves, from whoever reaches the port, and seal them with this public
    /// key: PEM, base64 of PEM, or JWK
    #[arg(long, value_name = "FILE")]
    pub(super) public_key: Option<PathBuf>,
    /// Sign their deliveries with the secrets in this file, one `whsec_…` a line. With --queue kafka it is
    /// whk consume-kafka that signs, with a flag of that name
    #[arg(long, value_name = "FILE", requires = "public_key")]
    pub(super) signing_secret_file: Option<PathBuf>,
    /// How their payloads are sealed: jwe, or the Deno scripts' rsa-oaep (at most 470 bytes)
    #[arg(long, value_enum, default_value_t, requires = "public_key")]
    pub(super) envelope: EnvelopeFlag,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP server")]
pub(super) struct HttpArgs {
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "SERVER_PORT", default_value_t = 4242)]
    pub(super) port: u16,
    /// Name or address to listen on; with --public-key, who reaches it can publish
    #[arg(long, env = "SERVER_HOSTNAME", default_value = "127.0.0.1", value_name = "HOST")]
    pub(super) hostname: String,
    /// Connections at once
    #[arg(long, value_parser = count, default_value_t = 1_024, value_name = "COUNT")]
    pub(super) max_connections: usize,
    /// How long a connection may be silent before a request, and take to send its headers
    #[arg(long, value_parser = duration, default_value = "60s", value_name = "DURATION")]
    pub(super) idle_timeout: Duration,
    /// How long a request's body may take to come
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(super) request_timeout: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Unsettled jobs that are held; further ones are answered 503. Without it 1,000,000, or 10,000 in memory. In Kafka
    /// none of these limits of what is queued holds, but the topics' own
    #[arg(long, env = "MAX_QUEUE_SIZE", value_parser = at_least_one, value_name = "JOBS")]
    max_queue_size: Option<usize>,
    /// Bytes of unsettled jobs that are held. Without it 8 GiB on disk, 1 GiB in Redis, 256 MiB in memory
    #[arg(long, value_parser = at_least_one, value_name = "BYTES")]
    max_queue_bytes: Option<usize>,
    /// Bytes of one payload; larger ones are answered 413
    #[arg(long, env = "MAX_PAYLOAD_SIZE", value_parser = at_least_one, default_value_t = 1 << 20, value_name = "BYTES")]
    pub(super) max_payload_size: usize,
    /// Unsettled jobs that one tenant may have; further ones are answered 429. Each tenant may have a limit of its
    /// own. Without it a quarter of --max-queue-size
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "JOBS")]
    tenant_queued_jobs: Option<u32>,
    /// Bytes of unsettled jobs that one tenant may have; further ones are answered 429. Without it a quarter of
    /// --max-queue-bytes
    #[arg(long, value_parser = at_least_one, value_name = "BYTES")]
    tenant_queued_bytes: Option<usize>,
    /// Delivered messages whose attempts can be looked up: the latest
    #[arg(long, default_value_t = 100_000, value_name = "COUNT")]
    pub(super) message_history: usize,
    /// How long dead letters are kept; in Kafka, `whk kafka-setup` says it
    #[arg(long, value_parser = duration, default_value = "30d", value_name = "DURATION")]
    pub(super) dead_letter_retention: Duration,
    /// Events a second that one tenant may publish, or the provider to it alone
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 1_000, value_name = "COUNT")]
    pub(super) tenant_publish_rate: u32,
    /// Endpoints that one tenant may have
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 100, value_name = "COUNT")]
    pub(super) tenant_endpoints: u32,
}

/// Where the queue is what bounds jobs, and where memory is.
const DURABLE_JOBS: usize = 1_000_000;
const MEMORY_JOBS: usize = 10_000;
const DISK_BYTES: usize = 8 << 30;
const REDIS_BYTES: usize = 1 << 30;
const MEMORY_BYTES: usize = 256 << 20;

impl LimitArgs {
    /// Unsettled jobs, and bytes of them, that a queue of that kind holds.
    pub(super) fn of_queue(&self, kind: QueueKind) -> (usize, usize) {
        let (jobs, bytes) = match kind {
            QueueKind::Memory => (MEMORY_JOBS, MEMORY_BYTES),
            QueueKind::Disk => (DURABLE_JOBS, DISK_BYTES),
            // Kafka doesn't count what is queued, so there these bound what one event may make.
            _ => (DURABLE_JOBS, REDIS_BYTES),
        };
        (self.max_queue_size.unwrap_or(jobs), self.max_queue_bytes.unwrap_or(bytes))
    }

    /// The same of one tenant's.
    pub(super) fn of_tenant(&self, kind: QueueKind) -> (u32, usize) {
        let (jobs, bytes) = self.of_queue(kind);
        let quarter = u32::try_from((jobs / 4).max(1)).unwrap_or(u32::MAX);
        (self.tenant_queued_jobs.unwrap_or(quarter), self.tenant_queued_bytes.unwrap_or((bytes / 4).max(1)))
    }
}
