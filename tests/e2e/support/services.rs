//! The shared Redis and Kafka that `scripts/services.sh` starts, and the interop receivers' libraries.

use std::path::PathBuf;

/// Returns a variable that `scripts/services.sh start SERVICE` prints.
///
/// Panics with the command to run if the variable isn't set: a test that needs a service never passes without it.
pub(crate) fn service(variable: &str, service: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} isn't set. Start {service} with: eval \"$(scripts/services.sh start {service} | sed 's/^/export /')\""
        )
    })
}

/// Returns the URL of the Redis that all tests share.
pub(crate) fn redis_url() -> String {
    service("WHK_TEST_REDIS", "redis")
}

/// Returns the URL of the shared Redis with a host name in place of the address.
///
/// [`Server`](super::Server) takes the first address in a server's log for its own.
pub(crate) fn named_redis_url() -> String {
    redis_url().replace("127.0.0.1", "localhost")
}

/// Returns a variable that `scripts/services.sh start kafka` prints.
pub(crate) fn kafka(variable: &str) -> String {
    service(variable, "kafka")
}

/// Returns the Python of the virtual environment that has the receivers' libraries.
pub(crate) fn interop_python() -> PathBuf {
    let found = std::env::var_os("WHK_INTEROP").map(PathBuf::from);
    found.unwrap_or_else(|| {
        panic!(
            "WHK_INTEROP isn't set. Install the receivers' libraries and set it with: \
             eval \"$(scripts/interop.sh | sed 's/^/export /')\""
        )
    })
}

/// Returns the brokers of the shared Kafka with a host name in place of the address.
///
/// [`Server`](super::Server) takes the first address in a server's log for its own.
pub(crate) fn named_kafka_brokers() -> String {
    kafka("WHK_TEST_KAFKA").replace("127.0.0.1", "localhost")
}
