//! The Redis and the Kafka that tests share. `scripts/services.sh` starts them.

/// Returns the URL of the Redis to test with.
///
/// # Panics
/// The variable isn't set: a test that needs Redis never passes without it.
pub(crate) fn redis_url() -> String {
    variable("WHK_TEST_REDIS", "redis")
}

/// Returns the addresses of the Kafka brokers to test with.
///
/// # Panics
/// The variable isn't set: a test that needs Kafka never passes without it.
#[cfg(feature = "kafka")]
pub(crate) fn kafka_brokers() -> String {
    variable("WHK_TEST_KAFKA", "kafka")
}

fn variable(name: &str, service: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} isn't set. Start {service} with: eval \"$(scripts/services.sh start {service} | sed 's/^/export /')\""
        )
    })
}
