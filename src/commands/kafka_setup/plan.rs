//! What topics are wanted, and whether those that there are will do. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::kafka::Topics;
use crate::common::kafka::admin::{FoundTopic, WantedTopic};

/// Settings of topics that are made and looked at.
pub(super) const CLEANUP: &str = "cleanup.policy";
pub(super) const RETENTION: &str = "retention.ms";
pub(super) const MOST_BYTES: &str = "max.message.bytes";

/// What a job's record may grow by when it goes to another topic: its attempts, and what is said of its death.
const OF_THE_PAST: u32 = 64 << 10;
pub(super) const IN_SYNC: &str = "min.insync.replicas";
/// How long a deletion can be read, which is also how long a server may be away from the registry before it has to read
/// all of it anew.
const TOMBSTONES: &str = "delete.retention.ms";

/// A retry waits for up to a day, and its job was published before.
const LEAST_RETRY_RETENTION: Duration = Duration::from_secs(30 * 86_400);
const TOMBSTONES_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// What is asked for, of all topics.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) partitions: i32,
    pub(super) replication: i32,
    pub(super) min_in_sync: i32,
    pub(super) retention: Duration,
    pub(super) dead_retention: Duration,
    pub(super) most_bytes: u32,
}

/// What becomes of the topics.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Topics to make.
    pub(super) missing: Vec<WantedTopic>,
    /// What of those that are there must be put right first, and how.
    pub(super) problems: Vec<String>,
    /// What is otherwise than it was asked for, and may stay.
    pub(super) notes: Vec<String>,
}

impl Asked {
    /// Jobs, retries, dead letters, tenants.
    pub(super) fn topics(&self, topics: &Topics) -> [WantedTopic; 4] {
        let milliseconds = |duration: Duration| duration.as_millis().to_string();
        let most_of = |name: &str| match [&topics.retry, &topics.dead].into_iter().any(|topic| topic == name)
        {
            true => self.most_bytes.saturating_add(OF_THE_PAST),
            false => self.most_bytes,
        };
        let of = |name: &str, partitions, cleanup: &str, own: &[(&'static str, String)]| WantedTopic {
            name: name.to_owned(),
            partitions,
            replication: self.replication,
            settings: [
                (CLEANUP, cleanup.to_owned()),
                (MOST_BYTES, most_of(name).to_string()),
                (IN_SYNC, self.min_in_sync.to_string()),
            ]
            .into_iter()
            .chain(own.iter().cloned())
            .collect(),
        };
        let kept = |duration| [(RETENTION, milliseconds(duration))];
        [
            of(&topics.events, self.partitions, "delete", &kept(self.retention)),
            of(&topics.retry, self.partitions, "delete", &kept(self.retention.max(LEAST_RETRY_RETENTION))),
            of(&topics.dead, self.partitions, "compact,delete", &kept(self.dead_retention)),
            of(&topics.registry, 1, "compact", &[(TOMBSTONES, milliseconds(TOMBSTONES_KEPT))]),
        ]
    }
}

/// What is to be done, so that there is what is wanted. The last topic is the registry; the others have as many
/// partitions as each other, since retries and dead letters stay in the partition of the same number.
pub(super) fn plan(wanted: &[WantedTopic; 4], found: &[Option<FoundTopic>; 4]) -> Plan {
    let mut plan = Plan::default();
    let [jobs @ .., registry] = wanted;
    let [found_jobs @ .., found_registry] = found;
    let common = judge_partitions(&mut plan, jobs, found_jobs);
    if let Some(found) = found_registry.as_ref().filter(|found| found.partitions.len() != 1) {
        plan.problems.push(format!(
            "{} has {} partitions, and only with one are changes in order: --recreate makes it anew without its \
             tenants, --kafka-registry-topic names another",
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

/// How many partitions those that are missing have: as many as those that are there.
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
                 --partitions {most} adds them, once no job is waiting; --recreate makes it anew and empty"
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
            "kafka-configs --alter --topic {topic} --add-config {name}=[{value}] puts it right, --recreate makes it anew \
             and empty"
        );
        match *name {
            CLEANUP if policies(there) != policies(value) => {
                plan.problems.push(format!("{topic} has {name}={there} where {value} is needed: {how}"));
            }
            MOST_BYTES if is_less => {
                plan.problems.push(format!("{topic} has {name}={there}, less than {value}: {how}"));
            }
            CLEANUP | MOST_BYTES => {}
            _ if there != value => plan.notes.push(format!(
                "{topic} has {name}={there}, and keeps it, where {value} would be set for a new topic"
            )),
            _ => {}
        }
    }
    let replicas = i32::try_from(found.replication()).unwrap_or(i32::MAX);
    if replicas != wanted.replication {
        plan.notes.push(format!(
            "{topic} has {replicas} replicas, and keeps them, where --replication says {}",
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
        let asked = Asked {
            partitions: 6,
            replication: 1,
            min_in_sync: 1,
            retention: week,
            dead_retention: week,
            most_bytes: 4 << 20,
        };
        asked.topics(&Topics::parse("events", "whk.tenants").unwrap())
    }

    fn as_wanted(topic: &WantedTopic) -> FoundTopic {
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

    /// All there and as they should be, but for what `change` does to the one of that number.
    fn with(number: usize, change: impl FnOnce(&mut FoundTopic)) -> Plan {
        let wanted = wanted();
        let mut found = wanted.each_ref().map(|topic| Some(as_wanted(topic)));
        change(found[number].as_mut().unwrap());
        plan(&wanted, &found)
    }

    fn set(topic: &mut FoundTopic, name: &str, value: &str) {
        topic.settings.iter_mut().find(|(known, _)| known == name).unwrap().1 = value.into();
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_there_is_left() {
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
        assert_eq!((of(3, RETENTION), wanted[3].partitions), (None, 1), "tenants stay");
    }

    #[test]
    fn partitions_are_as_many_in_each_as_in_the_others() {
        let wanted = wanted();
        let mut more = as_wanted(&wanted[0]);
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
    fn what_would_lose_something_is_a_problem_and_the_rest_a_note() {
        for (number, policy) in [(0, "compact"), (2, "delete"), (3, "compact,delete"), (3, "delete")] {
            let problems = with(number, |topic| set(topic, CLEANUP, policy)).problems;
            assert!(problems[0].contains(&format!("{CLEANUP}={policy}")), "{problems:?}");
            assert!(problems[0].contains("kafka-configs --alter"), "{problems:?}");
        }
        assert_eq!(with(2, |dead| set(dead, CLEANUP, "delete,compact")), Plan::default());
        let small = with(0, |events| set(events, MOST_BYTES, "1048588")).problems;
        assert!(small[0].contains("max.message.bytes=1048588, less than 4194304"), "{small:?}");
        assert_eq!(with(0, |events| set(events, MOST_BYTES, "99999999")), Plan::default());
        let shorter = with(0, |events| set(events, RETENTION, "1000"));
        assert!(shorter.problems.is_empty() && shorter.notes[0].contains("retention.ms=1000"), "{shorter:?}");
        let replicas = with(0, |events| events.partitions[0].replicas = vec![]).notes;
        assert!(replicas[0].contains("--replication"), "{replicas:?}");
    }
}
