//! Topics: what there is, making them, and deleting them. No wait is longer than `--kafka-timeout`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

use super::retriable::{is_retriable_code, retry_until};
use super::{KafkaConfig, KafkaContext, hear, is_not_permitted, without_value};

/// Between two looks at whether Kafka is done: it takes some tenths of a second.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The longest name of a topic that Kafka takes, in bytes.
const MOST_NAME: usize = 249;

/// What the name of a topic ends in that isn't made.
const REHEARSED: &str = ".rehearsed";

/// Kafka didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It can't be reached, or didn't answer in time.
    #[error("{doing}: Kafka at {brokers} can't be reached; see --kafka-brokers and --kafka-timeout")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// Where it should be.
        brokers: String,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// It refused to do something with a topic.
    #[error("{doing} {topic}: {}", advice(*.code))]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// With which topic.
        topic: String,
        /// What Kafka said.
        code: RDKafkaErrorCode,
    },
    /// It did what it was asked, and isn't done with it.
    #[error("{what} isn't done after {waited:?}; see --wait, and run it again")]
    NotReady {
        /// What.
        what: String,
        /// How long that was waited for.
        waited: Duration,
    },
    /// librdkafka doesn't take what it is configured with.
    #[error("connect to Kafka; see the --kafka flags")]
    Client(#[source] KafkaError),
}

impl AdminError {
    fn of_settings(error: KafkaError) -> Self {
        Self::Client(without_value(error))
    }

    /// Whether this user of Kafka may not do it.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if is_not_permitted(*code))
    }
}

fn advice(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::InvalidReplicationFactor => {
            "there are fewer brokers than replicas were asked for; see --replication".to_owned()
        }
        RDKafkaErrorCode::TopicDeletionDisabled => {
            "the brokers don't allow it; see delete.topic.enable of theirs".to_owned()
        }
        code if is_not_permitted(code) => {
            "this user of Kafka isn't permitted to; see --kafka-username".to_owned()
        }
        code => format!("Kafka says {code}"),
    }
}

/// One of a topic's partitions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Partition {
    /// Its number.
    pub partition: i32,
    /// The broker that takes its records; none where there is none at the moment.
    pub leader: Option<i32>,
    /// The brokers that are to have it.
    pub replicas: Vec<i32>,
    /// Those of them that have all of it.
    pub in_sync: Vec<i32>,
}

/// What a topic is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTopic {
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
    /// Its settings by name, those that were looked for; empty until they can be read.
    pub settings: Vec<(String, String)>,
}

impl FoundTopic {
    /// One of its settings.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Brokers that are to have each partition.
    #[must_use]
    pub fn replication(&self) -> usize {
        self.partitions.iter().map(|partition| partition.replicas.len()).min().unwrap_or_default()
    }
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTopic {
    /// What it is called.
    pub name: String,
    /// How many it has.
    pub partitions: i32,
    /// Brokers that are to have each partition.
    pub replication: i32,
    /// Its settings.
    pub settings: Vec<(&'static str, String)>,
}

/// How long Kafka is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    most: Duration,
    since: Instant,
}

impl Patience {
    /// From now on.
    #[must_use]
    pub fn new(most: Duration) -> Self {
        Self { most, since: Instant::now() }
    }

    /// Waits a moment before the next look, unless time is over for `what`.
    ///
    /// # Errors
    /// It is.
    pub async fn pause(&self, what: impl FnOnce() -> String) -> Result<(), AdminError> {
        if self.since.elapsed() >= self.most {
            return Err(AdminError::NotReady { what: what(), waited: self.most });
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }
}

/// Asks Kafka about topics and changes them.
pub struct Admin {
    brokers: String,
    timeout: Duration,
    admin: AdminClient<KafkaContext>,
    /// The admin's own questions would have the brokers make a topic that isn't there.
    looking: Arc<BaseConsumer<KafkaContext>>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}

impl Admin {
    /// Connects when it is first asked.
    ///
    /// # Errors
    /// librdkafka doesn't take the configuration.
    pub fn open(config: &KafkaConfig) -> Result<Self, AdminError> {
        let context = KafkaContext::default();
        let admin = config.client().create_with_context(context.clone()).map_err(AdminError::of_settings)?;
        let looking = config
            .client()
            .set("allow.auto.create.topics", "false")
            .create_with_context(context)
            .map_err(AdminError::of_settings)?;
        Ok(Self { brokers: config.to_string(), timeout: config.timeout, admin, looking: Arc::new(looking) })
    }

    /// A topic's partitions; none where there is no such topic.
    ///
    /// # Errors
    /// Kafka can't be reached, or refuses.
    pub async fn partitions(&self, topic: &str) -> Result<Option<Vec<Partition>>, AdminError> {
        let doing = "look for topic";
        let (looking, name, timeout) = (Arc::clone(&self.looking), topic.to_owned(), self.timeout);
        let asking = tokio::task::spawn_blocking(move || {
            retry_until(timeout, |left| partitions_of(&looking, &name, left)).inspect_err(|_| hear(&looking))
        });
        match asking.await.unwrap_or(Err(KafkaError::Canceled)) {
            Ok(Ok(partitions)) => Ok(Some(partitions)),
            Ok(Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => Ok(None),
            Ok(Err(code)) => Err(AdminError::Refused { doing, topic: topic.to_owned(), code }),
            Err(source) => Err(self.unreachable(doing, source)),
        }
    }

    /// What a topic is like, with the `settings` of those names; none where there is no such topic.
    ///
    /// # Errors
    /// Kafka can't be reached, or refuses.
    pub async fn describe(&self, topic: &str, settings: &[&str]) -> Result<Option<FoundTopic>, AdminError> {
        let doing = "read the settings of topic";
        let Some(partitions) = self.partitions(topic).await? else { return Ok(None) };
        let resources = [ResourceSpecifier::Topic(topic)];
        let answers = self.admin.describe_configs(&resources, &self.options()).await;
        let answers = answers.map_err(|source| self.unreachable(doing, source))?;
        let mut found = FoundTopic { partitions, settings: Vec::new() };
        for answer in answers {
            match answer {
                Ok(resource) => found.settings = picked(&resource, settings),
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => return Ok(None),
                Err(code) => return Err(AdminError::Refused { doing, topic: topic.to_owned(), code }),
            }
        }
        Ok(Some(found))
    }

    /// Makes topics; says which of them are there already. Where it fails, some may have been made.
    ///
    /// # Errors
    /// Kafka can't be reached, or refuses.
    pub async fn create(&self, topics: &[WantedTopic]) -> Result<Vec<String>, AdminError> {
        self.make("make topic", topics, &self.options()).await
    }

    /// Asks whether topics like these could be made beside those that are there. None is.
    ///
    /// # Errors
    /// They couldn't, or Kafka can't be reached.
    pub async fn rehearse(&self, topics: &[WantedTopic]) -> Result<(), AdminError> {
        let options = self.options().validate_only(true);
        for topic in topics {
            // One that is there says so, and nothing else. Rights may be for names that begin like this one.
            let mut name = topic.name.clone();
            name.truncate(MOST_NAME.saturating_sub(REHEARSED.len()));
            name.push_str(REHEARSED);
            let like_it = WantedTopic { name, ..topic.clone() };
            self.make("make a topic like", std::slice::from_ref(&like_it), &options).await?;
        }
        Ok(())
    }

    async fn make(
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
        spared(doing, answers, RDKafkaErrorCode::TopicAlreadyExists)
    }

    /// Begins to delete topics, and all that is in them; says which of them weren't there.
    ///
    /// # Errors
    /// Kafka can't be reached, or refuses.
    pub async fn delete(&self, topics: &[&str]) -> Result<Vec<String>, AdminError> {
        let doing = "delete topic";
        let answers = self.admin.delete_topics(topics, &self.options()).await;
        let answers = answers.map_err(|source| self.unreachable(doing, source))?;
        spared(doing, answers, RDKafkaErrorCode::UnknownTopicOrPartition)
    }

    /// Waits until none of `topics` is there any more.
    ///
    /// # Errors
    /// Kafka can't be reached, or isn't done by then.
    pub async fn wait_until_gone(&self, topics: &[&str], patience: Patience) -> Result<(), AdminError> {
        for topic in topics {
            while self.partitions(topic).await?.is_some() {
                patience.pause(|| format!("deleting topic {topic}")).await?;
            }
        }
        Ok(())
    }

    /// Waits until each of `topics` is there with a leader for each of its partitions.
    ///
    /// # Errors
    /// Kafka can't be reached, or isn't done by then.
    pub async fn wait_until_ready(&self, topics: &[&str], patience: Patience) -> Result<(), AdminError> {
        for topic in topics {
            let is_ready = |partitions: Vec<Partition>| {
                !partitions.is_empty() && partitions.iter().all(|partition| partition.leader.is_some())
            };
            while !self.partitions(topic).await?.is_some_and(is_ready) {
                patience.pause(|| format!("making topic {topic}, with a leader for each partition,")).await?;
            }
        }
        Ok(())
    }

    fn options(&self) -> AdminOptions {
        // The brokers' own part of it a little shorter, so that their answer still comes.
        let at_brokers = self.timeout.mul_f64(0.9);
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(at_brokers))
    }

    fn unreachable(&self, doing: &'static str, source: KafkaError) -> AdminError {
        AdminError::Unreachable { doing, brokers: self.brokers.clone(), source }
    }
}

/// Blocks.
fn partitions_of(
    looking: &BaseConsumer<KafkaContext>,
    topic: &str,
    timeout: Duration,
) -> Result<Result<Vec<Partition>, RDKafkaErrorCode>, KafkaError> {
    let metadata = looking.fetch_metadata(Some(topic), timeout)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(Err(RDKafkaErrorCode::UnknownTopicOrPartition));
    };
    if let Some(error) = found.error() {
        return match error.into() {
            // The topic has just been created.
            RDKafkaErrorCode::LeaderNotAvailable => Ok(Ok(Vec::new())),
            code @ RDKafkaErrorCode::UnknownTopicOrPartition => Ok(Err(code)),
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

fn picked(resource: &ConfigResource, settings: &[&str]) -> Vec<(String, String)> {
    let wanted = resource.entries.iter().filter(|entry| settings.contains(&entry.name.as_str()));
    wanted.filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?))).collect()
}

/// The topics that were passed over for the one reason that isn't a failure.
fn spared(
    doing: &'static str,
    answers: Vec<TopicResult>,
    reason: RDKafkaErrorCode,
) -> Result<Vec<String>, AdminError> {
    let mut spared = Vec::new();
    for answer in answers {
        match answer {
            Ok(_) => {}
            Err((topic, code)) if code == reason => spared.push(topic),
            Err((topic, code)) => return Err(AdminError::Refused { doing, topic, code }),
        }
    }
    Ok(spared)
}
