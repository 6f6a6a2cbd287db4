//! The subcommands that only a build with the `kafka` feature has.

pub mod consume;
pub mod setup;

use clap::Subcommand;

/// The subcommands about Kafka.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the doc comment of each `Args` is its help text")]
pub enum KafkaCommand {
    KafkaSetup(Box<setup::Args>),
    ConsumeKafka(Box<consume::Args>),
}

impl KafkaCommand {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// The subcommand failed.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::KafkaSetup(args) => setup::run(*args).await,
            Self::ConsumeKafka(args) => consume::run(*args).await,
        }
    }
}
