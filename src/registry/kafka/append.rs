//! Appending changes to the log, and waiting until this server has read it to its end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::KafkaStore;
use super::reader::reading;
use super::writer::{WriteError, Writer};
use crate::registry::error::StoreError;
use crate::registry::record::Write;
use crate::registry::replica::Replica;
use crate::registry::shared_log::{Append, SharedLog};
use crate::registry::single_flight::{FAILURE_HOLDS, Outcome};
use crate::registry::state::{Change, Position};

/// A fenced writer waits for a random part of this, times the number of the attempt, so that the other one can finish.
const BACKOFF: Duration = Duration::from_millis(40);
const MAX_BACKOFF: Duration = Duration::from_millis(800);
/// Time that the newest records get to arrive by themselves, before the end of the partition is requested again.
const ARRIVAL_WAIT: Duration = Duration::from_millis(60);
/// Time that librdkafka gets to report the end of the partition after a seek, before the seek is repeated.
const SEEK_WAIT: Duration = Duration::from_secs(1);

impl SharedLog for KafkaStore {
    const MAX_ATTEMPTS: u32 = super::MAX_ATTEMPTS;

    /// The transactional producer. `None` if another server may have fenced it.
    type Lease = OwnedMutexGuard<Option<Writer>>;

    fn replica(&self) -> &Replica {
        &self.log.replica
    }

    async fn follow(&self) -> Outcome {
        self.follow_to_the_end().await.map_err(Arc::new)
    }

    async fn lease(&self) -> Self::Lease {
        Arc::clone(&self.writer).lock_owned().await
    }

    async fn renew(&self, lease: &mut Self::Lease, attempt: u32) -> Outcome {
        if lease.is_none() {
            if attempt > 0 {
                back_off(attempt).await;
            }
            **lease = Some(self.take_over().await?);
        }
        Ok(())
    }

    async fn append(
        &self,
        lease: &mut Self::Lease,
        at: &Position,
        own: u64,
        _changes: Vec<Change>,
        writes: &[Write],
    ) -> Append {
        let Some(writer) = lease.take() else { return Append::Lost };
        let next = i64::try_from(at.version).unwrap_or(i64::MAX);
        let (writer, written) = writer.write(&self.log.replica.server.mark(own), writes, next).await;
        **lease = writer;
        match written {
            Ok(()) => match self.wait_until_applied(own).await {
                Ok(()) => Append::Done,
                Err(error) => {
                    // This server must read the log again before it decides on another change.
                    if let Some(writer) = lease.take() {
                        writer.release();
                    }
                    Append::Unknown(error)
                }
            },
            Err(WriteError::Fenced) => Append::Lost,
            Err(WriteError::ShorterLog) => Append::Refused(StoreError::Gone),
            Err(WriteError::Refused(error)) => Append::Refused(writing(error)),
            Err(WriteError::Unknown(error)) => self.resolve(lease, own, error).await,
        }
    }
}

impl KafkaStore {
    /// Finds out whether this server's change of that number is in the log: once another writer has taken over, Kafka has
    /// committed or aborted every earlier transaction.
    async fn resolve(
        &self,
        lease: &mut OwnedMutexGuard<Option<Writer>>,
        own: u64,
        error: KafkaError,
    ) -> Append {
        back_off(1).await;
        match self.take_over().await {
            Ok(writer) => {
                **lease = Some(writer);
                if self.log.replica.has_own(own) { Append::Done } else { Append::Lost }
            }
            Err(_) => Append::Unknown(writing(error)),
        }
    }

    /// Becomes the only server that may write, and reads what others wrote until then.
    async fn take_over(&self) -> Result<Writer, Arc<StoreError>> {
        if self.log.progress.borrow().is_gone {
            return Err(Arc::new(StoreError::Gone));
        }
        if let Some((at, error)) = &*self.failed_takeover()
            && at.elapsed() < FAILURE_HOLDS
        {
            return Err(Arc::clone(error));
        }
        let context = self.log.reader().context.clone();
        let writer = Writer::take_over(&self.log.config, context).await.map_err(|source| {
            let error = Arc::new(writing(source));
            *self.failed_takeover() = Some((Instant::now(), Arc::clone(&error)));
            error
        })?;
        match self.catch_up().await {
            Ok(()) => Ok(writer),
            Err(error) => {
                writer.release();
                Err(error)
            }
        }
    }

    fn failed_takeover(&self) -> MutexGuard<'_, Option<(Instant, Arc<StoreError>)>> {
        self.failed_takeover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this server's own change has come back from the log, so that other servers can read it too.
    async fn wait_until_applied(&self, own: u64) -> Result<(), StoreError> {
        let mut progress = self.log.progress.subscribe();
        let applied = async {
            loop {
                progress.borrow_and_update();
                if self.log.replica.has_own(own) {
                    return Ok(());
                }
                // The sender lives as long as the store.
                if progress.changed().await.is_err() || progress.borrow().is_gone {
                    return Err(StoreError::Gone);
                }
            }
        };
        let timed_out = || Err(writing(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
        tokio::time::timeout(self.log.config.timeout, applied).await.unwrap_or_else(|_| timed_out())
    }

    /// Waits until this server has applied everything that is in the log now.
    async fn follow_to_the_end(&self) -> Result<(), StoreError> {
        let log = &self.log;
        if log.progress.borrow().is_gone {
            return Err(StoreError::Gone);
        }
        let reader = log.reader();
        let end = blocking(move || reader.end()).await?;
        if end < log.next_offset() {
            return Err(StoreError::Gone);
        }
        let mut progress = log.progress.subscribe();
        // The last change is followed by the commit marker, which takes one offset and isn't a record. Another change
        // would take at least two more.
        let has_applied =
            || log.next_offset().saturating_add(1) >= end || self.read_up_to.load(Ordering::Relaxed) >= end;
        let arrived = progress.wait_for(|progress| progress.is_gone || has_applied());
        let has_arrived = tokio::time::timeout(ARRIVAL_WAIT, arrived).await.is_ok();
        if has_arrived && has_applied() {
            return Ok(());
        }
        // The rest may hold no record at all. librdkafka reports the end of the partition once, so a seek makes it report
        // it again.
        let deadline = Instant::now().checked_add(log.config.timeout);
        loop {
            let (reader, from, seen) = (log.reader(), log.next_offset(), progress.clone());
            // An end that is reported before the seek is of an earlier read. librdkafka drops such reports with the seek.
            let seeking = blocking(move || {
                let sought = reader.seek(from);
                Ok((sought, seen.borrow().ends))
            });
            let (sought, ends_before) = seeking.await?;
            let arrived = progress.wait_for(|now| now.is_gone || now.ends > ends_before || has_applied());
            match tokio::time::timeout(SEEK_WAIT, arrived).await {
                Ok(Ok(now)) if !now.is_gone => break,
                Ok(_) => return Err(StoreError::Gone),
                Err(_) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
                Err(_) => {
                    let timed_out = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                    return Err(sought.err().unwrap_or(reading(timed_out)));
                }
            }
        }
        self.read_up_to.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }
}

/// Returns the error of a write that failed.
pub(super) fn writing(source: KafkaError) -> StoreError {
    StoreError::Kafka { doing: "write the registry", source: source.into() }
}

/// Sleeps for a random time that grows with the number of the attempt.
pub(super) async fn back_off(attempt: u32) {
    let most = BACKOFF.saturating_mul(attempt).min(MAX_BACKOFF);
    let part: f64 = rand::rng().random();
    tokio::time::sleep(most.mul_f64(part)).await;
}

/// Runs `work` on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|_| reading(KafkaError::Canceled))?
}
