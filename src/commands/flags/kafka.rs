//! The flags about Kafka, for the commands that connect to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;

use super::value::duration;
use crate::common::kafka::{
    Batching, Compression, KafkaConfig, KafkaConfigError, Sasl, SaslMechanism, Secret, Tls, Topics,
};
use crate::exit::UsageError;

/// The environment variable with the password. It is never a flag, because other users can see the arguments of a process.
const PASSWORD: &str = "KAFKA_PASSWORD";

/// The flags about the cluster and the login.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Kafka")]
pub(crate) struct KafkaArgs {
    /// Brokers to connect to first, as host:port, separated by commas; the others are found through them
    #[arg(long, env = "KAFKA_BROKERS", default_value = "127.0.0.1:9092", value_name = "BROKERS")]
    kafka_brokers: String,
    /// Topic of the jobs. Jobs that wait for a retry are in NAME.retry, dead letters in NAME.dlq
    #[arg(long, default_value = "events", value_name = "NAME")]
    kafka_topic: String,
    /// Topic of the tenants, their keys and endpoints
    #[arg(long, default_value = "whk.tenants", value_name = "NAME")]
    kafka_registry_topic: String,
    /// Time limit of a request to Kafka, over all its attempts (100ms to 5m); an event that isn't stored by then is answered
    /// 503
    #[arg(long, value_parser = duration, default_value = "5s", value_name = "DURATION")]
    kafka_timeout: Duration,
    /// Connect to the brokers with TLS, and check their certificates against the system's root certificates
    #[arg(long)]
    kafka_tls: bool,
    /// File with the root certificates (PEM) to trust for the brokers, instead of the system's
    #[arg(long, value_name = "FILE", requires = "kafka_tls")]
    kafka_ca_file: Option<PathBuf>,
    /// File with a client certificate (PEM), for brokers that ask for one
    #[arg(long, value_name = "FILE", requires = "kafka_tls", requires = "kafka_key_file")]
    kafka_cert_file: Option<PathBuf>,
    /// File with the private key (PEM) of --kafka-cert-file
    #[arg(long, value_name = "FILE", requires = "kafka_cert_file")]
    kafka_key_file: Option<PathBuf>,
    /// Log in to the brokers with this SASL mechanism, --kafka-username and a password
    #[arg(long, value_enum, value_name = "MECHANISM", requires = "kafka_username")]
    kafka_sasl: Option<SaslFlag>,
    /// User name to log in with
    #[arg(long, env = "KAFKA_USERNAME", value_name = "NAME")]
    kafka_username: Option<String>,
    /// File with the password, if the variable KAFKA_PASSWORD isn't set
    #[arg(long, value_name = "FILE", requires = "kafka_sasl")]
    kafka_password_file: Option<PathBuf>,
}

/// The value of `--kafka-sasl`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SaslFlag {
    /// Name and password in clear text: use it with --kafka-tls only
    Plain,
    /// SCRAM-SHA-256: proves the password without sending it
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// SCRAM-SHA-512: proves the password without sending it
    #[value(name = "scram-sha-512")]
    ScramSha512,
}

impl From<SaslFlag> for SaslMechanism {
    fn from(flag: SaslFlag) -> Self {
        match flag {
            SaslFlag::Plain => Self::Plain,
            SaslFlag::ScramSha256 => Self::ScramSha256,
            SaslFlag::ScramSha512 => Self::ScramSha512,
        }
    }
}

impl KafkaArgs {
    /// Returns the configuration of the connection.
    ///
    /// # Errors
    /// A flag's value can't be used, or a file can't be read.
    pub(crate) fn config(&self) -> anyhow::Result<KafkaConfig> {
        let usage = |error: KafkaConfigError| UsageError(error.to_string());
        let topics = Topics::parse(&self.kafka_topic, &self.kafka_registry_topic).map_err(usage)?;
        // librdkafka accepts at most 5 minutes as its `socket.timeout.ms`.
        let range = Duration::from_millis(100)..=Duration::from_secs(300);
        if !range.contains(&self.kafka_timeout) {
            return Err(UsageError("--kafka-timeout: expected 100ms to 5m".into()).into());
        }
        let mut config =
            KafkaConfig::parse(&self.kafka_brokers, topics, self.kafka_timeout).map_err(usage)?;
        config.tls = self.tls()?;
        config.sasl = self.sasl()?;
        Ok(config)
    }

    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        if !self.kafka_tls {
            return Ok(None);
        }
        let roots = self.kafka_ca_file.as_deref().map(|path| pem("--kafka-ca-file", path)).transpose()?;
        let own = match (&self.kafka_cert_file, &self.kafka_key_file) {
            (Some(certificate), Some(key)) => {
                Some((pem("--kafka-cert-file", certificate)?, Secret::new(pem("--kafka-key-file", key)?)))
            }
            _ => None,
        };
        Ok(Some(Tls { roots, own }))
    }

    fn sasl(&self) -> anyhow::Result<Option<Sasl>> {
        let Some(mechanism) = self.kafka_sasl.map(SaslMechanism::from) else { return Ok(None) };
        let username = self.kafka_username.clone().unwrap_or_default();
        if mechanism == SaslMechanism::Plain && !self.kafka_tls {
            tracing::warn!(
                "--kafka-sasl plain without --kafka-tls sends the password in clear text; pass --kafka-tls, or use scram-sha-512"
            );
        }
        let from_environment = std::env::var(PASSWORD).ok().filter(|password| !password.is_empty());
        let password = match (from_environment, &self.kafka_password_file) {
            (Some(password), _) => password,
            (None, Some(path)) => {
                let text = read("--kafka-password-file", path)?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            (None, None) => {
                let needed = format!("--kafka-sasl: set {PASSWORD}, or pass --kafka-password-file");
                return Err(UsageError(needed).into());
            }
        };
        Ok(Some(Sasl { mechanism, username, password: Secret::new(password) }))
    }
}

fn read(flag: &str, path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{flag}: read {}", path.display()))
}

/// Reads a file, and checks that it looks like PEM. librdkafka would quote the file in its own error.
fn pem(flag: &str, path: &Path) -> anyhow::Result<String> {
    let text = read(flag, path)?;
    match text.contains("-----BEGIN ") {
        true => Ok(text),
        false => Err(UsageError(format!("{flag}: {} holds no PEM block", path.display())).into()),
    }
}

/// The flags about Kafka for commands that publish to it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Kafka")]
pub(crate) struct KafkaProducerArgs {
    #[command(flatten)]
    cluster: KafkaArgs,
    /// Compression of the records written to Kafka
    #[arg(long, value_enum, default_value_t, value_name = "CODEC")]
    kafka_compression: CompressionFlag,
    /// Time a record may wait for others to be written in the same request. More gives larger requests, less a shorter wait
    #[arg(long, value_parser = duration, default_value = "5ms", value_name = "DURATION")]
    kafka_linger: Duration,
    /// Consumer group whose lag /metrics reports: the --group of `whk consume-kafka`
    #[arg(long, default_value = "webhook", value_name = "NAME")]
    pub(crate) kafka_group: String,
}

/// The value of `--kafka-compression`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum CompressionFlag {
    /// No compression: encrypted payloads hardly shrink
    #[default]
    None,
    /// gzip
    Gzip,
    /// Snappy
    Snappy,
    /// LZ4
    Lz4,
    /// Zstandard
    Zstd,
}

impl From<CompressionFlag> for Compression {
    fn from(flag: CompressionFlag) -> Self {
        match flag {
            CompressionFlag::None => Self::None,
            CompressionFlag::Gzip => Self::Gzip,
            CompressionFlag::Snappy => Self::Snappy,
            CompressionFlag::Lz4 => Self::Lz4,
            CompressionFlag::Zstd => Self::Zstd,
        }
    }
}

impl KafkaProducerArgs {
    /// Returns the configuration of the connection.
    ///
    /// # Errors
    /// A flag's value can't be used, or a file can't be read.
    pub(crate) fn config(&self) -> anyhow::Result<KafkaConfig> {
        self.cluster.config()
    }

    /// Returns how records are gathered into requests.
    pub(crate) fn batching(&self) -> Batching {
        Batching { compression: self.kafka_compression.into(), linger: self.kafka_linger.min(MAX_LINGER) }
    }
}

/// Maximum linger that librdkafka accepts.
const MAX_LINGER: Duration = Duration::from_secs(900);
