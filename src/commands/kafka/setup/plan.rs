//! Plans the topics: which are missing, and whether the existing ones can be used. Pure, without Kafka.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::kafka::Topics;
use crate::common::kafka::admin::{FoundTopic, WantedTopic};

/// Names of topic settings that are set and checked.
pub(super) const CLEANUP: &str = "cleanup.policy";
pub(super) const RETENTION: &str = "retention.ms";
pub(super) const MAX_BYTES: &str = "max.message.bytes";
pub(super) const IN_SYNC: &str = "min.insync.replicas";
/// Name of the setting for how long deletions stay readable. A server that was away for longer reads the whole registry
/// again.
const TOMBSTONE_RETENTION: &str = "delete.retention.ms";

/// Bytes by which a record may grow on its way to another topic: its attempts and its cause of death.
const HISTORY_BYTES: u32 = 64 << 10;

/// Minimum retention of retries. A retry waits for up to a day, and its record keeps the time stamp of the publication.
const MIN_RETRY_RETENTION: Duration = Duration::from_secs(30 * 86_400);
const TOMBSTONE_RETENTION_TIME: Duration = Duration::from_secs(7 * 86_400);

/// The topics' properties, as the flags give them.
#[derive(Debug, Clone)]
pub(super) struct RequestedTopics {
    pub(super) partitions: i32,
    pub(super) replication: i32,
    pub(super) min_in_sync: i32,
    pub(super) retention: Duration,
    pub(super) dead_retention: Duration,
    pub(super) max_bytes: u32,
}

/// Topics to create, and findings about the existing ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Topics to create.
    pub(super) missing: Vec<WantedTopic>,
    /// Reasons why existing topics can't be used, and how to mend them.
    pub(super) problems: Vec<String>,
    /// Harmless differences between existing topics and the flags.
    pub(super) notes: Vec<String>,
}

impl RequestedTopics {
    /// Returns the topics for jobs, retries, dead letters and tenants, in this order.
    pub(super) fn topics(&self, topics: &Topics) -> [WantedTopic; 4] {
        let milliseconds = |duration: Duration| duration.as_millis().to_string();
        let max_bytes_of =
            |name: &str| match [&topics.retry, &topics.dead].into_iter().any(|topic| topic == name) {
                true => self.max_bytes.saturating_add(HISTORY_BYTES),
                false => self.max_bytes,
            };
        let of = |name: &str, partitions, cleanup: &str, own: &[(&'static str, String)]| WantedTopic {
            name: name.to_owned(),
            partitions,
            replication: self.replication,
            settings: [
                (CLEANUP, cleanup.to_owned()),
                (MAX_BYTES, max_bytes_of(name).to_string()),
                (IN_SYNC, self.min_in_sync.to_string()),
            ]
            .into_iter()
            .chain(own.iter().cloned())
            .collect(),
        };
        let kept = |duration| [(RETENTION, milliseconds(duration))];
        [
            of(&topics.events, self.partitions, "delete", &kept(self.retention)),
            of(&topics.retry, self.partitions, "delete", &kept(self.retention.max(MIN_RETRY_RETENTION))),
            of(&topics.dead, self.partitions, "compact,delete", &kept(self.dead_retention)),
            of(
                &topics.registry,
                1,
                "compact",
                &[(TOMBSTONE_RETENTION, milliseconds(TOMBSTONE_RETENTION_TIME))],
            ),
        ]
    }
}

/// Compares the wanted topics with the existing ones.
///
/// The last topic is the registry. The others must have the same number of partitions, because retries and dead letters
/// stay in the partition of the same number.
pub(super) fn plan(wanted: &[WantedTopic; 4], found: &[Option<FoundTopic>; 4]) -> Plan {
    let mut plan = Plan::default();
    let [jobs @ .., registry] = wanted;
    let [found_jobs @ .., found_registry] = found;
    let common = judge_partitions(&mut plan, jobs, found_jobs);
    if let Some(found) = found_registry.as_ref().filter(|found| found.partitions.len() != 1) {
        plan.problems.push(format!(
            "{} has {} partitions, and changes are in order only within one: --recreate deletes all topics with their \
             records and creates them again; or pass another --kafka-registry-topic",
            registry.name,
            found.partitions.len()
        ));
    }
    for (wanted, found) in wanted.iter().zip(found) {
        let partitions = if wanted.name == registry.name { wanted.partitions } else { common };
        match found {
            None => plan.missing.push(WantedTopic { partitions, ..wanted.clone() }),
            Some(found) => judge_settings(&mut plan, wanted, found),
        }
    }
    plan
}

/// Returns the number of partitions that all topics must have: the requested number, or that of an existing topic with
/// more.
fn judge_partitions(plan: &mut Plan, wanted: &[WantedTopic], found: &[Option<FoundTopic>]) -> i32 {
    let asked = wanted.first().map_or(1, |topic| topic.partitions);
    let there: Vec<(&str, i32)> = wanted
        .iter()
        .zip(found)
        .filter_map(|(wanted, found)| {
            Some((wanted.name.as_str(), i32::try_from(found.as_ref()?.partitions.len()).ok()?))
        })
        .collect();
    let most = there.iter().map(|(_, partitions)| *partitions).max().unwrap_or(asked).max(asked);
    let is_even = there.iter().all(|(_, partitions)| *partitions == most);
    for (topic, partitions) in &there {
        if *partitions < most {
            let needed = if most > asked { "the others have" } else { "--partitions asks for" };
            plan.problems.push(format!(
                "{topic} has {partitions} of the {most} partitions that {needed}: kafka-topics --alter --topic {topic} \
                 --partitions {most} adds them, once no job is waiting; or --recreate deletes all topics and creates them again, empty"
            ));
        } else if is_even && most > asked {
            plan.notes
                .push(format!("{topic} has {partitions} partitions, more than the {asked} of --partitions"));
        }
    }
    most
}

fn judge_settings(plan: &mut Plan, wanted: &WantedTopic, found: &FoundTopic) {
    let topic = &wanted.name;
    for (name, value) in &wanted.settings {
        let Some(there) = found.setting(name) else { continue };
        let is_less = there.parse::<u64>().ok() < value.parse::<u64>().ok();
        let how = format!(
            "kafka-configs --alter --topic {topic} --add-config {name}=[{value}] sets it; or --recreate deletes all \
             topics and creates them again, empty"
        );
        match *name {
            CLEANUP if policies(there) != policies(value) => {
                plan.problems.push(format!("{topic} has {name}={there} and needs {value}: {how}"));
            }
            MAX_BYTES if is_less => {
                plan.problems.push(format!("{topic} has {name}={there}, less than {value}: {how}"));
            }
            CLEANUP | MAX_BYTES => {}
            _ if there != value => {
                plan.notes.push(format!("{topic} keeps its {name}={there}; a new topic would get {value}"))
            }
            _ => {}
        }
    }
    let replicas = i32::try_from(found.replication()).unwrap_or(i32::MAX);
    if replicas != wanted.replication {
        plan.notes.push(format!(
            "{topic} keeps its {replicas} replicas; --replication {} applies to new topics",
            wanted.replication
        ));
    }
}

fn policies(text: &str) -> BTreeSet<&str> {
    text.split(',').map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::kafka::admin::Partition;

    fn wanted() -> [WantedTopic; 4] {
        let week = Duration::from_secs(7 * 86_400);
        let asked = RequestedTopics {
            partitions: 6,
            replication: 1,
            min_in_sync: 1,
            retention: week,
            dead_retention: week,
            max_bytes: 4 << 20,
        };
        asked.topics(&Topics::parse("events", "whk.tenants").unwrap())
    }

    fn found_as_wanted(topic: &WantedTopic) -> FoundTopic {
        let partition =
            |partition| Partition { partition, leader: Some(1), replicas: vec![1], in_sync: vec![1] };
        FoundTopic {
            partitions: (0..topic.partitions).map(partition).collect(),
            settings: topic
                .settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        }
    }

    /// Plans for existing topics as wanted, except for the topic of that number, which `change` modifies.
    fn with(number: usize, change: impl FnOnce(&mut FoundTopic)) -> Plan {
        let wanted = wanted();
        let mut found = wanted.each_ref().map(|topic| Some(found_as_wanted(topic)));
        change(found[number].as_mut().unwrap());
        plan(&wanted, &found)
    }

    fn set(topic: &mut FoundTopic, name: &str, value: &str) {
        topic.settings.iter_mut().find(|(known, _)| known == name).unwrap().1 = value.into();
    }

    #[test]
    fn missing_topics_are_created_and_existing_ones_are_kept() {
        let wanted = wanted();
        let none = [const { None }; 4];
        assert_eq!(plan(&wanted, &none), Plan { missing: wanted.to_vec(), ..Plan::default() });
        assert_eq!(with(0, |_| ()), Plan::default());
        let of = |topic: usize, name: &str| {
            wanted[topic].settings.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        assert_eq!(of(1, RETENTION).unwrap(), (30_u64 * 86_400_000).to_string(), "retries outlive the week");
        assert_eq!(
            (of(2, CLEANUP).unwrap(), of(3, CLEANUP).unwrap()),
            ("compact,delete".into(), "compact".into())
        );
        assert_eq!((of(3, RETENTION), wanted[3].partitions), (None, 1), "tenants don't expire");
    }

    #[test]
    fn topics_get_the_same_number_of_partitions() {
        let wanted = wanted();
        let mut more = found_as_wanted(&wanted[0]);
        more.partitions.extend_from_within(..);
        let found = [Some(more), None, None, None];
        let planned = plan(&wanted, &found);
        let partitions: Vec<_> = planned.missing.iter().map(|topic| topic.partitions).collect();
        assert_eq!((partitions, planned.problems.len()), (vec![12, 12, 1], 0));
        assert!(planned.notes[0].contains("events has 12 partitions, more than"), "{planned:?}");

        let few = with(1, |retry| retry.partitions.truncate(3)).problems;
        assert!(few[0].contains("events.retry has 3 of the 6") && few[0].contains("--recreate"), "{few:?}");
        let uneven = with(2, |dead| dead.partitions.extend_from_within(..)).problems;
        assert_eq!(uneven.len(), 2, "{uneven:?}");
        assert!(uneven[0].contains("--alter --topic events --partitions 12"), "{uneven:?}");
        let registry = with(3, |registry| registry.partitions.extend_from_within(..)).problems;
        assert!(registry[0].contains("whk.tenants has 2 partitions"), "{registry:?}");
    }

    #[test]
    fn a_setting_that_could_lose_records_is_a_problem_and_others_are_notes() {
        for (number, policy) in [(0, "compact"), (2, "delete"), (3, "compact,delete"), (3, "delete")] {
            let problems = with(number, |topic| set(topic, CLEANUP, policy)).problems;
            assert!(problems[0].contains(&format!("{CLEANUP}={policy}")), "{problems:?}");
            assert!(problems[0].contains("kafka-configs --alter"), "{problems:?}");
        }
        assert_eq!(with(2, |dead| set(dead, CLEANUP, "delete,compact")), Plan::default());
        let small = with(0, |events| set(events, MAX_BYTES, "1048588")).problems;
        assert!(small[0].contains("max.message.bytes=1048588, less than 4194304"), "{small:?}");
        assert_eq!(with(0, |events| set(events, MAX_BYTES, "99999999")), Plan::default());
        let shorter = with(0, |events| set(events, RETENTION, "1000"));
        assert!(shorter.problems.is_empty() && shorter.notes[0].contains("retention.ms=1000"), "{shorter:?}");
        let replicas = with(0, |events| events.partitions[0].replicas = vec![]).notes;
        assert!(replicas[0].contains("--replication"), "{replicas:?}");
    }
}
