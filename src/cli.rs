//! The command line: one enum of all subcommands and one match that runs them.

use clap::{Parser, Subcommand};

use crate::commands::flags::log::LogArgs;
use crate::commands::{customer, dlq, keygen, message, publish_server, send, tenant};

/// Deliver webhooks: encrypted with each customer's own key, at least once, in order if asked
#[derive(Debug, Parser)]
#[command(name = "whk", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "\
Getting started (run each server in a terminal of its own):
  0  whk kafka-setup            create the topics; only needed with --queue kafka
  1  whk keygen --signing-secret
                                make the customer's keys, and a secret that signs deliveries
  2  whk publish-server --allow-net 127.0.0.0/8
                                take events, encrypt them, store them, and deliver them with retries
  3  whk customer --secret-file signing_secret.txt
                                play the customer: verify deliveries and decrypt them
     whk tenant onboard Acme --public-key public_key.pem --secret-file signing_secret.txt \\
         --url http://127.0.0.1:9000/webhook --events '*'
                                subscribe the customer to all events
  2b whk consume-kafka          deliver jobs from Kafka; only needed with --queue kafka
  4  whk send --subscribers --type invoice.paid
                                publish 100 events
  5  whk dlq list               list messages that couldn't be delivered
     whk dlq replay --all       queue them again

`whk COMMAND --help` explains each command.")]
pub struct Cli {
    /// Subcommand to run.
    #[command(subcommand)]
    pub command: Command,
    /// Flags about logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the doc comment of each `Args` is its help text")]
pub enum Command {
    Keygen(keygen::Args),
    PublishServer(Box<publish_server::Args>),
    #[cfg(feature = "kafka")]
    #[command(flatten)]
    Kafka(crate::commands::kafka::KafkaCommand),
    Customer(Box<customer::Args>),
    Send(Box<send::Args>),
    Tenant(Box<tenant::Args>),
    Dlq(Box<dlq::Args>),
    Message(Box<message::Args>),
}

impl Command {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// The subcommand failed. [`crate::exit::code_of`] returns the exit code.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Keygen(args) => keygen::run(args).await,
            Self::PublishServer(args) => publish_server::run(*args).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(command) => command.run().await,
            Self::Customer(args) => customer::run(*args).await,
            Self::Send(args) => send::run(*args).await,
            Self::Tenant(args) => tenant::run(*args).await,
            Self::Dlq(args) => dlq::run(*args).await,
            Self::Message(args) => message::run(*args).await,
        }
    }
}
