//! Leases: jobs that are given out, until they are settled, given back or expire.

use jiff::Timestamp;

use super::Lanes;
use super::window::{LanePosition, WaitingJob};
use crate::common::clock::after;
use crate::common::job::Lane;
use crate::common::retry::{Cause, EndpointState, Verdict};
use crate::queue::LeaseId;
use crate::queue::throttle::{EndpointHealth, Throttle};

/// A leased job, as the backend gets it.
#[derive(Debug)]
pub struct LeasedJob<J> {
    /// Lease to settle.
    pub(in crate::queue) id: LeaseId,
    /// Position that the job had in its lane.
    pub position: LanePosition,
    /// The job, in the form that the backend keeps.
    pub job: J,
    /// Number of this attempt, counted from 1.
    pub attempt: u32,
    /// Time of the first attempt; the time of the claim if this is the first.
    pub first_attempt_at: Timestamp,
    /// Whether the next job of the lane waits until this one is settled.
    pub ordered: bool,
}

/// A lease that is out, as the scheduler keeps it.
pub(super) struct ActiveLease<J> {
    pub(super) lane: Lane,
    pub(super) position: LanePosition,
    pub(super) waiting: WaitingJob<J>,
    pub(super) serial: u64,
    expires_at: Timestamp,
    /// Health of the endpoint when the job was leased.
    health: EndpointHealth,
}

/// State of a failed job that waits for its next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledRetry {
    /// Position in the lane.
    pub position: LanePosition,
    /// Time of the retry in an ordered lane, where the job keeps its position. Otherwise `None`: the position has the
    /// time.
    pub retry_at: Option<Timestamp>,
    /// Number of attempts that have failed.
    pub failures: u32,
    /// Time of the first attempt.
    pub first_attempt_at: Option<Timestamp>,
}

impl<J: Clone> Lanes<J> {
    /// Leases the first job of a lane, if it is in memory.
    pub(super) fn lease_first(&mut self, lane: &Lane, now: Timestamp) -> Option<LeasedJob<J>> {
        let state = self.lanes.get_mut(lane)?;
        let (position, mut waiting) = state.window.pop_first()?;
        let (health, ordered, runs_low) = (state.throttle.health(), state.ordered, state.window.runs_low());
        state.leased = state.leased.saturating_add(1);
        let leases = self.leases_by_health.of_mut(health);
        *leases = leases.saturating_add(1);
        let serial = self.next_serial();
        let first_attempt_at = *waiting.first_attempt_at.get_or_insert(now);
        let (job, attempt) = (waiting.job.clone(), waiting.failures.saturating_add(1));
        let expires_at = after(now, self.config.lease);
        let lease = ActiveLease { lane: lane.clone(), position, waiting, serial, expires_at, health };
        let slot = self.leases.insert(lease);
        self.next_sweep.get_or_insert(expires_at);
        if runs_low {
            self.load(lane);
        }
        Some(LeasedJob { id: LeaseId { slot, serial }, position, job, attempt, first_attempt_at, ordered })
    }

    /// Returns how the job of a lease waits for its retry. `None` if the verdict is no retry, or the lease is not out.
    #[must_use]
    pub(in crate::queue) fn retry_of(&self, id: LeaseId, verdict: &Verdict) -> Option<ScheduledRetry> {
        let Verdict::Retry { at, endpoint } = *verdict else { return None };
        let lease = self.active(id)?;
        let was_sent = endpoint != EndpointState::NotContacted;
        let ordered = self.lanes.get(&lease.lane).is_some_and(|state| state.ordered);
        let (position, retry_at) = match ordered {
            true => (lease.position, Some(at)),
            false => ((at, lease.position.1), None),
        };
        let failures = lease.waiting.failures.saturating_add(u32::from(was_sent));
        let first_attempt_at = lease.waiting.first_attempt_at.filter(|_| failures > 0);
        Some(ScheduledRetry { position, retry_at, failures, first_attempt_at })
    }

    /// Returns what the backend keeps of a leased job. `None` if the lease is not out.
    #[must_use]
    pub(in crate::queue) fn job_of(&self, id: LeaseId) -> Option<&J> {
        self.active(id).map(|lease| &lease.waiting.job)
    }

    /// Returns the position that a leased job had in its lane. `None` if the lease is not out.
    #[must_use]
    pub(in crate::queue) fn position_of(&self, id: LeaseId) -> Option<LanePosition> {
        self.active(id).map(|lease| lease.position)
    }

    /// Ends a lease with the verdict on its job. A job to retry waits as `job`, in the state that [`Self::retry_of`]
    /// has returned.
    ///
    /// Returns whether the lease was out. If it was settled before or has expired, nothing changes: the job of an
    /// expired lease is delivered again.
    pub(in crate::queue) fn settle(
        &mut self,
        id: LeaseId,
        verdict: &Verdict,
        retry: Option<ScheduledRetry>,
        job: J,
        now: Timestamp,
    ) -> bool {
        let Some(ActiveLease { lane, .. }) = self.end_lease(id) else { return false };
        let policy = &self.config.retry;
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.leased = state.leased.saturating_sub(1);
            update(&mut state.throttle, verdict, |throttle| throttle.failed(now, policy));
            if let Some(ScheduledRetry { position, retry_at, failures, first_attempt_at }) = retry {
                state.window.insert(position, WaitingJob { job, failures, first_attempt_at, retry_at });
            }
        }
        self.wake(&lane, now);
        true
    }

    /// Gives a lease back as if its job had not been claimed.
    pub(in crate::queue) fn give_back(&mut self, id: LeaseId, now: Timestamp) {
        let Some(ActiveLease { lane, position, waiting, .. }) = self.end_lease(id) else { return };
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.leased = state.leased.saturating_sub(1);
            state.window.insert(position, waiting);
        }
        self.wake(&lane, now);
    }

    /// Gives expired leases back. It runs four times per lease duration, so a lease may last a quarter longer. There are
    /// never more than `in_flight` leases to look at.
    pub(super) fn sweep_leases(&mut self, now: Timestamp) {
        if self.next_sweep.is_none_or(|at| now < at) {
            return;
        }
        let expired: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires_at <= now)
            .map(|(slot, lease)| LeaseId { slot, serial: lease.serial })
            .collect();
        for id in expired {
            if let Some(lease) = self.leases.get_mut(id.slot) {
                // The attempt counts, so that a job whose deliveries never reach a verdict isn't leased for ever.
                lease.waiting.failures = lease.waiting.failures.saturating_add(1);
            }
            self.give_back(id, now);
        }
        self.next_sweep = (!self.leases.is_empty()).then(|| after(now, self.config.lease.div_f64(4.0)));
    }

    fn active(&self, id: LeaseId) -> Option<&ActiveLease<J>> {
        self.leases.get(id.slot).filter(|lease| lease.serial == id.serial)
    }

    /// Removes a lease, if it is out.
    pub(super) fn end_lease(&mut self, id: LeaseId) -> Option<ActiveLease<J>> {
        self.active(id)?;
        let lease = self.leases.try_remove(id.slot)?;
        let leases = self.leases_by_health.of_mut(lease.health);
        *leases = leases.saturating_sub(1);
        Some(lease)
    }

    /// Returns the number of leases that are out.
    #[must_use]
    pub fn leased_count(&self) -> u64 {
        u64::try_from(self.leases.len()).unwrap_or(u64::MAX)
    }
}

/// Updates a throttle with what a verdict says about the endpoint. `failed` records a failure.
fn update(throttle: &mut Throttle, verdict: &Verdict, failed: impl FnOnce(&mut Throttle)) {
    match verdict {
        Verdict::Done => throttle.succeeded(),
        Verdict::Retry { at, endpoint: EndpointState::Paused } => throttle.pause(*at),
        Verdict::Retry { endpoint: EndpointState::Failed, .. }
        | Verdict::Dead { cause: Cause::Exhausted(_) | Cause::Blocked(_) | Cause::Gone } => failed(throttle),
        // Either no request was sent, or its result says nothing about the endpoint.
        Verdict::Dropped => {}
        Verdict::Retry { endpoint: EndpointState::Unknown | EndpointState::NotContacted, .. } => {}
        Verdict::Dead {
            cause: Cause::Refused(_) | Cause::Disabled | Cause::Interrupted | Cause::Damaged(_),
        } => {}
    }
}
