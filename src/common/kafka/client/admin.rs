//! Administration of topics: finds, creates and deletes them. No request takes longer than `--kafka-timeout`.

mod deadline;
mod error;
mod topic;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use self::deadline::Deadline;
pub use self::error::AdminError;
pub use self::topic::{FoundTopic, Partition, WantedTopic};
use super::retriable::{is_retriable_code, retry_until};
use super::{KafkaConfig, KafkaContext, log_errors};

/// Maximum bytes of the name of a topic.
const MAX_NAME: usize = 249;

/// Suffix of the name of a topic that is only validated, never created.
const VALIDATION_SUFFIX: &str = ".rehearsed";

/// Client that reads and changes topics.
pub struct Admin {
    brokers: String,
    timeout: Duration,
    admin: AdminClient<KafkaContext>,
    /// Client that reads metadata. If `admin` asked for a missing topic, the brokers would create it.
    metadata: Arc<BaseConsumer<KafkaContext>>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}

impl Admin {
    /// Creates a client. It connects at its first request.
    ///
    /// # Errors
    /// librdkafka refuses the configuration.
    pub fn open(config: &KafkaConfig) -> Result<Self, AdminError> {
        let context = KafkaContext::default();
        let admin = config.client().create_with_context(context.clone()).map_err(AdminError::client)?;
        let metadata = config
            .client()
            .set("allow.auto.create.topics", "false")
            .create_with_context(context)
            .map_err(AdminError::client)?;
        Ok(Self { brokers: config.to_string(), timeout: config.timeout, admin, metadata: Arc::new(metadata) })
    }

    /// Returns the partitions of a topic, or `None` if the topic doesn't exist.
    ///
    /// The list is empty right after the topic's creation.
    ///
    /// # Errors
    /// Kafka can't be reached, or refuses the request.
    pub async fn partitions(&self, topic: &str) -> Result<Option<Vec<Partition>>, AdminError> {
        let doing = "look for topic";
        let (client, name, timeout) = (Arc::clone(&self.metadata), topic.to_owned(), self.timeout);
        let request = tokio::task::spawn_blocking(move || {
            retry_until(timeout, |left| partitions_of(&client, &name, left))
                .inspect_err(|_| log_errors(&client))
        });
        match request.await.unwrap_or(Err(KafkaError::Canceled)) {
            Ok(Ok(partitions)) => Ok(Some(partitions)),
            Ok(Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => Ok(None),
            Ok(Err(code)) => Err(AdminError::Refused { doing, topic: topic.to_owned(), code }),
            Err(source) => Err(self.unreachable(doing, source)),
        }
    }

    /// Returns a topic with the named `settings`, or `None` if the topic doesn't exist.
    ///
    /// # Errors
    /// Kafka can't be reached, or refuses the request.
    pub async fn describe(&self, topic: &str, settings: &[&str]) -> Result<Option<FoundTopic>, AdminError> {
        let doing = "read the settings of topic";
        let Some(partitions) = self.partitions(topic).await? else { return Ok(None) };
        let resources = [ResourceSpecifier::Topic(topic)];
        let answers = self.admin.describe_configs(&resources, &self.options()).await;
        let answers = answers.map_err(|source| self.unreachable(doing, source))?;
        let mut found = FoundTopic { partitions, settings: Vec::new() };
        for answer in answers {
            match answer {
                Ok(resource) => found.settings = selected(&resource, settings),
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => return Ok(None),
                Err(code) => return Err(AdminError::Refused { doing, topic: topic.to_owned(), code }),
            }
        }
        Ok(Some(found))
    }

    /// Creates topics, and returns the names of those that exist already.
    ///
    /// # Errors
    /// Kafka can't be reached, or refuses the request. Some of the topics may have been created.
    pub async fn create(&self, topics: &[WantedTopic]) -> Result<Vec<String>, AdminError> {
        self.create_with("create topic", topics, &self.options()).await
    }

    /// Checks that topics like these could be created, without creating any.
    ///
    /// # Errors
    /// Kafka would refuse a topic, or can't be reached.
    pub async fn validate(&self, topics: &[WantedTopic]) -> Result<(), AdminError> {
        let options = self.options().validate_only(true);
        for topic in topics {
            // For an existing topic Kafka would check nothing else, so another name is needed. It starts with the topic's
            // name, because permissions may be granted to a prefix.
            let mut name = topic.name.clone();
            name.truncate(MAX_NAME.saturating_sub(VALIDATION_SUFFIX.len()));
            name.push_str(VALIDATION_SUFFIX);
            let like_it = WantedTopic { name, ..topic.clone() };
            self.create_with("create a topic like", std::slice::from_ref(&like_it), &options).await?;
        }
        Ok(())
    }

    async fn create_with(
        &self,
        doing: &'static str,
        topics: &[WantedTopic],
        options: &AdminOptions,
    ) -> Result<Vec<String>, AdminError> {
        let wanted: Vec<NewTopic<'_>> = topics
            .iter()
            .map(|topic| NewTopic {
                name: &topic.name,
                num_partitions: topic.partitions,
                replication: TopicReplication::Fixed(topic.replication),
                config: topic.settings.iter().map(|(name, value)| (*name, value.as_str())).collect(),
            })
            .collect();
        let answers = self.admin.create_topics(&wanted, options).await;
        let answers = answers.map_err(|source| self.unreachable(doing, source))?;
        skipped(doing, answers, RDKafkaErrorCode::TopicAlreadyExists)
    }

    /// Starts to delete topics with all of their records, and returns the names of those that didn't exist.
    ///
    /// # Errors
    /// Kafka can't be reached, or refuses the request.
    pub async fn delete(&self, topics: &[&str]) -> Result<Vec<String>, AdminError> {
        let doing = "delete topic";
        let answers = self.admin.delete_topics(topics, &self.options()).await;
        let answers = answers.map_err(|source| self.unreachable(doing, source))?;
        skipped(doing, answers, RDKafkaErrorCode::UnknownTopicOrPartition)
    }

    /// Waits until none of `topics` exists.
    ///
    /// # Errors
    /// Kafka can't be reached, or doesn't complete the deletion before the deadline.
    pub async fn wait_until_gone(&self, topics: &[&str], deadline: Deadline) -> Result<(), AdminError> {
        for topic in topics {
            while self.partitions(topic).await?.is_some() {
                deadline.pause(|| format!("the deletion of topic {topic}")).await?;
            }
        }
        Ok(())
    }

    /// Waits until each of `topics` exists with a leader for each of its partitions.
    ///
    /// # Errors
    /// Kafka can't be reached, or doesn't complete the creation before the deadline.
    pub async fn wait_until_ready(&self, topics: &[&str], deadline: Deadline) -> Result<(), AdminError> {
        for topic in topics {
            let is_ready = |partitions: Vec<Partition>| {
                !partitions.is_empty() && partitions.iter().all(|partition| partition.leader.is_some())
            };
            while !self.partitions(topic).await?.is_some_and(is_ready) {
                deadline
                    .pause(|| format!("the creation of topic {topic}, with a leader for each partition,"))
                    .await?;
            }
        }
        Ok(())
    }

    fn options(&self) -> AdminOptions {
        // The brokers get a little less time than the request, so that their answer still arrives.
        let at_brokers = self.timeout.mul_f64(0.9);
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(at_brokers))
    }

    fn unreachable(&self, doing: &'static str, source: KafkaError) -> AdminError {
        AdminError::Unreachable { doing, brokers: self.brokers.clone(), source }
    }
}

/// Reads the partitions of a topic. The inner error is Kafka's answer. Blocks.
fn partitions_of(
    client: &BaseConsumer<KafkaContext>,
    topic: &str,
    timeout: Duration,
) -> Result<Result<Vec<Partition>, RDKafkaErrorCode>, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), timeout)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(Err(RDKafkaErrorCode::UnknownTopicOrPartition));
    };
    if let Some(error) = found.error() {
        return match error.into() {
            // The topic has just been created.
            RDKafkaErrorCode::LeaderNotAvailable => Ok(Ok(Vec::new())),
            // Retriable by itself, but here it means that the topic doesn't exist.
            code @ (RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Ok(Err(code))
            }
            code if is_retriable_code(code) => Err(KafkaError::MetadataFetch(code)),
            code => Ok(Err(code)),
        };
    }
    let mut partitions: Vec<Partition> = found
        .partitions()
        .iter()
        .map(|partition| Partition {
            partition: partition.id(),
            leader: Some(partition.leader()).filter(|leader| *leader >= 0),
            replicas: partition.replicas().to_vec(),
            in_sync: partition.isr().to_vec(),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.partition);
    Ok(Ok(partitions))
}

/// Returns the named settings that have a value.
fn selected(resource: &ConfigResource, settings: &[&str]) -> Vec<(String, String)> {
    let wanted = resource.entries.iter().filter(|entry| settings.contains(&entry.name.as_str()));
    wanted.filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?))).collect()
}

/// Returns the topics that Kafka skipped for `reason`, which isn't a failure.
fn skipped(
    doing: &'static str,
    answers: Vec<TopicResult>,
    reason: RDKafkaErrorCode,
) -> Result<Vec<String>, AdminError> {
    let mut skipped = Vec::new();
    for answer in answers {
        match answer {
            Ok(_) => {}
            Err((topic, code)) if code == reason => skipped.push(topic),
            Err((topic, code)) => return Err(AdminError::Refused { doing, topic, code }),
        }
    }
    Ok(skipped)
}
