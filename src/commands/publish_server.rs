//! Step 2, `whk publish-server`: takes events, encrypts them, queues them and delivers them.

mod args;
mod provider_key;
mod stores;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Semaphore;

use self::args::{DataArgs, DirectArgs, HttpArgs, LimitArgs};
use self::provider_key::ensure_provider_key;
use self::stores::Stores;
use super::flags::backend::QueueKind;
use super::flags::delivery::DeliveryArgs;
use super::flags::envelope::EnvelopeFlag;
use super::flags::kafka::KafkaProducerArgs;
use super::flags::redis::RedisArgs;
use super::flags::retry::RetryArgs;
use super::flags::value::duration;
use super::service::{Delivery, DeliveryService, raise_open_file_limit};
use crate::common::clock::Clock;
use crate::common::crypto::envelope::{KeyReuse, Sealer};
use crate::common::crypto::keys::PublicKey;
use crate::common::data_dir::DataDir;
use crate::common::http::{ServeLimits, address_of, bind, serve};
use crate::common::retry::RetryPolicy;
use crate::common::shutdown::Shutdown;
use crate::common::task;
use crate::deliver::egress::EgressGuard;
use crate::exit::UsageError;
use crate::publish::{DirectSealer, Publisher};
use crate::queue::QueueConfig;
use crate::registry::Limits;
use crate::retention::Retention;
use crate::server::{IdempotencyCache, Server};

/// Memory for request bodies that are being received: 256 MiB, or two of the largest.
const BODY_BUDGET_KIB: usize = 256 * 1024;

/// Memory for events that are encrypted and not queued yet: 256 MiB.
const SEALING_BYTES: usize = 256 << 20;

/// Take events at POST /publish, encrypt them for each customer, and deliver them with retries
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk publish-server --allow-net 127.0.0.0/8
  whk tenant onboard Acme --public-key public_key.pem \\
       --url http://localhost:9000/webhook --events 'invoice.*'
  curl http://localhost:4242/publish -H 'content-type: application/json' \\
       -H \"authorization: Bearer $(cat whk-data/provider_key.txt)\" \\
       -d '{\"type\":\"invoice.paid\",\"payload\":{\"amount\":42}}'

Direct mode publishes like the Deno scripts, without tenants or API keys:
  whk publish-server --public-key public_key.pem \\
       --signing-secret-file signing_secret.txt --allow-net 127.0.0.0/8
  curl http://localhost:4242/publish -H 'content-type: application/json' \\
       -d '{\"url\":\"http://localhost:9000/webhook\",\"payload\":{\"hello\":\"world\"}}'

The first start makes an API key for the provider and writes it to provider_key.txt in --data-dir.
Deliveries go to public addresses over https only. --allow-net allows a private network, and plain http to it.

SIGTERM or SIGINT stops taking events and finishes running deliveries within --drain-timeout; a second signal stops at \
once. Jobs on disk, in Redis or in Kafka are kept for the next start. Jobs in memory are delivered first.

Exit status:
  0    stopped; no job was lost
  1    jobs in memory were lost, or a part of the server failed
  64   a flag, variable or key file can't be used
  66   a file doesn't exist
  69   the port isn't free, Redis or Kafka can't be used, or another server uses --data-dir
  77   --data-dir can't be written
  130  a second signal came while jobs were being delivered")]
pub struct Args {
    /// Store for jobs between publish and delivery
    #[arg(long, value_enum, default_value_t, value_name = "WHERE")]
    queue: QueueKind,
    /// Deliver to every endpoint in strict order: while a job is retried, later jobs of the same endpoint wait, and other
    /// endpoints go on. Without this flag each endpoint's own setting decides
    #[arg(long)]
    ordered: bool,
    /// Messages encrypted with one content key before a new key is made; 1 makes a new key for each. More is faster, less
    /// exposes fewer messages if a key leaks
    #[arg(long, default_value_t = 1_000, value_name = "COUNT")]
    key_reuse: u32,
    /// Bytes of messages encrypted with one content key before a new key is made
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES")]
    key_reuse_bytes: u64,
    /// Time after which a content key is replaced
    #[arg(long, value_parser = duration, default_value = "5m", value_name = "DURATION")]
    key_reuse_age: Duration,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    direct: DirectArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    delivery: DeliveryArgs,
    #[command(flatten)]
    retry: RetryArgs,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    kafka: KafkaProducerArgs,
}

/// Runs the command until a signal stops it.
///
/// # Errors
/// A flag or a file can't be used, the port isn't free, a part of the server ended by itself, or jobs in memory are left
/// when `--drain-timeout` is over.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let delivery =
        Delivery::from_flags(&args.delivery, &args.retry, args.direct.signing_secret_file.as_deref())?;
    let stores = Stores::from_flags(&args)?;
    let direct = args.direct_mode(args.key_reuse()?)?;
    raise_open_file_limit();
    // The lock is held until the end, so no other server uses the folder meanwhile.
    let data_dir = DataDir::open(&args.data.data_dir)?;
    let registry = stores.open_registry(&args, &data_dir, args.tenant_limits()).await?;
    ensure_provider_key(&registry, &data_dir, args.data.new_provider_key).await?;
    let listener = bind(&args.http.hostname, args.http.port, "--port").await?;
    let shutdown = Shutdown::on_signals().context("install signal handlers")?;

    let clock = Clock::start();
    let queue_config = args.queue_config(&delivery.retries);
    let queue = stores.open_queue(&args, &data_dir, queue_config, clock).await?;
    let (is_signed, guard) = (delivery.direct_signer.is_some(), delivery.attempts.guard.clone());
    let service = DeliveryService::start(delivery, queue, registry, clock);
    let address = address_of(&listener);
    if direct.is_some() {
        warn_of_direct_mode(address, is_signed || !service.queue.capabilities().delivers);
    }
    log_start(&service, address);
    start_retention(&service, args.limits.dead_letter_retention, &shutdown);
    let server = args.server(&service, direct, guard)?;
    let limits = ServeLimits { connections: args.http.max_connections, idle: args.http.idle_timeout };
    let serving = serve(listener, server.router(), limits, shutdown.drain.clone());
    service.run(Some(task::spawn("http_server", serving)), &shutdown).await
}

fn warn_of_direct_mode(address: SocketAddr, is_signed: bool) {
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "anyone who can reach this address can publish in direct mode; see --hostname");
    }
    if !is_signed {
        tracing::warn!(
            "direct deliveries aren't signed, so customers can't tell who sent them; see --signing-secret-file"
        );
    }
}

fn log_start(service: &DeliveryService, address: SocketAddr) {
    if !service.queue.capabilities().delivers {
        tracing::info!(
            "this server delivers nothing itself: start `whk consume-kafka`; its flags set retries, limits and \
             --signing-secret-file"
        );
    }
    let (tenants, endpoints) = service.registry.count();
    tracing::info!(%address, tenants, endpoints, "taking events at POST /publish");
}

/// Deletes old dead letters in the background, unless the backend does so itself.
fn start_retention(service: &DeliveryService, max_age: Duration, shutdown: &Shutdown) {
    if service.queue.capabilities().expires_dead_letters {
        return;
    }
    let retention = Retention {
        dead_letters: Arc::clone(&service.queue) as _,
        max_age,
        metrics: Arc::clone(&service.metrics),
        clock: service.clock,
    };
    task::spawn("retention", retention.run(shutdown.drain.clone()));
}

impl Args {
    fn key_reuse(&self) -> anyhow::Result<KeyReuse> {
        KeyReuse::try_new(self.key_reuse, self.key_reuse_bytes, self.key_reuse_age)
            .map_err(|error| UsageError(format!("--key-reuse: {error}")).into())
    }

    fn tenant_limits(&self) -> Limits {
        Limits {
            queued_jobs: self.limits.of_tenant(self.queue).0,
            publishes_per_second: self.limits.tenant_publish_rate,
            endpoints: self.limits.tenant_endpoints,
        }
    }

    fn queue_config(&self, retries: &RetryPolicy) -> QueueConfig {
        let (max_jobs, max_bytes) = self.limits.of_queue(self.queue);
        QueueConfig {
            max_jobs,
            max_bytes,
            history: self.limits.message_history,
            ..self.delivery.queue_config(self.ordered, retries)
        }
    }

    /// Returns how direct-mode payloads are encrypted, or `None` without `--public-key`.
    fn direct_mode(&self, reuse: KeyReuse) -> anyhow::Result<Option<DirectSealer>> {
        let Some(path) = &self.direct.public_key else { return Ok(None) };
        let key = PublicKey::read(path).context("--public-key")?;
        Ok(Some(match self.direct.envelope {
            EnvelopeFlag::RsaOaep => DirectSealer::RsaOaep(key),
            EnvelopeFlag::Jwe => DirectSealer::Jwe(Sealer::new(key, reuse)),
        }))
    }

    fn server(
        &self,
        service: &DeliveryService,
        direct: Option<DirectSealer>,
        guard: EgressGuard,
    ) -> anyhow::Result<Server> {
        let sealing_bytes = self.limits.of_queue(self.queue).1.min(SEALING_BYTES);
        let publisher = Publisher {
            direct,
            registry: service.registry.clone(),
            key_reuse: self.key_reuse()?,
            guard,
            queue: Arc::clone(&service.queue),
            max_event_bytes: sealing_bytes,
            tenant_queued_bytes: self.limits.of_tenant(self.queue).1,
            sealing_budget: Semaphore::new(sealing_bytes.div_ceil(1024)),
            metrics: Arc::clone(&service.metrics),
            clock: service.clock,
        };
        let two_bodies_kib = (self.limits.max_payload_size / 512).saturating_add(128);
        Ok(Server {
            publisher,
            registry: service.registry.clone(),
            queue: Arc::clone(&service.queue),
            idempotency: IdempotencyCache::new(),
            metrics: Arc::clone(&service.metrics),
            max_payload: self.limits.max_payload_size,
            request_time: self.http.request_timeout,
            body_budget: Semaphore::new(BODY_BUDGET_KIB.max(two_bodies_kib)),
            health: service.health(),
        })
    }
}
