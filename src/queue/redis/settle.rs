//! Settling: verdicts as the script takes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::claim::attempt_line;
use super::shards::Shard;
use super::{Shared, microseconds};
use crate::common::id::MessageId;
use crate::common::retry::{Cause, EndpointState, RetryPolicy, Verdict};
use crate::queue::dead::CauseOfDeath;
use crate::queue::throttle::MAX_PROBE_DELAY;
use crate::queue::{Lease, LeaseId, QueueError, Settlement};

/// Leases that one call settles.
const MOST_IN_CALL: usize = 500;
/// Delays of probes that are told to the scripts: the last one repeats.
const PROBES: u32 = 32;

/// One lease as the script takes it.
struct Entry {
    id: MessageId,
    lease: LeaseId,
    becomes: &'static str,
    learnt: &'static str,
    delay: u64,
    attempt: String,
    said: String,
}

impl Shared {
    pub(super) async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        self.settle_entries(settlements.iter().map(|settlement| self.entry(settlement)).collect()).await
    }

    /// Gives leases back that nobody took; where that fails they run out.
    pub(super) async fn give_back(self: Arc<Self>, leases: &[Lease]) {
        let back = |lease: &Lease| Entry {
            id: lease.job.id,
            lease: lease.id,
            becomes: "back",
            learnt: "nothing",
            delay: 0,
            attempt: String::new(),
            said: String::new(),
        };
        if let Err(error) = self.settle_entries(leases.iter().map(back).collect()).await {
            tracing::warn!(%error, "give leases back; they run out");
        }
    }

    /// Sets a job aside that can't be read.
    pub(super) async fn bury(
        &self,
        shard: &Shard,
        id: MessageId,
        lease: LeaseId,
        cause: &Cause,
        attempts: u32,
    ) -> Result<(), QueueError> {
        let said = said(cause, attempts);
        let entry =
            Entry { id, lease, becomes: "dead", learnt: "nothing", delay: 0, attempt: String::new(), said };
        self.settle_at(shard, &[entry]).await
    }

    async fn settle_entries(&self, entries: Vec<Entry>) -> Result<(), QueueError> {
        let mut by_shard: BTreeMap<usize, Vec<Entry>> = BTreeMap::new();
        for entry in entries {
            by_shard.entry(entry.lease.slot).or_default().push(entry);
        }
        let settling = by_shard.iter().filter_map(|(index, entries)| {
            let shard = self.shards.get(*index)?;
            Some(async move {
                for entries in entries.chunks(MOST_IN_CALL) {
                    self.settle_at(shard, entries).await?;
                }
                Ok(())
            })
        });
        // All of them, whichever fails: a shard that is away holds up no other.
        futures_util::future::join_all(settling).await.into_iter().collect()
    }

    async fn settle_at(&self, shard: &Shard, entries: &[Entry]) -> Result<(), QueueError> {
        let (jobs, bytes): (u64, u64) = self
            .call(&self.scripts.settle, shard, |command| {
                self.wake_up(command, shard).arg(self.config.lane_in_flight.max(1));
                command.arg(probe_delays(&self.config.retry)).arg(self.history_of_shard());
                for entry in entries {
                    command
                        .arg(entry.id.to_string())
                        .arg(entry.lease.serial)
                        .arg(entry.becomes)
                        .arg(entry.learnt);
                    command.arg(entry.delay).arg(&entry.attempt).arg(&entry.said);
                }
            })
            .await?;
        shard.set_totals(jobs, bytes);
        entries.iter().for_each(|entry| self.held.remove(entry.lease));
        shard.look_again();
        self.shards.iter().for_each(Shard::slots_freed);
        self.changed.notify_waiters();
        Ok(())
    }

    fn entry(&self, settlement: &Settlement) -> Entry {
        let Settlement { lease, verdict, attempt } = settlement;
        let (becomes, learnt, at, said) = match verdict {
            Verdict::Done => ("done", "well", None, String::new()),
            Verdict::Dropped => ("dropped", "nothing", None, String::new()),
            Verdict::Retry { at, endpoint } => {
                let learnt = match endpoint {
                    EndpointState::Failed => "failed",
                    EndpointState::Paused => "paused",
                    EndpointState::Unknown => "nothing",
                    EndpointState::NotContacted => "not asked",
                };
                ("retry", learnt, Some(*at), String::new())
            }
            Verdict::Dead { cause } => {
                let learnt = match cause {
                    Cause::Exhausted(_) | Cause::Blocked(_) | Cause::Gone => "failed",
                    // No request was sent, so nothing was learnt of the endpoint.
                    Cause::Refused(_) | Cause::Disabled | Cause::Interrupted | Cause::Damaged(_) => "nothing",
                };
                ("dead", learnt, None, said(cause, settlement.attempts_made()))
            }
        };
        // From now on, since Redis has a clock of its own.
        let delay = at.and_then(|at| Duration::try_from(at.duration_since(self.clock.now())).ok());
        Entry {
            id: lease.job.id,
            lease: lease.id,
            becomes,
            learnt,
            delay: microseconds(delay.unwrap_or_default()),
            attempt: attempt_line(attempt.as_ref()),
            said,
        }
    }

    fn history_of_shard(&self) -> usize {
        self.config.history.div_ceil(self.shards.len().max(1))
    }
}

fn said(cause: &Cause, attempts: u32) -> String {
    serde_json::to_string(&CauseOfDeath::new(cause, attempts)).unwrap_or_default()
}

fn probe_delays(policy: &RetryPolicy) -> String {
    let delays = (1..=PROBES).map(|probe| microseconds(policy.delay(probe).min(MAX_PROBE_DELAY)).to_string());
    delays.collect::<Vec<_>>().join(",")
}
