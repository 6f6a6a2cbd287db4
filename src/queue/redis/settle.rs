//! Settles leases with their verdicts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::sharded::ShardedQueue;
use super::shards::{Shard, Totals, microseconds};
use crate::common::attempt::Attempt;
use crate::common::id::MessageId;
use crate::common::retry::{Cause, EndpointState, RetryPolicy, Verdict};
use crate::queue::dead::CauseOfDeath;
use crate::queue::throttle::MAX_PROBE_DELAY;
use crate::queue::{Lease, LeaseId, QueueError, Settlement};

/// Maximum leases settled per call. Redis blocks all other clients while the script runs.
const MAX_LEASES_PER_CALL: usize = 500;

/// Number of probe delays that are passed to the script. The last one repeats.
const PROBE_DELAYS: u32 = 32;

/// The arguments of `settle.lua` for one lease.
struct SettleArgs {
    id: MessageId,
    lease: LeaseId,
    /// Outcome for the job.
    job: &'static str,
    /// Outcome for the endpoint.
    endpoint: &'static str,
    /// Time until the retry, in µs.
    delay: u64,
    attempt: String,
    cause: String,
}

impl SettleArgs {
    /// Returns arguments that change only the job, not the throttle of its endpoint.
    fn for_job(id: MessageId, lease: LeaseId, job: &'static str) -> Self {
        Self { id, lease, job, endpoint: "unknown", delay: 0, attempt: String::new(), cause: String::new() }
    }
}

impl ShardedQueue {
    pub(super) async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        self.settle_all(settlements.iter().map(|settlement| self.args(settlement)).collect()).await
    }

    /// Returns leases that were not delivered. If that fails, they expire.
    pub(super) async fn return_leases(self: Arc<Self>, leases: &[Lease]) {
        let args = leases.iter().map(|lease| SettleArgs::for_job(lease.job.id, lease.id, "returned"));
        if let Err(error) = self.settle_all(args.collect()).await {
            tracing::warn!(%error, "leases couldn't be returned; they expire");
        }
    }

    /// Dead-letters a job that can't be read.
    pub(super) async fn bury(
        &self,
        shard: &Shard,
        id: MessageId,
        lease: LeaseId,
        cause: &Cause,
        attempts: u32,
    ) -> Result<(), QueueError> {
        let args =
            SettleArgs { cause: cause_json(cause, attempts), ..SettleArgs::for_job(id, lease, "dead") };
        self.settle_at(shard, &[args]).await
    }

    async fn settle_all(&self, args: Vec<SettleArgs>) -> Result<(), QueueError> {
        let mut by_shard: BTreeMap<usize, Vec<SettleArgs>> = BTreeMap::new();
        for args in args {
            by_shard.entry(args.lease.slot).or_default().push(args);
        }
        let calls = by_shard.iter().filter_map(|(index, args)| {
            let shard = self.shards.get(*index)?;
            Some(async move {
                for args in args.chunks(MAX_LEASES_PER_CALL) {
                    self.settle_at(shard, args).await?;
                }
                Ok(())
            })
        });
        // All shards are called, even if one fails: a shard that is unavailable must not delay the others.
        futures_util::future::join_all(calls).await.into_iter().collect()
    }

    async fn settle_at(&self, shard: &Shard, args: &[SettleArgs]) -> Result<(), QueueError> {
        let (jobs, bytes): (u64, u64) = self
            .call(&self.scripts.settle, shard, |command| {
                self.add_wake_up(command, shard).arg(self.config.lane_in_flight.max(1));
                command.arg(probe_delays(&self.config.retry)).arg(self.history_per_shard());
                for args in args {
                    command.arg(args.id.to_string()).arg(args.lease.serial);
                    command.arg(args.job).arg(args.endpoint).arg(args.delay);
                    command.arg(&args.attempt).arg(&args.cause);
                }
            })
            .await?;
        shard.set_totals(Totals { jobs, bytes });
        args.iter().for_each(|args| self.leases.remove(args.lease));
        shard.request_poll();
        self.shards.iter().for_each(Shard::slots_freed);
        self.changed.notify_waiters();
        Ok(())
    }

    fn args(&self, settlement: &Settlement) -> SettleArgs {
        let Settlement { lease, verdict, attempt } = settlement;
        let (job, endpoint, at, cause) = match verdict {
            Verdict::Done => ("done", "succeeded", None, String::new()),
            Verdict::Dropped => ("dropped", "unknown", None, String::new()),
            Verdict::Retry { at, endpoint } => {
                let endpoint = match endpoint {
                    EndpointState::Failed => "failed",
                    EndpointState::Paused => "paused",
                    EndpointState::Unknown => "unknown",
                    EndpointState::NotContacted => "not_contacted",
                };
                ("retry", endpoint, Some(*at), String::new())
            }
            Verdict::Dead { cause } => {
                let endpoint = match cause {
                    Cause::Exhausted(_) | Cause::Blocked(_) | Cause::Gone => "failed",
                    // No request was sent, so the health of the endpoint is unknown.
                    Cause::Refused(_) | Cause::Disabled | Cause::Interrupted | Cause::Damaged(_) => "unknown",
                };
                ("dead", endpoint, None, cause_json(cause, settlement.attempts_made()))
            }
        };
        // The delay is relative, because Redis has its own clock.
        let delay = at.and_then(|at| Duration::try_from(at.duration_since(self.clock.now())).ok());
        SettleArgs {
            id: lease.job.id,
            lease: lease.id,
            job,
            endpoint,
            delay: microseconds(delay.unwrap_or_default()),
            attempt: attempt_json(attempt.as_ref()),
            cause,
        }
    }

    fn history_per_shard(&self) -> usize {
        self.config.history.div_ceil(self.shards.len().max(1))
    }
}

/// Encodes an attempt as one line of JSON. Returns an empty string if no request was sent.
fn attempt_json(attempt: Option<&Attempt>) -> String {
    attempt.and_then(|attempt| serde_json::to_string(attempt).ok()).unwrap_or_default()
}

fn cause_json(cause: &Cause, attempts: u32) -> String {
    serde_json::to_string(&CauseOfDeath::new(cause, attempts)).unwrap_or_default()
}

/// Returns the delays between probes in µs, separated by commas.
fn probe_delays(policy: &RetryPolicy) -> String {
    let delays =
        (1..=PROBE_DELAYS).map(|probe| microseconds(policy.delay(probe).min(MAX_PROBE_DELAY)).to_string());
    delays.collect::<Vec<_>>().join(",")
}
