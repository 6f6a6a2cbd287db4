//! Settles verdicts in batches.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use super::{BATCH, pause_after};
use crate::common::task;
use crate::queue::{Queue, QueueError, Settlement};

/// Lease with its verdict, on its way back to the queue.
pub(super) struct JudgedLease {
    pub(super) settlement: Settlement,
    /// Permit of the delivery. It is returned when the lease is settled.
    pub(super) permit: OwnedSemaphorePermit,
}

/// Settles what arrives in `verdicts`, until all senders are gone and everything is settled.
///
/// A batch that fails is repeated in a task of its own, because a part of the queue may be unavailable while the rest
/// takes the next batches. The permits bound the number of such batches.
pub(super) async fn settle_verdicts(queue: Arc<dyn Queue>, mut verdicts: mpsc::Receiver<JudgedLease>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut repeating = JoinSet::new();
    while verdicts.recv_many(&mut batch, BATCH).await > 0 {
        let (permits, settlements): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|judged| (judged.permit, judged.settlement)).unzip();
        match queue.settle(&settlements).await {
            Ok(()) | Err(QueueError::Closed) => {}
            Err(error) => {
                let queue = Arc::clone(&queue);
                repeating.spawn(task::supervised("settlement", async move {
                    settle_until_done(&*queue, &settlements, error).await;
                    drop(permits);
                }));
            }
        }
        while repeating.try_join_next().is_some() {}
    }
    while repeating.join_next().await.is_some() {}
}

/// Repeats a settlement that failed with `error`, until the queue has taken it or is closed.
async fn settle_until_done(queue: &dyn Queue, settlements: &[Settlement], mut error: QueueError) {
    while !matches!(error, QueueError::Closed) {
        pause_after(&error, "settle jobs").await;
        match queue.settle(settlements).await {
            Ok(()) => return,
            Err(again) => error = again,
        }
    }
}
