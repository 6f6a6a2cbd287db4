//! Shards: their number, the shard of each lane, and what this process knows about each shard.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::OpenRedisError;
use crate::common::id::digest;
use crate::common::job::Lane;
use crate::common::redis::{RedisConfig, RedisConnection};

/// Version of the layout of keys. Keys of a newer version are left alone.
const LAYOUT: u32 = 1;
/// Number of shards in a cluster, so that each node has some.
const CLUSTER_SHARDS: usize = 16;
/// Maximum number of shards that a layout may name.
const MAX_SHARDS: usize = 1_024;

/// A number of jobs and the bytes of their bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) jobs: u64,
    pub(super) bytes: u64,
}

impl Totals {
    /// Limits that are never reached. Lua's numbers represent them exactly.
    pub(super) const UNLIMITED: Self = Self { jobs: u64::MAX >> 12, bytes: u64::MAX >> 12 };

    pub(super) fn saturating_add(self, other: Self) -> Self {
        Self { jobs: self.jobs.saturating_add(other.jobs), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// A part of the queue whose keys are all in one hash slot.
pub(super) struct Shard {
    pub(super) index: usize,
    /// Prefix of its keys.
    pub(super) tag: String,
    state: Mutex<ShardState>,
}

/// State of a shard, as far as this process knows it.
struct ShardState {
    /// Whether a job may be claimable, so that the shard has to be polled.
    needs_poll: bool,
    /// Time at which the shard has to be polled in any case.
    poll_at: Option<Instant>,
    /// Whether jobs become claimable when this process has more free slots.
    slots_short: bool,
    /// Jobs and bytes at the last answer.
    totals: Totals,
    /// Redis' clock in µs at the last answer, and the time of that answer.
    time: Option<(u64, Instant)>,
}

impl Shard {
    fn new(prefix: &str, index: usize) -> Self {
        let state = ShardState {
            needs_poll: true,
            poll_at: None,
            slots_short: false,
            totals: Totals::default(),
            time: None,
        };
        Self { index, tag: format!("{{{prefix}:{index}}}"), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, ShardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a job may be claimable.
    pub(super) fn request_poll(&self) {
        self.state().needs_poll = true;
    }

    /// Notes that this process has more free slots than before.
    pub(super) fn slots_freed(&self) {
        let mut state = self.state();
        state.needs_poll |= state.slots_short;
    }

    /// Returns whether to poll now, and clears the request. Requests from now on cause another poll.
    pub(super) fn begin_poll(&self) -> bool {
        let mut state = self.state();
        let is_due = state.needs_poll || state.poll_at.is_some_and(|at| at <= Instant::now());
        state.needs_poll = false;
        if is_due {
            state.poll_at = None;
        }
        is_due
    }

    /// Notes the result of a poll: the time until something becomes due, whether free slots were too few, and whether
    /// more jobs may be claimable now.
    pub(super) fn end_poll(&self, wait: Option<Duration>, slots_short: bool, more: bool) {
        let mut state = self.state();
        state.needs_poll |= more;
        state.poll_at = wait.and_then(|wait| Instant::now().checked_add(wait));
        state.slots_short = slots_short;
    }

    /// Returns the time of the next poll. `None` if there is no reason for one yet.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        let state = self.state();
        if state.needs_poll { Some(Instant::now()) } else { state.poll_at }
    }

    pub(super) fn set_time(&self, microseconds: u64) {
        self.state().time = Some((microseconds, Instant::now()));
    }

    /// Returns Redis' clock in µs. It may be behind by the time that an answer takes.
    pub(super) fn time(&self) -> Option<u64> {
        let (then, at) = self.state().time?;
        Some(then.saturating_add(microseconds(at.elapsed())))
    }

    pub(super) fn set_totals(&self, totals: Totals) {
        self.state().totals = totals;
    }

    pub(super) fn totals(&self) -> Totals {
        self.state().totals
    }
}

/// Returns `time` in whole µs.
pub(super) fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the name of a lane in keys: a hash, which is short and doesn't reveal a URL.
pub(super) fn lane_key(lane: &Lane) -> String {
    digest(&[lane.name().as_bytes()]).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the index of the shard that has a lane, of `count` shards.
pub(super) fn shard_of(lane_key: &str, count: usize) -> usize {
    let hash = lane_key.get(..8).and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(0);
    hash.checked_rem(count).unwrap_or(0)
}

/// Reads the number of shards, or stores it if this is the first server.
pub(super) async fn open(
    connection: &RedisConnection,
    redis: &RedisConfig,
) -> Result<Vec<Shard>, OpenRedisError> {
    let key = format!("{{{}}}:layout", redis.prefix());
    let wanted = if redis.is_cluster() { CLUSTER_SHARDS } else { 1 };
    let mut set = redis::cmd("SET");
    set.arg(&key).arg(format!("{LAYOUT} {wanted}")).arg("NX");
    let failed = |error| OpenRedisError::unusable(redis, error);
    connection.query::<Option<String>>(&set).await.map_err(failed)?;
    let layout: String = connection.query(redis::cmd("GET").arg(&key)).await.map_err(failed)?;
    let unknown = || OpenRedisError::Layout { prefix: redis.prefix().to_owned() };
    let (version, count) = layout.split_once(' ').ok_or_else(unknown)?;
    if version.parse() != Ok(LAYOUT) {
        return Err(unknown());
    }
    let count = count.parse().ok().filter(|count| (1..=MAX_SHARDS).contains(count)).ok_or_else(unknown)?;
    Ok((0..count).map(|index| Shard::new(redis.prefix(), index)).collect())
}
