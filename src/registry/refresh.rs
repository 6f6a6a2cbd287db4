//! Making sure of what other servers changed: one question to the store answers however many wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::store::{Store, StoreError};
use super::{Principal, Registry, RegistryError};
use crate::common::crypto::api_key::KeyHash;
use crate::common::id::{EndpointId, TenantId};

/// After a failure others are told of it for so long, instead of waiting for the next one: a store that is away takes
/// seconds to find out about.
pub(super) const FAILURE_HOLDS: Duration = Duration::from_millis(500);
/// Between questions about API keys that nobody knows: strangers may present as many as they like.
const STRANGERS_PAUSE: Duration = Duration::from_millis(50);

impl Registry {
    /// Makes sure that this server has seen every change that was answered before now, wherever it was made. It costs
    /// a round trip, which callers of one moment share; where no other server changes the registry, nothing.
    ///
    /// # Errors
    /// The store can't be asked.
    pub async fn refreshed(&self) -> Result<(), RegistryError> {
        match &self.0.store {
            Store::Sqlite(_) => Ok(()),
            Store::Redis(store, _) => store.refreshed().await.map_err(RegistryError::Behind),
            Store::Kafka(store, _) => store.refreshed().await.map_err(RegistryError::Behind),
        }
    }

    /// Looks something up, and once more after [`Self::refreshed`] where the first result isn't complete: another
    /// server may have added or enabled it a moment ago.
    ///
    /// # Errors
    /// The first result isn't complete, and the store can't be asked.
    pub async fn look_up_or_refresh<T>(
        &self,
        look_up: impl Fn() -> T,
        is_complete: impl Fn(&T) -> bool,
    ) -> Result<T, RegistryError> {
        let known = look_up();
        if is_complete(&known) {
            return Ok(known);
        }
        self.refreshed().await?;
        Ok(look_up())
    }

    /// Returns an endpoint, looking again after a refresh where it seems to be missing or disabled.
    ///
    /// # Errors
    /// It isn't known as enabled, and the store can't be asked.
    pub async fn endpoint_or_refresh(
        &self,
        tenant: TenantId,
        id: EndpointId,
    ) -> Result<Option<Arc<Endpoint>>, RegistryError> {
        let look_up = || self.endpoint(tenant, id);
        self.look_up_or_refresh(look_up, |known| {
            known.as_ref().is_some_and(|endpoint| endpoint.disabled.is_none())
        })
        .await
    }

    /// Who presents a key of that hash: also where another server made it a moment ago.
    ///
    /// # Errors
    /// Nobody is known by it, and the store can't be asked.
    pub async fn identify(&self, hash: &KeyHash) -> Result<Option<Principal>, RegistryError> {
        let known = self.authenticate(hash);
        if known.is_some() {
            return Ok(known);
        }
        match &self.0.store {
            Store::Sqlite(_) => Ok(None),
            Store::Redis(store, _) => {
                store.refreshed_for_strangers().await.map_err(RegistryError::Behind)?;
                Ok(self.authenticate(hash))
            }
            Store::Kafka(store, _) => {
                store.refreshed_for_strangers().await.map_err(RegistryError::Behind)?;
                Ok(self.authenticate(hash))
            }
        }
    }
}

/// What came of asking, for all who waited for it.
pub(super) type Outcome = Result<(), Arc<StoreError>>;

/// Work that serves all who asked for it before it began.
pub(super) struct Shared {
    /// One at a time; those who come meanwhile wait for the next.
    turn: Semaphore,
    latest: Mutex<Latest>,
    pause: Duration,
}

#[derive(Default)]
struct Latest {
    begun: u64,
    ended: Option<Ended>,
}

struct Ended {
    number: u64,
    at: Instant,
    outcome: Outcome,
}

impl Shared {
    /// At most one begins each `pause`.
    pub(super) fn new(pause: Duration) -> Self {
        Self { turn: Semaphore::new(1), latest: Mutex::default(), pause }
    }

    pub(super) fn for_strangers() -> Self {
        Self::new(STRANGERS_PAUSE)
    }

    /// Does `work`, unless another caller's that begins after this call does as well. Fails at once where it has just
    /// failed.
    ///
    /// Cancel-safe: whoever waits does it then.
    pub(super) async fn run(&self, work: impl Future<Output = Outcome>) -> Outcome {
        if let Some(failed) = self.just_failed() {
            return Err(failed);
        }
        self.insist(work).await
    }

    /// The same, also after a failure.
    pub(super) async fn insist(&self, work: impl Future<Output = Outcome>) -> Outcome {
        let asked = self.latest().begun;
        // It is never closed.
        let _turn = self.turn.acquire().await;
        let paused_until = match &self.latest().ended {
            Some(ended) if ended.number > asked => return ended.outcome.clone(),
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
        self.latest().ended = Some(Ended { number, at: Instant::now(), outcome: outcome.clone() });
        outcome
    }

    fn just_failed(&self) -> Option<Arc<StoreError>> {
        let latest = self.latest();
        let ended = latest.ended.as_ref().filter(|ended| ended.at.elapsed() < FAILURE_HOLDS)?;
        ended.outcome.as_ref().err().cloned()
    }

    fn latest(&self) -> std::sync::MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    /// A store that answers when it is let.
    struct Asked {
        shared: Arc<Shared>,
        times: Arc<AtomicUsize>,
        answers: Arc<Semaphore>,
    }

    impl Asked {
        fn new(pause: Duration) -> Self {
            Self {
                shared: Arc::new(Shared::new(pause)),
                times: Arc::default(),
                answers: Arc::new(Semaphore::new(0)),
            }
        }

        fn ask(&self) -> JoinHandle<Outcome> {
            let (shared, times, answers) =
                (Arc::clone(&self.shared), Arc::clone(&self.times), Arc::clone(&self.answers));
            tokio::spawn(async move {
                let work = async {
                    times.fetch_add(1, Ordering::Relaxed);
                    answers.acquire().await.unwrap().forget();
                    Ok(())
                };
                shared.run(work).await
            })
        }

        fn times(&self) -> usize {
            self.times.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn callers_share_a_question_that_begins_after_they_came() {
        let asked = Asked::new(Duration::ZERO);
        let first = asked.ask();
        // On its one thread the runtime lets each task that is there begin.
        yield_now().await;
        let others: Vec<_> = (0..20).map(|_| asked.ask()).collect();
        yield_now().await;
        assert_eq!(asked.times(), 1);
        asked.answers.add_permits(1);
        first.await.unwrap().unwrap();
        yield_now().await;
        assert!(
            others.iter().all(|other| !other.is_finished()),
            "what was asked before they came is no answer"
        );
        asked.answers.add_permits(1);
        for other in others {
            other.await.unwrap().unwrap();
        }
        assert_eq!(asked.times(), 2);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_the_question_to_the_next() {
        let asked = Asked::new(Duration::ZERO);
        let first = asked.ask();
        yield_now().await;
        let second = asked.ask();
        yield_now().await;
        first.abort();
        asked.answers.add_permits(1);
        second.await.unwrap().unwrap();
        assert_eq!(asked.times(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_ask_no_more_often_than_they_may() {
        let asked = Asked::new(STRANGERS_PAUSE);
        asked.answers.add_permits(1_000);
        let started = Instant::now();
        for _ in 0..21 {
            asked.ask().await.unwrap().unwrap();
        }
        assert!(started.elapsed() >= STRANGERS_PAUSE * 20);
        for other in (0..1_000).map(|_| asked.ask()).collect::<Vec<_>>() {
            other.await.unwrap().unwrap();
        }
        assert!(asked.times() <= 23, "{}", asked.times());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_at_once_for_a_while() {
        let shared = Shared::new(Duration::ZERO);
        let fails = async || Err(Arc::new(StoreError::Contended));
        let never = async { panic!("it is asked") };
        assert!(shared.run(fails()).await.is_err());
        assert!(shared.run(never).await.is_err());
        assert!(shared.insist(async { Ok(()) }).await.is_ok(), "whoever must know asks");
        assert!(shared.run(fails()).await.is_err());
        tokio::time::advance(FAILURE_HOLDS).await;
        assert!(shared.run(async { Ok(()) }).await.is_ok());
    }
}
