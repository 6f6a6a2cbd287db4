//! The stores for jobs and tenants: opens the backends that the flags name.

use std::sync::Arc;

use anyhow::Context as _;

use super::Args;
use crate::commands::flags::backend::{QueueKind, RegistryKind};
use crate::common::clock::Clock;
use crate::common::data_dir::DataDir;
use crate::common::kafka::{self, KafkaConfig};
use crate::common::redis::RedisConfig;
use crate::exit::UsageError;
use crate::queue::open::{self, Backend};
use crate::queue::{Queue, QueueConfig};
use crate::registry::{self, Limits, Registry, RegistryPlace};

/// The backends that the flags name, not opened yet.
pub(super) struct Stores {
    queue: QueueKind,
    registry: RegistryPlace,
    redis: RedisConfig,
    kafka: KafkaConfig,
}

impl Stores {
    /// Reads the flags about backends.
    ///
    /// # Errors
    /// A flag's value can't be used, a file can't be read, the queue and the registry don't go together, or this
    /// build is without Kafka.
    pub(super) fn from_flags(args: &Args) -> anyhow::Result<Self> {
        let (redis, kafka) = (args.redis.config()?, args.kafka.config()?);
        let registry_kind = args.data.registry.unwrap_or_else(|| args.queue.default_registry());
        if args.queue == QueueKind::Kafka || registry_kind == RegistryKind::Kafka {
            kafka::ensure_built_in()?;
        }
        let registry = match registry_kind {
            RegistryKind::Sqlite if args.queue == QueueKind::Kafka => {
                let problem = "--registry sqlite can't be used with --queue kafka: `whk consume-kafka` couldn't see the \
                               tenants and would drop their jobs; use --registry kafka or redis";
                return Err(UsageError(problem.into()).into());
            }
            RegistryKind::Sqlite => RegistryPlace::DataDir,
            RegistryKind::Redis => RegistryPlace::Redis(redis.clone()),
            RegistryKind::Kafka => RegistryPlace::Kafka(kafka.clone()),
        };
        Ok(Self { queue: args.queue, registry, redis, kafka })
    }

    /// Opens the registry.
    pub(super) async fn open_registry(
        &self,
        args: &Args,
        data_dir: &DataDir,
        limits: Limits,
    ) -> anyhow::Result<Registry> {
        let secret_key_file = args.data.secret_key_file.as_deref();
        Ok(registry::open(&self.registry, data_dir, secret_key_file, limits).await?)
    }

    /// Opens the queue, and warns if it doesn't fit the registry.
    pub(super) async fn open_queue(
        &self,
        args: &Args,
        data_dir: &DataDir,
        config: QueueConfig,
        clock: Clock,
    ) -> anyhow::Result<Arc<dyn Queue>> {
        let queue_file;
        let backend = match self.queue {
            QueueKind::Disk => {
                queue_file = data_dir.queue()?;
                Backend::Disk(&queue_file)
            }
            QueueKind::Memory => Backend::Memory,
            QueueKind::Redis => Backend::Redis(&self.redis),
            QueueKind::Kafka => Backend::Kafka(&self.kafka, args.kafka.batching(), &args.kafka.kafka_group),
        };
        let queue = open::open(backend, config, clock).await.context("--queue")?;
        if queue.capabilities().is_shared && matches!(self.registry, RegistryPlace::DataDir) {
            tracing::warn!(
                "the queue is shared and the registry isn't: a second server on this queue would drop the jobs of this \
                 one's tenants; run one server only, or leave out --registry sqlite"
            );
        }
        Ok(queue)
    }
}
