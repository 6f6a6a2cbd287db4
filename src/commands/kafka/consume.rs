//! Step 2b, `whk consume-kafka`: delivers the jobs that `whk publish-server --queue kafka` wrote to Kafka.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use tokio::net::TcpListener;

use crate::commands::DATA_DIR;
use crate::commands::flags::delivery::DeliveryArgs;
use crate::commands::flags::kafka::KafkaArgs;
use crate::commands::flags::redis::RedisArgs;
use crate::commands::flags::retry::RetryArgs;
use crate::commands::flags::value::{at_least_one, count, duration};
use crate::commands::service::{Delivery, DeliveryService, raise_open_file_limit};
use crate::common::clock::Clock;
use crate::common::data_dir::DataDir;
use crate::common::http::{ServeLimits, address_of, bind, serve};
use crate::common::kafka::KafkaConfig;
use crate::common::redis::RedisConfig;
use crate::common::retry::RetryPolicy;
use crate::common::shutdown::Shutdown;
use crate::common::task;
use crate::queue::kafka::{GroupConfig, KafkaQueue};
use crate::registry::{self, Registry, RegistryPlace};

/// Limits of the port for health and metrics.
const HEALTH_LIMITS: ServeLimits = ServeLimits { connections: 64, idle: Duration::from_secs(60) };

/// Deliver the jobs in Kafka, as one consumer of a group; start as many as the load needs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk consume-kafka --allow-net 127.0.0.0/8
  whk consume-kafka --kafka-brokers kafka-1:9092,kafka-2:9092 \\
       --instance-id \"$HOSTNAME\" --port 9100
  PARTITIONS_CONCURRENCY=3 SESSION_TIMEOUT=30000 whk consume-kafka

The partitions of --kafka-topic are divided among all consumers of a --group. With more consumers than partitions, some \
are idle. If a consumer is killed, the others take over its partitions after --session-timeout.

A consumer leases at most --window jobs of each partition. An endpoint that hangs doesn't delay the others of its \
partition: when its jobs fill the window they are moved to the topic NAME.retry. Retries more than a minute away wait \
there too.

The consumer needs the secret key of the servers: secret.key in their --data-dir. On the same machine both can use one \
--data-dir; on another machine, copy the file and pass --secret-key-file.

SIGTERM or SIGINT finishes running deliveries within --drain-timeout, commits, and leaves the group; a second signal stops \
at once.

Exit status:
  0    stopped
  1    it can't continue: Kafka removed the consumer, or the topics don't fit each other
  64   a flag, variable or key file can't be used
  66   a file doesn't exist
  69   Kafka or Redis can't be used, or the port isn't free
  77   Kafka denied permission, or --data-dir can't be written
  130  a second signal came while jobs were being delivered")]
pub struct Args {
    /// Name of the consumer group. Consumers of one group share the jobs
    #[arg(long, default_value = "webhook", value_name = "NAME")]
    group: String,
    /// Permanent name of this consumer, unique in its group. A consumer that restarts under its name within
    /// --session-timeout gets its partitions back without a rebalance
    #[arg(long, value_name = "NAME")]
    instance_id: Option<String>,
    /// Time without a heartbeat after which a consumer counts as dead and its partitions go to others: a duration, or
    /// milliseconds. Less hands over faster, more survives longer pauses
    #[arg(long, env = "SESSION_TIMEOUT", value_parser = session_timeout, default_value = "10s", value_name = "DURATION")]
    session_timeout: Duration,
    /// Maximum number of partitions read at once; the others take turns. Default: all partitions of the consumer
    #[arg(long, env = "PARTITIONS_CONCURRENCY", value_name = "COUNT")]
    partitions_concurrency: Option<NonZeroUsize>,
    /// Maximum number of undelivered jobs of one partition in memory; further ones are read later
    #[arg(long, value_parser = count, default_value_t = 10_000, value_name = "JOBS")]
    window: usize,
    /// Maximum bytes of undelivered jobs in memory, over all partitions
    #[arg(long, value_parser = at_least_one, default_value_t = 256 << 20, value_name = "BYTES")]
    window_bytes: usize,
    /// Deliver to every endpoint in strict order: while a job is retried, later jobs of the same endpoint wait, and other
    /// endpoints go on. Without this flag each endpoint's own setting decides
    #[arg(long)]
    ordered: bool,
    /// Sign direct-mode deliveries with the secrets in this file, one `whsec_…` per line
    #[arg(long, value_name = "FILE")]
    signing_secret_file: Option<PathBuf>,
    /// Store for tenants: the same as the servers' --registry
    #[arg(long, value_enum, default_value_t, value_name = "WHERE", help_heading = "Tenants")]
    registry: SharedRegistry,
    /// Folder for data of this machine; created if it doesn't exist. Each consumer locks a folder of its own in it, the
    /// first free one of consumer-1, consumer-2 and so on, so several consumers and a publish-server can share it
    #[arg(long, env = "WHK_DATA_DIR", default_value = DATA_DIR, value_name = "DIR", help_heading = "Tenants")]
    data_dir: PathBuf,
    /// File with the key that the registry's secrets are encrypted with: the same as the servers'. Default: secret.key in
    /// --data-dir
    #[arg(long, env = "WHK_SECRET_KEY_FILE", value_name = "FILE", help_heading = "Tenants")]
    secret_key_file: Option<PathBuf>,
    /// Serve /healthz, /readyz and /metrics on this port; 0 takes a free one. Without it no port is opened
    #[arg(long, value_name = "PORT", help_heading = "Health")]
    port: Option<u16>,
    /// Host name or address of --port; 0.0.0.0 for all
    #[arg(long, default_value = "127.0.0.1", value_name = "HOST", help_heading = "Health")]
    hostname: String,
    #[command(flatten)]
    delivery: DeliveryArgs,
    #[command(flatten)]
    retry: RetryArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    redis: RedisArgs,
}

/// The value of `--registry`: the registries that processes on several machines can share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum SharedRegistry {
    /// Kafka, in the topic --kafka-registry-topic
    #[default]
    Kafka,
    /// Redis, at --redis-url
    Redis,
}

/// Parses milliseconds, as the Deno scripts give them, or a duration. By default Kafka accepts 6 s to 30 min.
fn session_timeout(text: &str) -> Result<Duration, String> {
    let timeout = text.trim().parse().map(Duration::from_millis).or_else(|_| duration(text))?;
    match (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&timeout) {
        true => Ok(timeout),
        false => Err("expected 1s to 1h; Kafka's own default limits are 6s and 30m".into()),
    }
}

/// Runs the command until a signal stops it.
///
/// # Errors
/// A flag or a file can't be used, Kafka can't be reached, or the dispatcher ended by itself.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let delivery = Delivery::from_flags(&args.delivery, &args.retry, args.signing_secret_file.as_deref())?;
    let (kafka, redis) = (args.kafka.config()?, args.redis.config()?);
    raise_open_file_limit();
    if delivery.direct_signer.is_none() {
        tracing::info!("direct-mode deliveries, if any come, aren't signed; see --signing-secret-file");
    }
    // The lock is held until the end, so no other consumer uses the folder meanwhile.
    let _data_dir = DataDir::open_for_consumer(&args.data_dir)?;
    let registry = args.open_registry(&kafka, redis).await?;
    let listener = args.bind().await?;
    let shutdown = Shutdown::on_signals().context("install signal handlers")?;

    let clock = Clock::start();
    let queue = args.join_group(&kafka, &delivery.retries, clock).await?;
    let service = DeliveryService::start(delivery, queue, registry, clock);
    let (tenants, endpoints) = service.registry.count();
    let (group, topic) = (args.group, kafka.topics.events);
    let address = listener.as_ref().map(address_of).map(tracing::field::display);
    tracing::info!(group, topic, address, tenants, endpoints, "delivering jobs from Kafka");
    if let Some(listener) = listener {
        let health = serve(listener, service.health().router(), HEALTH_LIMITS, shutdown.drain.clone());
        task::spawn("health_server", health);
    }
    service.run(None, &shutdown).await
}

impl Args {
    async fn open_registry(&self, kafka: &KafkaConfig, redis: RedisConfig) -> anyhow::Result<Registry> {
        let place = match self.registry {
            SharedRegistry::Kafka => RegistryPlace::Kafka(kafka.clone()),
            SharedRegistry::Redis => RegistryPlace::Redis(redis),
        };
        let in_data_dir = DataDir::secret_key_in(&self.data_dir);
        let secret_key_file = self.secret_key_file.as_deref().unwrap_or(&in_data_dir);
        Ok(registry::open_shared(&place, secret_key_file).await?)
    }

    /// Binds the port for health and metrics, if there is one.
    async fn bind(&self) -> anyhow::Result<Option<TcpListener>> {
        match self.port {
            Some(port) => Ok(Some(bind(&self.hostname, port, "--port").await?)),
            None => Ok(None),
        }
    }

    async fn join_group(
        &self,
        kafka: &KafkaConfig,
        retries: &RetryPolicy,
        clock: Clock,
    ) -> anyhow::Result<Arc<KafkaQueue>> {
        let group = GroupConfig {
            group: self.group.clone(),
            instance_id: self.instance_id.clone(),
            session_timeout: self.session_timeout,
            drain: self.delivery.drain_timeout,
            window_jobs: self.window,
            window_bytes: self.window_bytes,
            partitions_at_once: self.partitions_concurrency.map(NonZeroUsize::get),
        };
        let config = self.delivery.queue_config(self.ordered, retries);
        Ok(Arc::new(KafkaQueue::consume(kafka, &group, config, clock).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_timeout_is_milliseconds_or_a_duration() {
        assert_eq!(session_timeout("30000"), Ok(Duration::from_secs(30)));
        assert_eq!(session_timeout("45s"), Ok(Duration::from_secs(45)));
        for invalid in ["", "0", "500", "2h", "-1s", "soon"] {
            assert!(session_timeout(invalid).is_err(), "{invalid}");
        }
    }
}
