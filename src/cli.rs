//! The command line: every subcommand, one enum and one match.

use clap::{Parser, Subcommand};

use crate::commands::flags::log::LogArgs;
use crate::commands::{
    consume_kafka, customer, dlq, kafka_setup, keygen, message, publish_server, send, tenant,
};

/// Deliver webhooks: encrypted with each customer's own key, at least once, in order where asked
#[derive(Debug, Parser)]
#[command(name = "whk", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "\
The steps, in order, servers in terminals of their own:
  0  whk kafka-setup                             with Kafka alone: its topics
  1  whk keygen --signing-secret                 the customer's keys, and a secret that both sides share
  2  whk publish-server --allow-net 127.0.0.0/8  the provider takes events, encrypts, queues and delivers them
  3  whk customer --secret-file signing_secret.txt
                                                 the customer verifies and decrypts them
     whk tenant onboard Acme --public-key public_key.pem --secret-file signing_secret.txt \\
         --url http://127.0.0.1:9000/webhook --events '*'
                                                 the customer subscribes
  2b whk consume-kafka                           delivers what --queue kafka took: as many as the load needs
  4  whk send --subscribers --type invoice.paid  a hundred events to try it all
  5  whk dlq list                                what was given up; whk dlq replay sends it again")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The subcommands, one a step.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "each is described by its arguments, which --help shows")]
pub enum Command {
    KafkaSetup(Box<kafka_setup::Args>),
    Keygen(keygen::Args),
    PublishServer(Box<publish_server::Args>),
    ConsumeKafka(Box<consume_kafka::Args>),
    Customer(Box<customer::Args>),
    Send(Box<send::Args>),
    Tenant(Box<tenant::Args>),
    Dlq(Box<dlq::Args>),
    Message(Box<message::Args>),
}

impl Command {
    /// Runs the chosen subcommand.
    ///
    /// # Errors
    /// Whatever the subcommand says; [`crate::exit::code_of`] tells the exit code.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::KafkaSetup(args) => kafka_setup::run(*args).await,
            Self::Keygen(args) => keygen::run(args).await,
            Self::PublishServer(args) => publish_server::run(*args).await,
            Self::ConsumeKafka(args) => consume_kafka::run(*args).await,
            Self::Customer(args) => customer::run(*args).await,
            Self::Send(args) => send::run(*args).await,
            Self::Tenant(args) => tenant::run(*args).await,
            Self::Dlq(args) => dlq::run(*args).await,
            Self::Message(args) => message::run(*args).await,
        }
    }
}
