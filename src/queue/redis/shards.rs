//! Shards: how many there are, which lane is where, and what this process knows of each.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::OpenRedisError;
use crate::common::id::digest;
use crate::common::job::Lane;
use crate::common::redis::{RedisConfig, RedisConnection};

/// How the keys are laid out. A newer one is left alone.
const LAYOUT: u32 = 1;
/// Shards of a cluster: enough that each node has some.
const CLUSTER_SHARDS: usize = 16;
/// More than any layout has.
const MOST_SHARDS: usize = 1_024;

/// One part of the queue, all in one hash slot.
pub(super) struct Shard {
    pub(super) index: usize,
    /// What its keys begin with.
    pub(super) tag: String,
    known: Mutex<Known>,
}

struct Known {
    /// Something may be claimable.
    look: bool,
    /// When to look in any case.
    due: Option<Instant>,
    /// Something is claimable once this process has more free slots.
    short: bool,
    /// Jobs and bytes it held when it was last heard of.
    totals: (u64, u64),
    /// What Redis' clock said last, in µs, and when that was.
    time: Option<(u64, Instant)>,
}

impl Shard {
    fn new(prefix: &str, index: usize) -> Self {
        let known = Mutex::new(Known { look: true, due: None, short: false, totals: (0, 0), time: None });
        Self { index, tag: format!("{{{prefix}:{index}}}"), known }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may be claimable here.
    pub(super) fn look_again(&self) {
        self.known().look = true;
    }

    /// This process has more free slots than before.
    pub(super) fn slots_freed(&self) {
        let mut known = self.known();
        known.look |= known.short;
    }

    /// Whether to look now. What happens from now on is another reason to look.
    pub(super) fn take_look(&self) -> bool {
        let mut known = self.known();
        let look = known.look || known.due.is_some_and(|due| due <= Instant::now());
        (known.look, known.due) = (false, if look { None } else { known.due });
        look
    }

    /// What came of looking: when the next thing is due, and whether slots were short.
    pub(super) fn looked(&self, wait: Option<Duration>, short: bool, more: bool) {
        let mut known = self.known();
        known.look |= more;
        known.due = wait.and_then(|wait| Instant::now().checked_add(wait));
        known.short = short;
    }

    /// When to look next, as far as is known.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let known = self.known();
        if known.look { Some(Instant::now()) } else { known.due }
    }

    pub(super) fn set_time(&self, microseconds: u64) {
        self.known().time = Some((microseconds, Instant::now()));
    }

    /// What Redis' clock says now, in µs: a little less than it does, by the time that its answers take.
    pub(super) fn time(&self) -> Option<u64> {
        let (then, at) = self.known().time?;
        Some(then.saturating_add(super::microseconds(at.elapsed())))
    }

    pub(super) fn set_totals(&self, jobs: u64, bytes: u64) {
        self.known().totals = (jobs, bytes);
    }

    pub(super) fn totals(&self) -> (u64, u64) {
        self.known().totals
    }
}

/// The name of a lane in keys: short, and telling nothing of a URL.
pub(super) fn lane_name(lane: &Lane) -> String {
    digest(&[lane.name().as_bytes()]).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Which of `count` shards has a lane.
pub(super) fn shard_of(lane_name: &str, count: usize) -> usize {
    let hash = lane_name.get(..8).and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(0);
    hash.checked_rem(count).unwrap_or(0)
}

/// The shards as the first server laid them out.
pub(super) async fn open(
    connection: &RedisConnection,
    redis: &RedisConfig,
) -> Result<Vec<Shard>, OpenRedisError> {
    let key = format!("{{{}}}:layout", redis.prefix());
    let wanted = if redis.is_cluster() { CLUSTER_SHARDS } else { 1 };
    let mut set = redis::cmd("SET");
    set.arg(&key).arg(format!("{LAYOUT} {wanted}")).arg("NX");
    let failed = |error| OpenRedisError::of(redis, error);
    connection.query::<Option<String>>(&set).await.map_err(failed)?;
    let layout: String = connection.query(redis::cmd("GET").arg(&key)).await.map_err(failed)?;
    let unknown = || OpenRedisError::Layout { prefix: redis.prefix().to_owned() };
    let (version, count) = layout.split_once(' ').ok_or_else(unknown)?;
    if version.parse() != Ok(LAYOUT) {
        return Err(unknown());
    }
    let count = count.parse().ok().filter(|count| (1..=MOST_SHARDS).contains(count)).ok_or_else(unknown)?;
    Ok((0..count).map(|index| Shard::new(redis.prefix(), index)).collect())
}
