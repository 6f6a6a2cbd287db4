//! Apache Kafka: configuration, and the parts that all of its clients share.

#[cfg(feature = "kafka")]
mod client;
mod config;

#[cfg(feature = "kafka")]
pub use self::client::{KafkaContext, admin, is_not_permitted, log_errors, retriable, without_value};
pub use self::config::{
    Batching, Compression, KafkaConfig, KafkaConfigError, Sasl, SaslMechanism, Secret, Tls, Topics,
};

/// This build has no client of Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this whk was built without Kafka: build it with the `kafka` feature, which is on by default, or choose another --queue and --registry"
)]
pub struct NotBuiltIn;

/// Refuses Kafka if this build has no client of it.
///
/// # Errors
/// The build is without the `kafka` feature.
pub fn ensure_built_in() -> Result<(), NotBuiltIn> {
    if cfg!(feature = "kafka") { Ok(()) } else { Err(NotBuiltIn) }
}
