//! The `--queue` and `--registry` flags: where jobs and tenants are stored.

use clap::ValueEnum;

/// The value of `--queue`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueueKind {
    /// A file in --data-dir, used by this server alone; events answered 202 survive a crash and a power failure
    #[default]
    Disk,
    /// The memory of this process; a crash loses undelivered jobs, SIGTERM delivers them or reports the rest
    Memory,
    /// Redis or Valkey 7.0 or newer, or a cluster; shared by all servers with the same --redis-prefix, and as durable
    /// as Redis itself is configured to be
    Redis,
    /// Apache Kafka, acknowledged by all in-sync replicas; `whk consume-kafka` delivers the jobs
    Kafka,
}

/// The value of `--registry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RegistryKind {
    /// A database in --data-dir, for one server
    Sqlite,
    /// Redis, shared by all servers with the same --redis-prefix
    Redis,
    /// Kafka, shared by all servers and consumers with the same --kafka-registry-topic
    Kafka,
}

impl QueueKind {
    /// Returns the registry used when `--registry` isn't given. Servers that share jobs must know the same endpoints.
    pub(crate) fn default_registry(self) -> RegistryKind {
        match self {
            Self::Disk | Self::Memory => RegistryKind::Sqlite,
            Self::Redis => RegistryKind::Redis,
            Self::Kafka => RegistryKind::Kafka,
        }
    }
}
