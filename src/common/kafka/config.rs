//! Configuration of Kafka, as given by the `--kafka-…` flags.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

/// Maximum bytes of the name of a topic: Kafka's limit minus the longest suffix.
const MAX_NAME: usize = 249 - ".retry".len();

/// A `--kafka-…` flag has an unusable value. The error doesn't contain the value, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KafkaConfigError {
    /// The list of brokers is malformed.
    #[error("--kafka-brokers: host:port is needed, or several separated by commas")]
    Brokers,
    /// The name of a topic is malformed.
    #[error("{0}: 1 to {MAX_NAME} of A-Z, a-z, 0-9, `.`, `_` and `-` are needed")]
    Topic(&'static str),
    /// The registry has the same topic as the events.
    #[error(
        "--kafka-registry-topic: the topic is used for events already; pass another one than --kafka-topic"
    )]
    SameTopic,
}

/// Names of the topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Topic of published jobs.
    pub events: String,
    /// Topic of delayed jobs that would block their partition for too long.
    pub retry: String,
    /// Topic of dead letters; compacted.
    pub dead: String,
    /// Topic of tenants, their keys and endpoints; compacted.
    pub registry: String,
}

impl Topics {
    /// Derives the names of all topics from those of the events and the registry.
    ///
    /// # Errors
    /// A name is malformed, or `registry` is one of the other topics.
    pub fn parse(events: &str, registry: &str) -> Result<Self, KafkaConfigError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= MAX_NAME
                && !matches!(name, "." | "..")
                && name.bytes().all(allowed)
        };
        for (flag, name) in [("--kafka-topic", events), ("--kafka-registry-topic", registry)] {
            if !is_name(name) {
                return Err(KafkaConfigError::Topic(flag));
            }
        }
        let topics = Self {
            events: events.to_owned(),
            retry: format!("{events}.retry"),
            dead: format!("{events}.dlq"),
            registry: registry.to_owned(),
        };
        let is_taken = [&topics.events, &topics.retry, &topics.dead].contains(&&topics.registry);
        if is_taken { Err(KafkaConfigError::SameTopic) } else { Ok(topics) }
    }
}

/// TLS settings of the connections to Kafka.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Trusted root certificates (PEM). `None` trusts those of the system.
    pub roots: Option<String>,
    /// Client certificates and their private key (PEM).
    pub own: Option<(String, Secret)>,
}

/// SASL credentials.
#[derive(Debug, Clone)]
pub struct Sasl {
    /// SASL mechanism.
    pub mechanism: SaslMechanism,
    /// Name of the user.
    pub username: String,
    /// Password of the user.
    pub password: Secret,
}

/// Supported SASL mechanisms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// PLAIN: sends name and password as they are, so it needs TLS.
    Plain,
    /// SCRAM-SHA-256: doesn't send the password itself.
    ScramSha256,
    /// SCRAM-SHA-512: doesn't send the password itself.
    ScramSha512,
}

impl SaslMechanism {
    /// Returns the name of the mechanism.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Secret text. `Debug` hides it, and it is wiped from memory on drop.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Compression of records, on their way and in Kafka.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// No compression. Encrypted payloads hardly shrink.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Returns the name of the codec.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Configuration of how records are gathered into requests.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    /// Compression of each batch.
    pub compression: Compression,
    /// Maximum time the first record of a request waits for others.
    pub linger: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self { compression: Compression::default(), linger: Duration::from_millis(5) }
    }
}

/// Configuration of a connection to Kafka.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    pub(super) brokers: String,
    /// Topics of whk.
    pub topics: Topics,
    /// TLS settings. `None` uses unencrypted connections.
    pub tls: Option<Tls>,
    /// SASL credentials. `None` connects without SASL.
    pub sasl: Option<Sasl>,
    /// Maximum time of a request.
    pub timeout: Duration,
}

impl KafkaConfig {
    /// Parses a list of brokers, `host:port` separated by commas. The configuration has neither TLS nor SASL.
    ///
    /// # Errors
    /// The list is malformed.
    pub fn parse(brokers: &str, topics: Topics, timeout: Duration) -> Result<Self, KafkaConfigError> {
        let is_broker = |broker: &str| {
            broker.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty()
                    && !host.contains(|odd: char| odd.is_whitespace() || odd == '/' || odd == '@')
                    && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        let brokers: Vec<&str> = brokers.split(',').map(str::trim).collect();
        if !brokers.iter().copied().all(is_broker) {
            return Err(KafkaConfigError::Brokers);
        }
        Ok(Self { brokers: brokers.join(","), topics, tls: None, sasl: None, timeout })
    }
}

impl fmt::Display for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.brokers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        Topics::parse("events", "whk.tenants").unwrap()
    }

    #[test]
    fn brokers_and_topics_are_checked() {
        let config = KafkaConfig::parse(" a:9092, [::1]:9093 ", topics(), Duration::from_secs(1)).unwrap();
        assert_eq!(config.to_string(), "a:9092,[::1]:9093");
        for odd in ["", "a", "a:", ":9092", "a:0", "a:1,", "kafka://a:9092/", "user@a:9092", "a:99999"] {
            let error = KafkaConfig::parse(odd, topics(), Duration::from_secs(1)).unwrap_err();
            assert_eq!(error, KafkaConfigError::Brokers, "{odd}");
        }
        for odd in ["", ".", "..", "a b", "ä", "a/b", &"a".repeat(MAX_NAME + 1)] {
            assert_eq!(Topics::parse(odd, "t"), Err(KafkaConfigError::Topic("--kafka-topic")), "{odd}");
        }
        assert_eq!(Topics::parse("events", "events.dlq"), Err(KafkaConfigError::SameTopic));
        assert!(Topics::parse(&"a".repeat(MAX_NAME), "t").is_ok());
    }

    #[test]
    fn debug_and_display_hide_secrets() {
        let mut config = KafkaConfig::parse("a:1", topics(), Duration::from_secs(1)).unwrap();
        let password = Secret::new("hunter2".into());
        config.sasl =
            Some(Sasl { mechanism: SaslMechanism::Plain, username: "u".into(), password: password.clone() });
        config.tls = Some(Tls { roots: None, own: Some(("pem".into(), password)) });
        assert!(!format!("{config:?}{config}").contains("hunter2"));
    }
}
