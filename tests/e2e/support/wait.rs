//! Waiting for the state of another process, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// Deadline of every wait: far longer than what is waited for takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `holds` until it returns true, because no event tells this process about another's state.
///
/// Panics after [`PATIENCE`].
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
