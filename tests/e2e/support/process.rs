//! The `whk` binary, and what every process of a test needs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Returns the command `whk` with `arguments`. Variables of the environment that whk reads are removed.
pub(crate) fn whk(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whk"));
    command.args(arguments).stdin(Stdio::null());
    for name in [
        "REDIS_URL",
        "SERVER_PORT",
        "SERVER_HOSTNAME",
        "MAX_QUEUE_SIZE",
        "MAX_PAYLOAD_SIZE",
        "MAX_RETRIES",
        "RETRY_DELAYS",
        "KAFKA_BROKERS",
        "KAFKA_USERNAME",
        "KAFKA_PASSWORD",
        "PARTITIONS_CONCURRENCY",
        "SESSION_TIMEOUT",
        "WHK_API_KEY",
        "WHK_DATA_DIR",
        "WHK_SECRET_KEY_FILE",
        "WHK_SERVER",
        "WHK_LOG",
        "WHK_LOG_FORMAT",
    ] {
        command.env_remove(name);
    }
    // A server creates this folder only if it is given no other data dir.
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let folder = format!("data-{}-{}", std::process::id(), FOLDERS.fetch_add(1, Ordering::Relaxed));
    command.env("WHK_DATA_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder));
    command
}

/// Runs `whk` until it ends.
pub(crate) fn run(arguments: &[&str]) -> Output {
    whk(arguments).output().unwrap()
}

/// Returns the stderr of an output as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns a port that stays free while its server restarts: no other test gets it, and it is outside the range that the
/// system picks ports from.
pub(crate) fn own_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 1_000).unwrap() * 10;
    let mut candidates = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed));
    candidates.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}
