//! Step 0, `whk kafka-setup`: makes the topics.

mod plan;

use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::plan::{Asked, CLEANUP, IN_SYNC, MOST_BYTES, RETENTION, plan};
use super::confirm::confirm;
use super::flags::kafka::KafkaArgs;
use super::flags::value::duration;
use crate::commands::output::{self, OutputFormat, table};
use crate::common::kafka::Topics;
use crate::common::kafka::admin::{Admin, Deadline, FoundTopic, Partition, WantedTopic};
use crate::exit::UsageError;

/// Make the topics in Kafka, or say that they are there; nothing that is there is changed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk kafka-setup
  whk kafka-setup --kafka-brokers kafka-1:9092,kafka-2:9092 --partitions 24 --replication 3
  whk kafka-setup --recreate --yes               all jobs, dead letters and tenants are gone then

Made are events, events.retry and events.dlq with as many partitions each, and whk.tenants with one, which is compacted:
it keeps the latest of each tenant for good. As many consumers as there are partitions can share the work.
Exit status: 0 the topics are there, 1 one that is there won't do, or Kafka refuses, and nothing was changed, 64 usage, 69 Kafka can't be
reached or isn't done in time, 77 Kafka doesn't permit it.")]
pub struct Args {
    /// Partitions of the topics for jobs, retries and dead letters
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10_000), default_value_t = 6, value_name = "COUNT")]
    partitions: i32,
    /// Brokers that have each record: 3 survive the loss of one without a pause
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=100), default_value_t = 1, value_name = "COUNT")]
    replication: i32,
    /// Of those, how many must have a record before it counts as written. Without it 2 where --replication is 3 or
    /// more, else 1
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=100), value_name = "COUNT")]
    min_insync_replicas: Option<i32>,
    /// How long jobs are kept, delivered or not; those that wait for a retry at least 30 days
    #[arg(long, value_parser = duration, default_value = "7d", value_name = "DURATION")]
    retention: Duration,
    /// How long dead letters are kept
    #[arg(long, value_parser = duration, default_value = "30d", value_name = "DURATION")]
    dead_letter_retention: Duration,
    /// Bytes of the largest record: a sealed payload is larger by half than the payload
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1_024..=64 << 20),
        default_value_t = 4 << 20,
        value_name = "BYTES"
    )]
    max_message_bytes: u32,
    /// Delete the topics with all that is in them, and make them anew
    #[arg(long)]
    recreate: bool,
    /// Don't ask
    #[arg(long, requires = "recreate")]
    yes: bool,
    /// How long to wait for Kafka to be done with deleting, and with making them
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    wait: Duration,
    /// Format of the result
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    output: OutputFormat,
    #[command(flatten)]
    kafka: KafkaArgs,
}

/// What became of a topic, and what it is like.
#[derive(Serialize)]
struct TopicReport {
    topic: String,
    outcome: Outcome,
    partitions: Vec<Partition>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Created,
    Unchanged,
    Recreated,
}

#[derive(Serialize)]
struct Report {
    topics: Vec<TopicReport>,
}

/// Runs the command.
///
/// # Errors
/// A flag can't be used, Kafka can't be reached or refuses, or a topic that is there won't do.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let config = args.kafka.config()?;
    let wanted = args.asked()?.topics(&config.topics);
    let admin = Admin::open(&config)?;
    let progress = spinner();
    progress.set_message(format!("looking for topics at {config}"));
    let found = describe(&admin, &wanted).await?;
    let setup = Setup { admin, wanted, progress, deadline: Deadline::new(args.wait) };
    let report = if args.recreate && found.iter().any(Option::is_some) {
        let is_sure = args.yes || setup.progress.suspend(|| confirm(&question(&config.topics)))?;
        if !is_sure {
            anyhow::bail!("nothing is deleted");
        }
        // What can't be made must not be found out once the old ones are gone.
        setup.admin.validate(&setup.wanted).await?;
        // Whoever was asked may have thought about it.
        Setup { deadline: Deadline::new(args.wait), ..setup }.recreate(&found).await?
    } else {
        setup.create(&found).await?
    };
    Ok(output::print(args.output, &report.as_text(), &report)?)
}

impl Args {
    fn asked(&self) -> anyhow::Result<Asked> {
        let min_in_sync = self.min_insync_replicas.unwrap_or(if self.replication >= 3 { 2 } else { 1 });
        if min_in_sync > self.replication {
            let problem = format!(
                "--min-insync-replicas: {min_in_sync} is more than the {} of --replication",
                self.replication
            );
            return Err(UsageError(problem).into());
        }
        for (flag, kept) in
            [("--retention", self.retention), ("--dead-letter-retention", self.dead_letter_retention)]
        {
            if kept < Duration::from_secs(60) || i64::try_from(kept.as_millis()).is_err() {
                return Err(UsageError(format!("{flag}: a minute at least is needed")).into());
            }
        }
        Ok(Asked {
            partitions: self.partitions,
            replication: self.replication,
            min_in_sync,
            retention: self.retention,
            dead_retention: self.dead_letter_retention,
            most_bytes: self.max_message_bytes,
        })
    }
}

fn question(topics: &Topics) -> String {
    format!(
        "Delete the topics {}, {}, {} and {} with all jobs, dead letters and tenants in them?",
        topics.events, topics.retry, topics.dead, topics.registry
    )
}

struct Setup {
    admin: Admin,
    wanted: [WantedTopic; 4],
    progress: ProgressBar,
    deadline: Deadline,
}

impl Setup {
    /// Makes what is missing, where what is there will do.
    async fn create(&self, found: &[Option<FoundTopic>; 4]) -> anyhow::Result<Report> {
        let planned = plan(&self.wanted, found);
        refuse("nothing was changed, since what is there won't do", &planned.problems)?;
        for note in &planned.notes {
            self.progress.suspend(|| tracing::warn!("{note}"));
        }
        let mut made = Vec::new();
        if !planned.missing.is_empty() {
            self.progress.set_message("making topics");
            let others = self.admin.create(&planned.missing).await?;
            let missing = planned.missing.into_iter().map(|topic| topic.name);
            made.extend(missing.filter(|name| !others.contains(name)));
        }
        let outcome = |topic: &str| match made.iter().any(|made| made == topic) {
            true => Outcome::Created,
            false => Outcome::Unchanged,
        };
        self.report(outcome).await
    }

    /// Deletes what is there and makes it anew.
    async fn recreate(&self, found: &[Option<FoundTopic>; 4]) -> anyhow::Result<Report> {
        let there = || self.wanted.iter().zip(found).filter(|(_, found)| found.is_some());
        let old: Vec<&str> = there().map(|(wanted, _)| wanted.name.as_str()).collect();
        self.progress.set_message("deleting topics");
        self.admin.delete(&old).await?;
        self.admin.wait_until_gone(&old, self.deadline).await?;
        self.progress.set_message("making topics");
        let mut missing = self.wanted.to_vec();
        // A broker may still know those that others have forgotten.
        loop {
            let there = self.admin.create(&missing).await?;
            missing.retain(|topic| there.contains(&topic.name));
            if missing.is_empty() {
                break;
            }
            self.deadline.pause(|| format!("deleting topic {}", there.join(", "))).await?;
        }
        self.report(|topic| match old.contains(&topic) {
            true => Outcome::Recreated,
            false => Outcome::Created,
        })
        .await
    }

    /// Waits until all topics can be used, and says what they are like.
    async fn report(&self, outcome: impl Fn(&str) -> Outcome) -> anyhow::Result<Report> {
        self.progress.set_message("waiting for a leader of each partition");
        let names: Vec<&str> = self.wanted.iter().map(|topic| topic.name.as_str()).collect();
        self.admin.wait_until_ready(&names, self.deadline).await?;
        let found = describe(&self.admin, &self.wanted).await?;
        // Another may have made them meanwhile.
        refuse("the topics are there, and won't do", &plan(&self.wanted, &found).problems)?;
        let (mut topics, mut of_one_broker) = (Vec::new(), Vec::new());
        for (wanted, found) in self.wanted.iter().zip(found) {
            let found = found.with_context(|| format!("topic {} is gone again", wanted.name))?;
            if found.replication() < 2 {
                of_one_broker.push(wanted.name.clone());
            }
            let outcome = outcome(&wanted.name);
            topics.push(TopicReport { topic: wanted.name.clone(), outcome, partitions: found.partitions });
        }
        self.progress.finish_and_clear();
        if !of_one_broker.is_empty() {
            let topics = of_one_broker.join(", ");
            tracing::warn!(
                topics,
                "one broker alone has their records: if its disk is lost, so are they; see --replication"
            );
        }
        Ok(Report { topics })
    }
}

fn refuse(outcome: &str, problems: &[String]) -> anyhow::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    anyhow::bail!("{outcome}:\n  {}", problems.join("\n  "))
}

async fn describe(admin: &Admin, wanted: &[WantedTopic; 4]) -> anyhow::Result<[Option<FoundTopic>; 4]> {
    let mut found = [const { None }; 4];
    for (wanted, found) in wanted.iter().zip(&mut found) {
        *found = admin.describe(&wanted.name, &[CLEANUP, RETENTION, MOST_BYTES, IN_SYNC]).await?;
    }
    Ok(found)
}

impl Report {
    fn as_text(&self) -> String {
        let brokers = |ids: &[i32]| {
            let ids: Vec<String> = ids.iter().map(i32::to_string).collect();
            ids.join(",")
        };
        let rows = self.topics.iter().flat_map(|report| {
            report.partitions.iter().map(move |partition| {
                [
                    report.topic.clone(),
                    partition.partition.to_string(),
                    partition.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
                    brokers(&partition.replicas),
                    brokers(&partition.in_sync),
                    report.outcome.as_str().to_owned(),
                ]
            })
        });
        let text = table(["topic", "partition", "leader", "replicas", "in sync", "topic is"], rows);
        let is_unchanged = self.topics.iter().all(|topic| topic.outcome == Outcome::Unchanged);
        if is_unchanged { text + "\nall topics are there; nothing was changed" } else { text }
    }
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Unchanged => "unchanged",
            Self::Recreated => "recreated",
        }
    }
}

/// Shown on a terminal only, as indicatif does on its own.
fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
        .unwrap_or(ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
