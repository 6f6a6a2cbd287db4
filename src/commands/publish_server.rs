//! Step 2, `whk publish-server`: takes events, seals them, queues them, delivers them.

mod args;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::args::{DataArgs, DirectArgs, HttpArgs, LimitArgs, ProduceArgs};
use super::flags::backend::{QueueKind, RegistryKind};
use super::flags::delivery::DeliveryArgs;
use super::flags::envelope::EnvelopeFlag;
use super::flags::kafka::KafkaArgs;
use super::flags::redis::RedisArgs;
use super::flags::retry::RetryArgs;
use super::flags::value::duration;
use crate::common::clock::Clock;
use crate::common::crypto::api_key::{ApiKey, KeyKind};
use crate::common::crypto::envelope::{KeyReuse, Sealer};
use crate::common::crypto::keys::PublicKey;
use crate::common::crypto::signature::{Secret, Signer};
use crate::common::data_dir::DataDir;
use crate::common::http::{ServeLimits, address_of, bind, serve};
use crate::common::metrics::Metrics;
use crate::common::retry::RetryPolicy;
use crate::common::shutdown::{Interrupted, Shutdown};
use crate::deliver::Deliverer;
use crate::dispatch::Dispatcher;
use crate::exit::UsageError;
use crate::publish::{Envelope, Publisher};
use crate::queue::open::{self, Backend};
use crate::queue::{Queue, QueueConfig};
use crate::registry::{self, Limits, Registry, RegistryPlace};
use crate::retention::Retention;
use crate::server::{Health, Once, Server};

/// Bodies that are being received take no more memory than this (256 MiB), or two of the largest.
const BODY_BUDGET_KIB: usize = 256 * 1024;

/// Events that are sealed and not queued yet take no more memory than this (256 MiB).
const SEALING_BYTES: usize = 256 << 20;

/// Take events at POST /publish, encrypt them with the customer's public key, deliver them with retries
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk publish-server --allow-net 127.0.0.0/8
  whk tenant onboard Acme --public-key public_key.pem --url http://localhost:9000/webhook --events 'invoice.*'
  curl http://localhost:4242/publish -H \"authorization: Bearer $(cat whk-data/provider_key.txt)\" \\
       -H 'content-type: application/json' -d '{\"type\":\"invoice.paid\",\"payload\":{\"amount\":42}}'

Direct mode, as the Deno scripts publish, without tenants or API keys:
  whk publish-server --public-key public_key.pem --signing-secret-file signing_secret.txt --allow-net 127.0.0.0/8
  curl http://localhost:4242/publish -H 'content-type: application/json' \\
       -d '{\"url\":\"http://localhost:9000/webhook\",\"payload\":{\"hello\":\"world\"}}'

The first start makes the provider's API key and writes it to provider_key.txt in the data dir.
Deliveries go to public addresses over https. --allow-net opens a network of your own, over http as well.
SIGTERM or SIGINT stops accepting and finishes what is being delivered within --drain-timeout; a second one ends at
once. What waits then is delivered after the next start; a queue in memory is emptied first.
Exit status: 0 stopped with nothing lost, 1 jobs in memory were left, 64 usage, 66 a file is missing, 69 the port isn't
free, Redis or Kafka can't be used or the data dir is in use, 77 the data dir can't be written, 130 interrupted while draining.")]
pub struct Args {
    /// Where jobs wait between publish and delivery
    #[arg(long, value_enum, default_value_t)]
    queue: QueueKind,
    /// Keep strict order per endpoint: a failed job holds up those behind it, and no other endpoint's. Without it
    /// each endpoint's own setting holds
    #[arg(long)]
    ordered: bool,
    /// Messages that one content key seals; 1 makes a new one for each
    #[arg(long, default_value_t = 1_000, value_name = "COUNT")]
    key_reuse: u32,
    /// Bytes of messages that one content key seals
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES")]
    key_reuse_bytes: u64,
    /// How long one content key is used
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
    kafka: KafkaArgs,
    #[command(flatten)]
    produce: ProduceArgs,
}

/// Runs the command until a signal stops it.
///
/// # Errors
/// A flag or a file can't be used, the port isn't free, or jobs are left when the drain's time is over.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let policy = args.retry.policy().map_err(|error| UsageError(format!("retry flags: {error}")))?;
    let reuse = KeyReuse::try_new(args.key_reuse, args.key_reuse_bytes, args.key_reuse_age)
        .map_err(|error| UsageError(format!("--key-reuse: {error}")))?;
    let redis = args.redis.config()?;
    let kafka = args.kafka.config()?;
    let direct = args.direct.envelope(reuse)?;
    let direct_signer = args.direct.signer()?;
    let deliver = args.delivery.config()?;
    let guard = deliver.guard.clone();
    // Each connection takes a descriptor, and the usual soft limit of 1,024 is less than the defaults here allow.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "raise the limit of open files");
    }
    // Held until the end: no other server uses the folder meanwhile.
    let data_dir = DataDir::open(&args.data.data_dir)?;
    let secret_key_file = args.data.secret_key_file.as_deref();
    if args.queue == QueueKind::Kafka && args.data.registry(args.queue) == RegistryKind::Sqlite {
        let text = "--registry sqlite: consumers don't know its tenants, and would drop their jobs; with --queue kafka it is kafka or redis";
        return Err(UsageError(text.into()).into());
    }
    let place = match args.data.registry(args.queue) {
        RegistryKind::Sqlite => RegistryPlace::DataDir,
        RegistryKind::Redis => RegistryPlace::Redis(redis.clone()),
        RegistryKind::Kafka => RegistryPlace::Kafka(kafka.clone()),
    };
    let registry = registry::open(&place, &data_dir, secret_key_file, args.tenant_limits()).await?;
    ensure_provider_key(&registry, &data_dir, args.data.new_provider_key).await?;
    let listener = bind(&args.http.hostname, args.http.port, "--port").await?;
    let shutdown = Shutdown::on_signals().context("install signal handlers")?;

    let clock = Clock::start();
    let metrics = Arc::new(Metrics::new());
    let queue_file;
    let backend = match args.queue {
        QueueKind::Disk => {
            queue_file = data_dir.queue()?;
            Backend::Disk(&queue_file)
        }
        QueueKind::Memory => Backend::Memory,
        QueueKind::Redis => Backend::Redis(&redis),
        QueueKind::Kafka => Backend::Kafka(&kafka, args.produce.batching(), &args.produce.kafka_group),
    };
    let queue = open::open(backend, args.queue_config(&policy), clock).await.context("--queue")?;
    // What goes to Kafka is signed by whoever delivers it from there.
    let is_signed = direct_signer.is_some() || args.queue == QueueKind::Kafka;
    let dispatcher = Dispatcher {
        queue: Arc::clone(&queue),
        deliverer: Deliverer::new(deliver, clock),
        registry: registry.clone(),
        direct_signer,
        policy,
        max_lane_block: args.delivery.max_lane_block,
        in_flight: args.delivery.in_flight,
        metrics: Arc::clone(&metrics),
        clock,
    };
    let dispatcher_ended = CancellationToken::new();
    let ended = dispatcher_ended.clone().drop_guard();
    let mut dispatching = tokio::spawn(async move {
        let _ended = ended;
        dispatcher.run().await;
    });
    let address = address_of(&listener);
    warn_of_direct_mode(direct.is_some(), is_signed, address);
    let sealing_bytes = args.limits.of_queue(args.queue).1.min(SEALING_BYTES);
    if matches!(args.queue, QueueKind::Kafka) {
        tracing::info!(
            topic = kafka.topics.events,
            "jobs go to Kafka; whk consume-kafka delivers them, and its flags say how: retries, limits, --signing-secret-file"
        );
    }
    if matches!(args.queue, QueueKind::Redis) && matches!(place, RegistryPlace::DataDir) {
        tracing::warn!(
            "with --registry sqlite this must be the only server of its --redis-prefix: jobs to endpoints of another's tenants would be dropped"
        );
    }
    let publisher = Publisher {
        direct,
        registry: registry.clone(),
        key_reuse: reuse,
        guard,
        queue: Arc::clone(&queue),
        max_event_bytes: sealing_bytes,
        tenant_queued_bytes: args.limits.of_tenant(args.queue).1,
        sealing_budget: Semaphore::new(sealing_bytes.div_ceil(1024)),
        metrics: Arc::clone(&metrics),
        clock,
    };
    let retention = Retention {
        queue: Arc::clone(&queue),
        kept: args.limits.dead_letter_retention,
        metrics: Arc::clone(&metrics),
        clock,
    };
    // In Kafka it is the topic's own.
    if !matches!(args.queue, QueueKind::Kafka) {
        tokio::spawn(retention.run(shutdown.drain.clone()));
    }
    let (tenants, endpoints) = registry.count();
    let health = Health { queue: Arc::clone(&queue), metrics: Arc::clone(&metrics), dispatcher_ended };
    let server = Server {
        publisher,
        registry,
        queue: Arc::clone(&queue),
        once: Once::new(),
        metrics,
        max_payload: args.limits.max_payload_size,
        request_time: args.http.request_timeout,
        body_budget: Semaphore::new(
            BODY_BUDGET_KIB.max((args.limits.max_payload_size / 512).saturating_add(128)),
        ),
        health,
    };
    tracing::info!(%address, tenants, endpoints, "taking events at POST /publish");
    let limits = ServeLimits { connections: args.http.max_connections, idle: args.http.idle_timeout };
    let mut serving = tokio::spawn(serve(listener, server.router(), limits, shutdown.drain.clone()));

    tokio::select! {
        // First, since a drain ends the server as well.
        biased;
        () = shutdown.drain.cancelled() => {}
        _ = &mut dispatching => anyhow::bail!("the dispatcher broke down; its panic stands above"),
        _ = &mut serving => anyhow::bail!("the HTTP server broke down; its panic stands above"),
    }
    drain(&*queue, serving, dispatching, args.delivery.drain_timeout, &shutdown.abort).await
}

/// Makes the provider's API key where there is none, or another is to replace the one in the folder. It is in its file
/// before it is in force: a key that nobody knows would keep the next start from making one. Of servers that share a
/// registry and start at the same moment one makes it.
async fn ensure_provider_key(registry: &Registry, dir: &DataDir, replace: bool) -> anyhow::Result<()> {
    if !replace && !registry.api_keys(None, None, 1).items.is_empty() {
        return Ok(());
    }
    let old = dir.provider_key()?;
    let key = ApiKey::generate(KeyKind::Provider).context("make an API key")?;
    let path = dir.write_provider_key(&key)?;
    if replace {
        registry.replace_provider_key(&key, old).await?;
    } else if !registry.first_provider_key(&key).await? {
        dir.forget_provider_key()?;
        return Ok(());
    }
    tracing::info!(path = %path.display(), "wrote a new API key of the provider; `whk tenant` finds it there");
    Ok(())
}

fn warn_of_direct_mode(is_on: bool, is_signed: bool, address: SocketAddr) {
    if is_on && !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches this address can publish in direct mode; see --hostname");
    }
    if is_on && !is_signed {
        tracing::warn!(
            "direct deliveries aren't signed, so customers can't tell who sent them; see --signing-secret-file"
        );
    }
}

/// Lets requests in flight finish, then deliveries; says what is left when the time is over.
async fn drain(
    queue: &dyn Queue,
    serving: JoinHandle<()>,
    mut dispatching: JoinHandle<()>,
    time: Duration,
    abort: &CancellationToken,
) -> anyhow::Result<()> {
    let finished = async {
        drop(serving.await);
        queue.close();
        drop((&mut dispatching).await);
    };
    let in_time = abort.run_until_cancelled(tokio::time::timeout(time, finished)).await;
    queue.close();
    dispatching.abort();
    let left = queue.abandoned();
    let what_is_left =
        format!("{} jobs may not have been delivered and are gone with this process", left.len());
    match in_time {
        // At once means at once: no list.
        None if left.is_empty() => Err(Interrupted).context("the queue keeps what wasn't delivered"),
        None => Err(Interrupted).context(what_is_left),
        Some(_) if left.is_empty() => {
            match queue.depth().await.map(|depth| depth.unsettled()) {
                Ok(0) => tracing::info!("stopped; nothing is left"),
                Ok(jobs) => tracing::info!(jobs, "stopped; the queue keeps what is left for the next start"),
                Err(error) => tracing::warn!(%error, "stopped; what is left in the queue can't be told"),
            }
            Ok(())
        }
        Some(_) => {
            for job in &left {
                tracing::warn!(message_id = %job.id, endpoint = %job.target, "may not have been delivered");
            }
            anyhow::bail!("{what_is_left}; --drain-timeout gives them more time")
        }
    }
}

impl Args {
    fn tenant_limits(&self) -> Limits {
        Limits {
            queued_jobs: self.limits.of_tenant(self.queue).0,
            publishes_per_second: self.limits.tenant_publish_rate,
            endpoints: self.limits.tenant_endpoints,
        }
    }

    fn queue_config(&self, policy: &RetryPolicy) -> QueueConfig {
        let (max_jobs, max_bytes) = self.limits.of_queue(self.queue);
        QueueConfig {
            max_jobs,
            max_bytes,
            history: self.limits.message_history,
            ..self.delivery.queue_config(self.ordered, policy)
        }
    }
}

impl DirectArgs {
    fn envelope(&self, reuse: KeyReuse) -> anyhow::Result<Option<Envelope>> {
        let Some(path) = &self.public_key else { return Ok(None) };
        let key = PublicKey::read(path).context("--public-key")?;
        Ok(Some(match self.envelope {
            EnvelopeFlag::RsaOaep => Envelope::RsaOaep(key),
            EnvelopeFlag::Jwe => Envelope::Jwe(Sealer::new(key, reuse)),
        }))
    }

    fn signer(&self) -> anyhow::Result<Option<Signer>> {
        let secrets = self.signing_secret_file.as_deref().map(Secret::read_all).transpose();
        Ok(secrets.context("--signing-secret-file")?.map(Signer::new))
    }
}
