//! Where Kafka is, as the `--kafka-…` flags say it.

use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use zeroize::Zeroizing;

/// The longest name of a topic that Kafka takes, less our longest suffix.
const MOST_NAME: usize = 249 - ".retry".len();

/// A flag about Kafka can't be used. It repeats no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KafkaConfigError {
    /// It isn't a list of brokers.
    #[error("--kafka-brokers: host:port is needed, or several with commas between them")]
    Brokers,
    /// A topic can't be called that.
    #[error("{0}: 1 to {MOST_NAME} of A-Z, a-z, 0-9, `.`, `_` and `-` are needed")]
    Topic(&'static str),
    /// Both topics are the same.
    #[error("--kafka-registry-topic: it must be another topic than those of --kafka-topic")]
    SameTopic,
}

/// The topics by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Jobs, as they are published.
    pub events: String,
    /// Jobs that wait for longer than a partition should be held up for.
    pub retry: String,
    /// Jobs that were given up; compacted.
    pub dead: String,
    /// Tenants, their keys and endpoints; compacted.
    pub registry: String,
}

impl Topics {
    /// `events` and the two that are named after it, and `registry`.
    ///
    /// # Errors
    /// One of them can't be a topic's name.
    pub fn parse(events: &str, registry: &str) -> Result<Self, KafkaConfigError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= MOST_NAME
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

/// How connections to Kafka are encrypted, and what both sides show.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Certificates (PEM) that the brokers' own are checked against, instead of the system's.
    pub roots: Option<String>,
    /// What this side shows: its certificates and its private key (PEM).
    pub own: Option<(String, Secret)>,
}

/// How Kafka learns who this is.
#[derive(Debug, Clone)]
pub struct Sasl {
    /// In which way.
    pub mechanism: SaslMechanism,
    /// Who.
    pub username: String,
    /// What proves it.
    pub password: Secret,
}

/// The ways of SASL that are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// Name and password as they are: with TLS alone
    Plain,
    /// SCRAM-SHA-256: the password itself isn't sent
    ScramSha256,
    /// SCRAM-SHA-512: the password itself isn't sent
    ScramSha512,
}

impl SaslMechanism {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Text that `Debug` hides and that is wiped when it goes.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Hides `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Where Kafka is and how it is talked to.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    brokers: String,
    /// Of its topics, those that are ours.
    pub topics: Topics,
    /// Whether connections are encrypted, and how.
    pub tls: Option<Tls>,
    /// Whether this side says who it is, and how.
    pub sasl: Option<Sasl>,
    /// How long one request may take before it is given up.
    pub timeout: Duration,
}

impl KafkaConfig {
    /// Brokers as `host:port` with commas between them, without TLS and SASL.
    ///
    /// # Errors
    /// It isn't a list of those.
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

    /// What every client of librdkafka is configured with. Its `Debug` shows the private key: it isn't for logs.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        let timeout = self.timeout.as_millis().to_string();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "whk")
            .set("security.protocol", self.protocol())
            .set("socket.timeout.ms", &timeout)
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        if let Some(tls) = &self.tls {
            match &tls.roots {
                Some(pem) => config.set("ssl.ca.pem", pem),
                None => config.set("ssl.ca.location", "probe"),
            };
            if let Some((certificates, key)) = &tls.own {
                config.set("ssl.certificate.pem", certificates).set("ssl.key.pem", &*key.0);
            }
        }
        if let Some(sasl) = &self.sasl {
            config
                .set("sasl.mechanisms", sasl.mechanism.as_str())
                .set("sasl.username", &sasl.username)
                .set("sasl.password", &*sasl.password.0);
        }
        config
    }

    fn protocol(&self) -> &'static str {
        match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
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
        for odd in ["", ".", "..", "a b", "ä", "a/b", &"a".repeat(MOST_NAME + 1)] {
            assert_eq!(Topics::parse(odd, "t"), Err(KafkaConfigError::Topic("--kafka-topic")), "{odd}");
        }
        assert_eq!(Topics::parse("events", "events.dlq"), Err(KafkaConfigError::SameTopic));
        assert!(Topics::parse(&"a".repeat(MOST_NAME), "t").is_ok());
    }

    #[test]
    fn no_secret_is_shown() {
        let mut config = KafkaConfig::parse("a:1", topics(), Duration::from_secs(1)).unwrap();
        let password = Secret::new("hunter2".into());
        config.sasl =
            Some(Sasl { mechanism: SaslMechanism::Plain, username: "u".into(), password: password.clone() });
        config.tls = Some(Tls { roots: None, own: Some(("pem".into(), password)) });
        assert!(!format!("{config:?}{config}").contains("hunter2"));
        assert_eq!(config.client().get("security.protocol"), Some("sasl_ssl"));
    }
}
