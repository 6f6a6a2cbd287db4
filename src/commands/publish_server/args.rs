//! The flags of `whk publish-server`, by subject.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::commands::{DATA_DIR, at_least_one, count, duration};
use crate::registry::endpoint::EnvelopeKind;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Tenants")]
pub(super) struct DataArgs {
    /// Folder for tenants, keys and endpoints; it is made where it doesn't exist
    #[arg(long, env = "WHK_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    pub(super) data_dir: PathBuf,
    /// What the secrets in the data dir are encrypted with: base64 of 32 bytes; secret.key in the data dir without it
    #[arg(long, value_name = "FILE")]
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
    /// Sign their deliveries with the secrets in this file, one `whsec_…` a line
    #[arg(long, value_name = "FILE", requires = "public_key")]
    pub(super) signing_secret_file: Option<PathBuf>,
    /// How their payloads are sealed: jwe, or the Deno scripts' rsa-oaep (at most 470 bytes)
    #[arg(long, value_enum, default_value_t, requires = "public_key")]
    pub(super) envelope: EnvelopeKind,
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
    /// Unsettled jobs that are held; further ones are answered 503
    #[arg(long, env = "MAX_QUEUE_SIZE", value_parser = at_least_one, default_value_t = 10_000, value_name = "JOBS")]
    pub(super) max_queue_size: usize,
    /// Bytes of unsettled jobs that are held
    #[arg(long, value_parser = at_least_one, default_value_t = 256 << 20, value_name = "BYTES")]
    pub(super) max_queue_bytes: usize,
    /// Bytes of one payload; larger ones are answered 413
    #[arg(long, env = "MAX_PAYLOAD_SIZE", value_parser = at_least_one, default_value_t = 1 << 20, value_name = "BYTES")]
    pub(super) max_payload_size: usize,
    /// Unsettled jobs that one tenant may have; further ones are answered 429. Each tenant may have a limit of its own
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 2_500, value_name = "JOBS")]
    pub(super) tenant_queued_jobs: u32,
    /// Bytes of unsettled jobs that one tenant may have; further ones are answered 429
    #[arg(long, value_parser = at_least_one, default_value_t = 64 << 20, value_name = "BYTES")]
    pub(super) tenant_queued_bytes: usize,
    /// Delivered messages whose attempts can be looked up: the latest
    #[arg(long, default_value_t = 100_000, value_name = "COUNT")]
    pub(super) message_history: usize,
    /// Events a second that one tenant may publish, or the provider to it alone
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 1_000, value_name = "COUNT")]
    pub(super) tenant_publish_rate: u32,
    /// Endpoints that one tenant may have
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 100, value_name = "COUNT")]
    pub(super) tenant_endpoints: u32,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Delivery")]
pub(super) struct DeliveryArgs {
    /// A network that may be called though it isn't public, over http too; repeat it or separate with commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) allow_net: Vec<IpNet>,
    /// Certificates (PEM) that are trusted beside the public ones
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Time limit of one attempt: connect, headers and body together
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(super) delivery_timeout: Duration,
    /// Attempts at once, over all endpoints
    #[arg(long, value_parser = count, default_value_t = 512, value_name = "COUNT")]
    pub(super) in_flight: usize,
    /// Attempts at once to one endpoint that does well; at most a fifth of --in-flight
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 64, value_name = "COUNT")]
    pub(super) endpoint_in_flight: u32,
    /// How long a failing job of an ordered endpoint may hold up those behind it before it is dead-lettered
    #[arg(long, value_parser = duration, default_value = "1h", value_name = "DURATION")]
    pub(super) max_lane_block: Duration,
    /// How long dead letters are kept
    #[arg(long, value_parser = duration, default_value = "30d", value_name = "DURATION")]
    pub(super) dead_letter_retention: Duration,
    /// How long to go on delivering after SIGTERM
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(super) drain_timeout: Duration,
}
