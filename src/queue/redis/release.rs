//! Releases lanes: resets their throttles and makes their delayed jobs due.

use std::collections::BTreeMap;

use super::sharded::ShardedQueue;
use super::shards::{lane_key, shard_of};
use crate::common::job::Lane;
use crate::queue::QueueError;

/// Maximum lanes per call. Redis blocks all other clients while the script runs.
const MAX_LANES_PER_CALL: usize = 500;

impl ShardedQueue {
    pub(super) async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError> {
        let mut by_shard: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for key in lanes.iter().map(lane_key) {
            by_shard.entry(shard_of(&key, self.shards.len())).or_default().push(key);
        }
        for (index, keys) in by_shard {
            let Some(shard) = self.shards.get(index) else { continue };
            for keys in keys.chunks(MAX_LANES_PER_CALL) {
                let release = || {
                    self.call::<bool>(&self.scripts.release, shard, |command| {
                        self.add_wake_up(command, shard).arg(keys);
                    })
                };
                // The script moves a limited number of jobs and says whether some are left.
                while release().await? {}
            }
            shard.request_poll();
        }
        self.changed.notify_waiters();
        Ok(())
    }
}
