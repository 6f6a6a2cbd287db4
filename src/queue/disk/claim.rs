//! Claims of the queue on disk: turns leased jobs into leases, reading the bodies that are not cached.

use super::DiskQueue;
use super::operation::Operation;
use super::reader::{JobContent, Reader};
use super::scheduler::{MaybeCached, SharedScheduler};
use super::writer::Request;
use crate::common::retry::Verdict;
use crate::queue::lanes::LeasedJob;
use crate::queue::{Lease, LeaseId, QueueError};

use std::sync::Arc;

impl DiskQueue {
    /// Builds the leases of jobs that the scheduler has leased.
    ///
    /// A damaged job becomes a dead letter, and a job that was settled meanwhile is dropped; neither is returned. If
    /// this fails or is cancelled, all leases are given back.
    pub(super) async fn leases(&self, leased: Vec<LeasedJob<MaybeCached>>) -> Result<Vec<Lease>, QueueError> {
        let mut give_back =
            GiveBack { shared: &self.shared, ids: leased.iter().map(|leased| leased.id).collect() };
        let uncached: Vec<u64> =
            leased.iter().filter(|leased| leased.job.is_none()).map(|leased| leased.position.1).collect();
        let mut contents = match uncached.is_empty() {
            true => Vec::new(),
            false => {
                let read = move |reader: &Reader| uncached.iter().map(|seq| reader.content(*seq)).collect();
                Self::read_from::<Vec<JobContent>>(&self.claim_reader, read).await?
            }
        }
        .into_iter();
        give_back.ids.clear();
        let mut leases = Vec::with_capacity(leased.len());
        for LeasedJob { id, position, job, attempt, first_attempt_at, ordered } in leased {
            let job = match job {
                Some(cached) => Arc::clone(&cached.job),
                None => match contents.next() {
                    Some(JobContent::Intact(job)) => Arc::new(job),
                    Some(JobContent::Damaged(reason)) => {
                        self.bury_damaged(id, position.1, reason);
                        continue;
                    }
                    Some(JobContent::Missing) | None => {
                        self.shared.lock().lanes.settle(id, &Verdict::Dropped, None, None, self.shared.now());
                        continue;
                    }
                },
            };
            leases.push(Lease { job, attempt, first_attempt_at, ordered, id });
        }
        Ok(leases)
    }

    /// Asks the writer to dead-letter a damaged job.
    fn bury_damaged(&self, lease: LeaseId, seq: u64, reason: String) {
        tracing::error!(seq, reason, "a job in the queue is damaged; it becomes a dead letter");
        let request = Request::Write(Operation::bury_damaged(lease, seq, reason), None);
        // If the writer has ended, the lease expires and the damage is found again.
        drop(self.requests.send(request));
    }
}

/// Gives back, on drop, the leases that were not handed out.
struct GiveBack<'a> {
    shared: &'a SharedScheduler,
    ids: Vec<LeaseId>,
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let (mut scheduler, now) = (self.shared.lock(), self.shared.now());
        for id in self.ids.drain(..) {
            scheduler.lanes.give_back(id, now);
        }
        drop(scheduler);
        self.shared.changed.notify_waiters();
    }
}
