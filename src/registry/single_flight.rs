//! Reading the changes of other servers once for all callers that wait for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::error::StoreError;

/// Time for which later callers get a failure at once. A store that is down takes seconds to time out, and callers
/// shouldn't each wait for that.
pub(super) const FAILURE_HOLDS: Duration = Duration::from_millis(500);

/// Result of one read, shared by all callers that waited for it.
pub(super) type Outcome = Result<(), Arc<StoreError>>;

/// Runs one piece of work at a time. Its result goes to every caller that came before it began.
pub(super) struct SingleFlight {
    /// Permit of the caller that works. Callers that come meanwhile wait for the next run.
    turn: Semaphore,
    latest: Mutex<LatestRun>,
    /// Minimum time between the end of one run and the start of the next.
    pause: Duration,
}

#[derive(Default)]
struct LatestRun {
    /// Number of runs that have begun.
    begun: u64,
    ended: Option<EndedRun>,
}

struct EndedRun {
    number: u64,
    at: Instant,
    outcome: Outcome,
}

impl SingleFlight {
    pub(super) fn new(pause: Duration) -> Self {
        Self { turn: Semaphore::new(1), latest: Mutex::default(), pause }
    }

    /// Runs `work`, or waits for another caller's run that begins after this call. Returns the last failure at once if it
    /// is younger than [`FAILURE_HOLDS`].
    ///
    /// Cancel-safe: the next caller that waits runs its own work.
    pub(super) async fn run(&self, work: impl Future<Output = Outcome>) -> Outcome {
        if let Some(failed) = self.recent_failure() {
            return Err(failed);
        }
        self.run_after_failure(work).await
    }

    /// Runs `work` as [`Self::run`] does, also right after a failure.
    pub(super) async fn run_after_failure(&self, work: impl Future<Output = Outcome>) -> Outcome {
        let begun_before = self.latest().begun;
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await;
        let paused_until = match &self.latest().ended {
            Some(ended) if ended.number > begun_before => return ended.outcome.clone(),
            Some(ended) => ended.at.checked_add(self.pause),
            None => None,
        };
        if let Some(until) = paused_until.filter(|_| !self.pause.is_zero()) {
            tokio::time::sleep_until(until).await;
        }
        let number = {
            let mut latest = self.latest();
            latest.begun = latest.begun.saturating_add(1);
            latest.begun
        };
        let outcome = work.await;
        self.latest().ended = Some(EndedRun { number, at: Instant::now(), outcome: outcome.clone() });
        outcome
    }

    fn recent_failure(&self) -> Option<Arc<StoreError>> {
        let latest = self.latest();
        let ended = latest.ended.as_ref().filter(|ended| ended.at.elapsed() < FAILURE_HOLDS)?;
        ended.outcome.as_ref().err().cloned()
    }

    fn latest(&self) -> MutexGuard<'_, LatestRun> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    const PAUSE: Duration = Duration::from_millis(50);

    /// A store that answers once for each permit in `answers`.
    struct FakeStore {
        flight: Arc<SingleFlight>,
        reads: Arc<AtomicUsize>,
        answers: Arc<Semaphore>,
    }

    impl FakeStore {
        fn new(pause: Duration) -> Self {
            Self {
                flight: Arc::new(SingleFlight::new(pause)),
                reads: Arc::default(),
                answers: Arc::new(Semaphore::new(0)),
            }
        }

        fn read(&self) -> JoinHandle<Outcome> {
            let (flight, reads, answers) =
                (Arc::clone(&self.flight), Arc::clone(&self.reads), Arc::clone(&self.answers));
            tokio::spawn(async move {
                let work = async {
                    reads.fetch_add(1, Ordering::Relaxed);
                    answers.acquire().await.unwrap().forget();
                    Ok(())
                };
                flight.run(work).await
            })
        }

        fn reads(&self) -> usize {
            self.reads.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn callers_share_a_read_that_begins_after_they_came() {
        let store = FakeStore::new(Duration::ZERO);
        let first = store.read();
        // The runtime has one thread, so every task that is spawned has begun after this.
        yield_now().await;
        let others: Vec<_> = (0..20).map(|_| store.read()).collect();
        yield_now().await;
        assert_eq!(store.reads(), 1);
        store.answers.add_permits(1);
        first.await.unwrap().unwrap();
        yield_now().await;
        assert!(
            others.iter().all(|other| !other.is_finished()),
            "a read that began before a caller came can miss changes, so it doesn't answer that caller"
        );
        store.answers.add_permits(1);
        for other in others {
            other.await.unwrap().unwrap();
        }
        assert_eq!(store.reads(), 2);
    }

    #[tokio::test]
    async fn the_next_caller_reads_when_the_first_is_cancelled() {
        let store = FakeStore::new(Duration::ZERO);
        let first = store.read();
        yield_now().await;
        let second = store.read();
        yield_now().await;
        first.abort();
        store.answers.add_permits(1);
        second.await.unwrap().unwrap();
        assert_eq!(store.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn reads_keep_the_pause_between_them() {
        let store = FakeStore::new(PAUSE);
        store.answers.add_permits(1_000);
        let started = Instant::now();
        for _ in 0..21 {
            store.read().await.unwrap().unwrap();
        }
        assert!(started.elapsed() >= PAUSE * 20);
        for other in (0..1_000).map(|_| store.read()).collect::<Vec<_>>() {
            other.await.unwrap().unwrap();
        }
        assert!(store.reads() <= 23, "{}", store.reads());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_reported_without_another_read_for_a_while() {
        let flight = SingleFlight::new(Duration::ZERO);
        let fails = async || Err(Arc::new(StoreError::Contended));
        let never = async { panic!("the store is read") };
        assert!(flight.run(fails()).await.is_err());
        assert!(flight.run(never).await.is_err());
        assert!(flight.run_after_failure(async { Ok(()) }).await.is_ok());
        assert!(flight.run(fails()).await.is_err());
        tokio::time::advance(FAILURE_HOLDS).await;
        assert!(flight.run(async { Ok(()) }).await.is_ok());
    }
}
