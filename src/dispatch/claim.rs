//! Claims jobs while permits are free, and starts a task for each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::settle::JudgedLease;
use super::{BATCH, pause_after};
use crate::common::attempt::Attempt;
use crate::common::retry::Verdict;
use crate::common::task;
use crate::queue::{Lease, Queue, Settlement};

/// Name of the delivery tasks in logs and in the metric of panics.
pub(super) const DELIVERY_TASK: &str = "delivery";

/// Delivery of one job. The dispatcher implements it, and so do tests.
pub(super) trait Deliver: Send + Sync + 'static {
    /// Delivers a job and judges the result. Returns the attempt if one was made.
    fn deliver(&self, lease: &Lease) -> impl Future<Output = (Verdict, Option<Attempt>)> + Send;

    /// Returns the verdict on a job whose delivery panicked.
    fn judge_panic(&self, lease: &Lease) -> Verdict;
}

/// Claims jobs and delivers each in a task of its own, until the queue is closed and the last task has ended.
pub(super) async fn claim_and_deliver<D: Deliver>(
    queue: Arc<dyn Queue>,
    deliverer: Arc<D>,
    permits: Arc<Semaphore>,
    settle: mpsc::Sender<JudgedLease>,
) {
    let mut deliveries = JoinSet::new();
    loop {
        let Ok(mut taken) = Arc::clone(&permits).acquire_owned().await else { return };
        let more = permits.available_permits().min(BATCH - 1);
        if let Ok(more) = Arc::clone(&permits).try_acquire_many_owned(u32::try_from(more).unwrap_or(0)) {
            taken.merge(more);
        }
        let leases = match queue.claim(taken.num_permits()).await {
            Ok(leases) => leases,
            Err(error) => {
                pause_after(&error, "claim jobs").await;
                continue;
            }
        };
        if leases.is_empty() {
            break;
        }
        for lease in leases {
            let Some(permit) = taken.split(1) else { break };
            let delivery = LeaseGuard {
                lease_and_permit: Some((lease, permit)),
                settle: settle.clone(),
                deliverer: Arc::clone(&deliverer),
            };
            deliveries.spawn(delivery.run());
        }
        // Tasks report their panics themselves, so the results aren't needed.
        while deliveries.try_join_next().is_some() {}
    }
    while deliveries.join_next().await.is_some() {}
}

/// Lease of a delivery task. If the task panics, the lease is settled all the same.
struct LeaseGuard<D: Deliver> {
    /// `None` once the lease is settled.
    lease_and_permit: Option<(Lease, OwnedSemaphorePermit)>,
    settle: mpsc::Sender<JudgedLease>,
    deliverer: Arc<D>,
}

impl<D: Deliver> LeaseGuard<D> {
    async fn run(mut self) {
        let Some((lease, _)) = &self.lease_and_permit else { return };
        let (verdict, attempt) = self.deliverer.deliver(lease).await;
        let Some((lease, permit)) = self.lease_and_permit.take() else { return };
        let settlement = Settlement { lease, verdict, attempt };
        // The receiver lives until the last sender is gone.
        drop(self.settle.send(JudgedLease { settlement, permit }).await);
    }
}

impl<D: Deliver> Drop for LeaseGuard<D> {
    fn drop(&mut self) {
        // Without a panic, the lease is settled, or the dispatcher itself was dropped. In the second case the lease
        // expires, and the queue gives out the job again.
        if !std::thread::panicking() {
            return;
        }
        let Some((lease, permit)) = self.lease_and_permit.take() else { return };
        task::report_panic(DELIVERY_TASK);
        // A second panic that leaves this function would abort the process. It is caught, and the lease expires.
        let judged = catch_unwind(AssertUnwindSafe(|| self.deliverer.judge_panic(&lease)));
        let Ok(verdict) = judged else { return };
        let settlement = Settlement { lease, verdict, attempt: None };
        // There is room: the channel holds as many leases as there are permits.
        drop(self.settle.try_send(JudgedLease { settlement, permit }));
    }
}
