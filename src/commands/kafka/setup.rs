//! Step 0, `whk kafka-setup`: creates the topics in Kafka.

mod plan;

use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::plan::{CLEANUP, IN_SYNC, MAX_BYTES, RETENTION, RequestedTopics, plan};
use crate::commands::confirm::confirm;
use crate::commands::flags::kafka::KafkaArgs;
use crate::commands::flags::value::duration;
use crate::commands::output::{self, OutputFormat, table};
use crate::common::kafka::Topics;
use crate::common::kafka::admin::{Admin, Deadline, FoundTopic, Partition, WantedTopic};
use crate::exit::UsageError;

/// Create the topics in Kafka; existing topics are checked, and deleted only with --recreate
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk kafka-setup
  whk kafka-setup --partitions 24 --replication 3 \\
       --kafka-brokers kafka-1:9092,kafka-2:9092
  whk kafka-setup --recreate --yes
      delete the topics with all jobs, dead letters and tenants, and create new ones

It creates the topics events, events.retry and events.dlq with the same number of partitions, and whk.tenants with one.
The last is compacted: Kafka keeps the latest state of each tenant and deletes the older ones.
At most one consumer can work on a partition, so --partitions is the maximum number of useful consumers.

Exit status: 0 the topics exist and can be used, 1 an existing topic can't be used or Kafka refused, and nothing was \
changed, 64 usage, 69 Kafka can't be reached or wasn't done within --wait, 77 Kafka denied permission.")]
pub struct Args {
    /// Number of partitions of the topics for jobs, retries and dead letters: at least the number of consumers you expect
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10_000), default_value_t = 6, value_name = "COUNT")]
    partitions: i32,
    /// Number of brokers that store each record. With 3, one broker can fail without an interruption
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=100), default_value_t = 1, value_name = "COUNT")]
    replication: i32,
    /// Number of brokers that must have stored a record before it counts as written. Default: 2 if --replication is 3 or
    /// more, else 1
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=100), value_name = "COUNT")]
    min_insync_replicas: Option<i32>,
    /// Time after which Kafka deletes jobs, delivered or not: longer than your consumers may ever be down. Jobs that wait for a
    /// retry are kept for at least 30 days
    #[arg(long, value_parser = duration, default_value = "7d", value_name = "DURATION")]
    retention: Duration,
    /// Time after which Kafka deletes dead letters
    #[arg(long, value_parser = duration, default_value = "30d", value_name = "DURATION")]
    dead_letter_retention: Duration,
    /// Maximum bytes of a record. An encrypted payload is about half as large again as the payload
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1_024..=64 << 20),
        default_value_t = 4 << 20,
        value_name = "BYTES"
    )]
    max_message_bytes: u32,
    /// Delete existing topics with all their records, and create new ones
    #[arg(long)]
    recreate: bool,
    /// Delete without asking for confirmation
    #[arg(long, requires = "recreate")]
    yes: bool,
    /// Time limit for Kafka to delete topics, and again to create them
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    wait: Duration,
    /// Format of the result
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    output: OutputFormat,
    #[command(flatten)]
    kafka: KafkaArgs,
}

/// A topic in the result.
#[derive(Serialize)]
struct TopicReport {
    topic: String,
    outcome: TopicOutcome,
    partitions: Vec<Partition>,
}

/// Effect of the command on a topic.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum TopicOutcome {
    Created,
    Unchanged,
    Recreated,
}

/// The result.
#[derive(Serialize)]
struct Report {
    topics: Vec<TopicReport>,
}

/// Runs the command.
///
/// # Errors
/// A flag can't be used, Kafka can't be reached or refuses, or an existing topic can't be used.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let config = args.kafka.config()?;
    let wanted = args.requested()?.topics(&config.topics);
    let admin = Admin::open(&config)?;
    let progress = spinner();
    progress.set_message(format!("looking for topics at {config}"));
    let found = describe(&admin, &wanted).await?;
    let setup = Setup { admin, wanted, progress, deadline: Deadline::new(args.wait) };
    let report = if args.recreate && found.iter().any(Option::is_some) {
        let is_sure = args.yes || setup.progress.suspend(|| confirm(&question(&config.topics)))?;
        if !is_sure {
            anyhow::bail!("nothing was deleted");
        }
        // If Kafka refuses the new topics, this shows it before the old ones are deleted.
        setup.admin.validate(&setup.wanted).await?;
        // The time limit starts after the question, which may wait for an answer for long.
        Setup { deadline: Deadline::new(args.wait), ..setup }.recreate(&found).await?
    } else {
        setup.create(&found).await?
    };
    Ok(output::print(args.output, &report.as_text(), &report)?)
}

impl Args {
    fn requested(&self) -> anyhow::Result<RequestedTopics> {
        let min_in_sync = self.min_insync_replicas.unwrap_or(if self.replication >= 3 { 2 } else { 1 });
        if min_in_sync > self.replication {
            let problem = format!(
                "--min-insync-replicas: {min_in_sync} is more than --replication {}",
                self.replication
            );
            return Err(UsageError(problem).into());
        }
        for (flag, kept) in
            [("--retention", self.retention), ("--dead-letter-retention", self.dead_letter_retention)]
        {
            if kept < Duration::from_secs(60) || i64::try_from(kept.as_millis()).is_err() {
                return Err(UsageError(format!("{flag}: expected at least 1m")).into());
            }
        }
        Ok(RequestedTopics {
            partitions: self.partitions,
            replication: self.replication,
            min_in_sync,
            retention: self.retention,
            dead_retention: self.dead_letter_retention,
            max_bytes: self.max_message_bytes,
        })
    }
}

fn question(topics: &Topics) -> String {
    format!(
        "Delete the topics {}, {}, {} and {} with all jobs, dead letters and tenants in them?",
        topics.events, topics.retry, topics.dead, topics.registry
    )
}

/// The command at work.
struct Setup {
    admin: Admin,
    wanted: [WantedTopic; 4],
    progress: ProgressBar,
    deadline: Deadline,
}

impl Setup {
    /// Creates the missing topics, if the existing ones can be used.
    async fn create(&self, found: &[Option<FoundTopic>; 4]) -> anyhow::Result<Report> {
        let planned = plan(&self.wanted, found);
        refuse("nothing was changed, because existing topics can't be used", &planned.problems)?;
        for note in &planned.notes {
            self.progress.suspend(|| tracing::warn!("{note}"));
        }
        let mut made = Vec::new();
        if !planned.missing.is_empty() {
            self.progress.set_message("creating topics");
            let others = self.admin.create(&planned.missing).await?;
            let missing = planned.missing.into_iter().map(|topic| topic.name);
            made.extend(missing.filter(|name| !others.contains(name)));
        }
        let outcome = |topic: &str| match made.iter().any(|made| made == topic) {
            true => TopicOutcome::Created,
            false => TopicOutcome::Unchanged,
        };
        self.report(outcome).await
    }

    /// Deletes the existing topics and creates all of them.
    async fn recreate(&self, found: &[Option<FoundTopic>; 4]) -> anyhow::Result<Report> {
        let there = || self.wanted.iter().zip(found).filter(|(_, found)| found.is_some());
        let old: Vec<&str> = there().map(|(wanted, _)| wanted.name.as_str()).collect();
        self.progress.set_message("deleting topics");
        self.admin.delete(&old).await?;
        self.admin.wait_until_gone(&old, self.deadline).await?;
        self.progress.set_message("creating topics");
        let mut missing = self.wanted.to_vec();
        // A broker may not have noticed the deletion yet, and answer that a topic exists.
        loop {
            let there = self.admin.create(&missing).await?;
            missing.retain(|topic| there.contains(&topic.name));
            if missing.is_empty() {
                break;
            }
            self.deadline.pause(|| format!("deleting topic {}", there.join(", "))).await?;
        }
        self.report(|topic| match old.contains(&topic) {
            true => TopicOutcome::Recreated,
            false => TopicOutcome::Created,
        })
        .await
    }

    /// Waits until all topics can be used, and describes them.
    async fn report(&self, outcome: impl Fn(&str) -> TopicOutcome) -> anyhow::Result<Report> {
        self.progress.set_message("waiting for a leader of each partition");
        let names: Vec<&str> = self.wanted.iter().map(|topic| topic.name.as_str()).collect();
        self.admin.wait_until_ready(&names, self.deadline).await?;
        let found = describe(&self.admin, &self.wanted).await?;
        // Another process may have created them meanwhile, with other settings.
        refuse("the topics exist, but can't be used", &plan(&self.wanted, &found).problems)?;
        let (mut topics, mut unreplicated) = (Vec::new(), Vec::new());
        for (wanted, found) in self.wanted.iter().zip(found) {
            let found = found.with_context(|| {
                format!("topic {} was deleted by another process; run the command again", wanted.name)
            })?;
            if found.replication() < 2 {
                unreplicated.push(wanted.name.clone());
            }
            let outcome = outcome(&wanted.name);
            topics.push(TopicReport { topic: wanted.name.clone(), outcome, partitions: found.partitions });
        }
        self.progress.finish_and_clear();
        if !unreplicated.is_empty() {
            let topics = unreplicated.join(", ");
            tracing::warn!(
                topics,
                "only one broker stores the records of these topics, and they are lost with its disk; for production use --replication 3"
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
        *found = admin.describe(&wanted.name, &[CLEANUP, RETENTION, MAX_BYTES, IN_SYNC]).await?;
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
        let is_unchanged = self.topics.iter().all(|topic| topic.outcome == TopicOutcome::Unchanged);
        if is_unchanged { text + "\nall topics exist already; nothing was changed" } else { text }
    }
}

impl TopicOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Unchanged => "unchanged",
            Self::Recreated => "recreated",
        }
    }
}

/// Returns a spinner. indicatif shows it on a terminal only.
fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
        .unwrap_or(ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
