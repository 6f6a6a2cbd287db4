//! Recognizes deliveries of message ids that were handled before.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Maximum bytes of an id. Longer ids are rejected before they are looked up.
pub(super) const MAX_ID_BYTES: usize = 256;

/// Window of the newest ids. An id that has left the window is handled again if it is redelivered. Applications must
/// tolerate that anyway.
#[derive(Debug, Clone)]
pub(super) struct SeenIds(Arc<Mutex<LruCache<Box<str>, IdState>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IdState {
    InProgress,
    Handled,
}

/// Result of looking up an id.
#[derive(Debug)]
pub(super) enum SeenId {
    /// The id is new. It is in progress until the guard is dropped.
    New(IdGuard),
    /// Another delivery of the id is in progress.
    InProgress,
    /// The id was handled.
    Handled,
}

/// Guard of an id in progress. [`IdGuard::mark_handled`] records the id; a drop without it forgets the id.
#[derive(Debug)]
pub(super) struct IdGuard {
    seen: SeenIds,
    id: Option<Box<str>>,
}

impl SeenIds {
    pub(super) fn new(window: NonZeroUsize) -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(window))))
    }

    /// Looks up an id, and marks a new one as in progress.
    pub(super) fn look_up(&self, id: &str) -> SeenId {
        let mut ids = self.lock();
        match ids.get(id) {
            Some(IdState::Handled) => SeenId::Handled,
            Some(IdState::InProgress) => SeenId::InProgress,
            None => {
                ids.put(id.into(), IdState::InProgress);
                SeenId::New(IdGuard { seen: self.clone(), id: Some(id.into()) })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Box<str>, IdState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdGuard {
    /// Records the id as handled.
    pub(super) fn mark_handled(mut self) {
        if let Some(id) = self.id.take() {
            self.seen.lock().put(id, IdState::Handled);
        }
    }
}

impl Drop for IdGuard {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.seen.lock().pop(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(size: usize) -> SeenIds {
        SeenIds::new(NonZeroUsize::new(size).unwrap())
    }

    #[test]
    fn an_id_is_new_then_in_progress_then_handled() {
        let seen = window(2);
        let SeenId::New(guard) = seen.look_up("a") else { panic!("not new") };
        assert!(matches!(seen.look_up("a"), SeenId::InProgress));
        guard.mark_handled();
        assert!(matches!(seen.look_up("a"), SeenId::Handled));
    }

    #[test]
    fn an_id_whose_handling_failed_is_new_again() {
        let seen = window(2);
        drop(seen.look_up("a"));
        assert!(matches!(seen.look_up("a"), SeenId::New(_)));
    }

    #[test]
    fn the_window_is_bounded() {
        let seen = window(2);
        for id in ["a", "b", "c"] {
            if let SeenId::New(guard) = seen.look_up(id) {
                guard.mark_handled();
            }
        }
        assert!(matches!(seen.look_up("a"), SeenId::New(_)));
        assert!(matches!(seen.look_up("c"), SeenId::Handled));
    }
}
