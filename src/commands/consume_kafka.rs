//! Step 2b, `whk consume-kafka`: delivers what `whk publish-server --queue kafka` took; start as many as you like.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::flags::delivery::DeliveryArgs;
use super::flags::kafka::KafkaArgs;
use super::flags::redis::RedisArgs;
use super::flags::retry::RetryArgs;
use super::flags::value::{at_least_one, count, duration};
use crate::common::clock::Clock;
use crate::common::crypto::signature::{Secret, Signer};
use crate::common::http::{ServeLimits, address_of, bind, serve};
use crate::common::metrics::Metrics;
use crate::common::shutdown::{Interrupted, Shutdown};
use crate::deliver::Deliverer;
use crate::dispatch::Dispatcher;
use crate::exit::UsageError;
use crate::queue::kafka::{GroupConfig, KafkaQueue};
use crate::queue::{Queue, QueueConfig};
use crate::registry::{self, RegistryPlace};
use crate::server::Health;

/// Connections to the port for health and metrics, and how long one may be silent.
const HEALTH: ServeLimits = ServeLimits { connections: 64, idle: Duration::from_secs(60) };

/// Deliver what was published to Kafka, as one consumer of a group: start as many as the load needs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk consume-kafka --allow-net 127.0.0.0/8
  whk consume-kafka --kafka-brokers kafka-1:9092,kafka-2:9092 --instance-id \"$HOSTNAME\" --port 9100
  PARTITIONS_CONCURRENCY=3 SESSION_TIMEOUT=30000 whk consume-kafka

The partitions of --kafka-topic are shared out to all consumers of a --group: more consumers than partitions are idle.
One that is killed is missed after --session-timeout, and the others go on with its partitions where it stopped.
Of each partition --window jobs are held. An endpoint that stands still doesn't hold up the others of its partition:
where it fills the window its jobs wait in --kafka-topic's NAME.retry, as do retries more than a minute away.

The consumer needs the secret key of the servers that keep tenants in Kafka: secret.key in their data dir.
SIGTERM or SIGINT finishes what is being delivered within --drain-timeout, commits, and leaves the group; a second one
ends at once.
Exit status: 0 stopped, 1 it can't go on (Kafka has let go of it, or its topics don't fit each other), 64 usage, 66 a file
is missing, 69 Kafka or Redis can't be used or the port isn't free, 77 Kafka doesn't permit it, 130 interrupted while
draining.")]
pub struct Args {
    /// Name of the consumer group
    #[arg(long, default_value = "webhook", value_name = "NAME")]
    group: String,
    /// Name of this consumer for good, unlike any other's: it gets its partitions back if it returns within
    /// --session-timeout, without the others noticing
    #[arg(long, value_name = "NAME")]
    instance_id: Option<String>,
    /// How long a consumer may be silent before its partitions go to others: a duration, or milliseconds
    #[arg(long, env = "SESSION_TIMEOUT", value_parser = session_timeout, default_value = "10s", value_name = "DURATION")]
    session_timeout: Duration,
    /// Partitions that are read at a time, in turns; all that the consumer has without it
    #[arg(long, env = "PARTITIONS_CONCURRENCY", value_name = "COUNT")]
    partitions_concurrency: Option<NonZeroUsize>,
    /// Unsettled jobs of one partition that are held; beyond that it isn't read
    #[arg(long, value_parser = count, default_value_t = 10_000, value_name = "JOBS")]
    window: usize,
    /// Bytes of unsettled jobs that are held, of all partitions
    #[arg(long, value_parser = at_least_one, default_value_t = 256 << 20, value_name = "BYTES")]
    window_bytes: usize,
    /// Keep strict order per endpoint: a failed job holds up those behind it, and no other endpoint's. Without it
    /// each endpoint's own setting holds
    #[arg(long)]
    ordered: bool,
    /// Sign deliveries of direct mode with the secrets in this file, one `whsec_…` a line
    #[arg(long, value_name = "FILE")]
    signing_secret_file: Option<PathBuf>,
    /// Where tenants are kept
    #[arg(long, value_enum, default_value_t, help_heading = "Tenants")]
    registry: Place,
    /// What the secrets of the registry are encrypted with, the same as the servers'
    #[arg(
        long,
        env = "WHK_SECRET_KEY_FILE",
        default_value = "whk-data/secret.key",
        value_name = "FILE",
        help_heading = "Tenants"
    )]
    secret_key_file: PathBuf,
    /// Port for /healthz, /readyz and /metrics; 0 takes a free one. Without it there is none
    #[arg(long, value_name = "PORT", help_heading = "Health")]
    port: Option<u16>,
    /// Name or address that port is on
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

/// Where consumers on many machines find tenants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Place {
    /// In Kafka, in --kafka-registry-topic
    #[default]
    Kafka,
    /// In Redis, with --redis-url
    Redis,
}

/// Milliseconds as the scripts give them, or a duration. Kafka itself takes 6 s to 30 min, unless it is set otherwise.
fn session_timeout(text: &str) -> Result<Duration, String> {
    let timeout = text.trim().parse().map(Duration::from_millis).or_else(|_| duration(text))?;
    match (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&timeout) {
        true => Ok(timeout),
        false => Err("1s to 1h are needed; Kafka itself takes 6s to 30m unless it is set otherwise".into()),
    }
}

/// Runs the command until a signal stops it.
///
/// # Errors
/// A flag or a file can't be used, or Kafka can't be reached.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let policy = args.retry.policy().map_err(|error| UsageError(format!("retry flags: {error}")))?;
    let kafka = args.kafka.config()?;
    let redis = args.redis.config()?;
    let deliver = args.delivery.config()?;
    let secrets = args.signing_secret_file.as_deref().map(Secret::read_all).transpose();
    let direct_signer = secrets.context("--signing-secret-file")?.map(Signer::new);
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "raise the limit of open files");
    }
    if direct_signer.is_none() {
        tracing::info!("jobs of direct mode, if any come, aren't signed: there is no --signing-secret-file");
    }
    let place = match args.registry {
        Place::Kafka => RegistryPlace::Kafka(kafka.clone()),
        Place::Redis => RegistryPlace::Redis(redis),
    };
    let registry = registry::open_shared(&place, &args.secret_key_file).await?;
    let listener = match args.port {
        Some(port) => Some(bind(&args.hostname, port, "--port").await?),
        None => None,
    };
    let shutdown = Shutdown::on_signals().context("install signal handlers")?;

    let clock = Clock::start();
    let metrics = Arc::new(Metrics::new());
    let config = args.delivery.queue_config(args.ordered, &policy);
    let queue = open(&args, &kafka, config, clock).await?;
    let dispatcher = Dispatcher {
        queue: Arc::clone(&queue) as Arc<dyn Queue>,
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
    let address = listener.as_ref().map(address_of);
    let (tenants, endpoints) = registry.count();
    tracing::info!(
        group = args.group,
        topic = kafka.topics.events,
        address = address.map(tracing::field::display),
        tenants,
        endpoints,
        "delivering what comes from Kafka"
    );
    if let Some(listener) = listener {
        let health = Health { queue: Arc::clone(&queue) as Arc<dyn Queue>, metrics, dispatcher_ended };
        tokio::spawn(serve(listener, health.router(), HEALTH, shutdown.drain.clone()));
    }
    tokio::select! {
        // First, since a drain ends the dispatcher as well.
        biased;
        () = shutdown.drain.cancelled() => {}
        _ = &mut dispatching => anyhow::bail!("it can deliver no more; why, stands above"),
    }
    drain(&queue, dispatching, args.delivery.drain_timeout, &shutdown.abort).await
}

async fn open(
    args: &Args,
    kafka: &crate::common::kafka::KafkaConfig,
    config: QueueConfig,
    clock: Clock,
) -> anyhow::Result<Arc<KafkaQueue>> {
    let group = GroupConfig {
        group: args.group.clone(),
        instance_id: args.instance_id.clone(),
        session_timeout: args.session_timeout,
        drain: args.delivery.drain_timeout,
        window_jobs: args.window,
        window_bytes: args.window_bytes,
        partitions_at_once: args.partitions_concurrency.map(NonZeroUsize::get),
    };
    Ok(Arc::new(KafkaQueue::consume(kafka, &group, config, clock).await?))
}

/// Lets deliveries in flight finish, commits, and leaves the group.
async fn drain(
    queue: &KafkaQueue,
    mut dispatching: JoinHandle<()>,
    time: Duration,
    abort: &CancellationToken,
) -> anyhow::Result<()> {
    queue.close();
    let until = Instant::now().checked_add(time);
    let in_time = abort.run_until_cancelled(tokio::time::timeout(time, &mut dispatching)).await;
    dispatching.abort();
    match in_time {
        None => return Err(Interrupted).context("Kafka keeps what wasn't delivered"),
        Some(Err(_)) => {
            tracing::warn!("not all ended within --drain-timeout; another consumer delivers the rest again");
        }
        Some(Ok(_)) => {}
    }
    // What is put aside may still be on its way; of what the dispatcher left behind nothing will be settled.
    let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
    match abort.run_until_cancelled(queue.leave(left)).await {
        Some(()) => {
            tracing::info!("stopped; Kafka keeps what is left for the other consumers, or the next start");
            Ok(())
        }
        None => Err(Interrupted).context("leave the consumer group"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_as_the_scripts_or_we_say_it() {
        assert_eq!(session_timeout("30000"), Ok(Duration::from_secs(30)));
        assert_eq!(session_timeout("45s"), Ok(Duration::from_secs(45)));
        for odd in ["", "0", "500", "2h", "-1s", "soon"] {
            assert!(session_timeout(odd).is_err(), "{odd}");
        }
    }
}
