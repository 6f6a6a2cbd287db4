//! Topics as Kafka describes them, and as they are to be created.

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Partition {
    /// Number of the partition.
    pub partition: i32,
    /// Id of the leader; `None` while there is no leader.
    pub leader: Option<i32>,
    /// Ids of the brokers that have a replica.
    pub replicas: Vec<i32>,
    /// Ids of the brokers whose replica is in sync.
    pub in_sync: Vec<i32>,
}

/// A topic that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTopic {
    /// Partitions, ordered by number.
    pub partitions: Vec<Partition>,
    /// Names and values of the requested settings. Settings that can't be read yet are left out.
    pub settings: Vec<(String, String)>,
}

impl FoundTopic {
    /// Returns the value of a setting.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the number of replicas of the partition that has the fewest.
    #[must_use]
    pub fn replication(&self) -> usize {
        self.partitions.iter().map(|partition| partition.replicas.len()).min().unwrap_or_default()
    }
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTopic {
    /// Name of the topic.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Number of replicas of each partition.
    pub replication: i32,
    /// Names and values of settings.
    pub settings: Vec<(&'static str, String)>,
}
