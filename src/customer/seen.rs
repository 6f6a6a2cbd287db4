//! The ids that were handled already, bounded.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Ids longer than this are refused before they get here.
pub(super) const MOST_ID_BYTES: usize = 256;

/// A window over the newest ids: what falls out of it is handled again, which a customer must bear anyway.
#[derive(Debug, Clone)]
pub(super) struct Seen(Arc<Mutex<LruCache<Box<str>, State>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    InHand,
    Handled,
}

/// What is known of an id.
#[derive(Debug)]
pub(super) enum Sighting {
    /// It is new, and in the caller's hands until the guard is dropped.
    New(InHand),
    /// Another delivery of it is being handled just now.
    InHand,
    /// It was handled.
    Handled,
}

/// An id in hand: handled once [`InHand::handled`] is called, forgotten if it is dropped before.
#[derive(Debug)]
pub(super) struct InHand {
    seen: Seen,
    id: Option<Box<str>>,
}

impl Seen {
    pub(super) fn new(window: NonZeroUsize) -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(window))))
    }

    pub(super) fn sight(&self, id: &str) -> Sighting {
        let mut ids = self.lock();
        match ids.get(id) {
            Some(State::Handled) => Sighting::Handled,
            Some(State::InHand) => Sighting::InHand,
            None => {
                ids.put(id.into(), State::InHand);
                Sighting::New(InHand { seen: self.clone(), id: Some(id.into()) })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Box<str>, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InHand {
    /// From now on the id is known as handled.
    pub(super) fn handled(mut self) {
        if let Some(id) = self.id.take() {
            self.seen.lock().put(id, State::Handled);
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.seen.lock().pop(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(size: usize) -> Seen {
        Seen::new(NonZeroUsize::new(size).unwrap())
    }

    #[test]
    fn an_id_is_new_in_hand_then_handled() {
        let seen = window(2);
        let Sighting::New(in_hand) = seen.sight("a") else { panic!("not new") };
        assert!(matches!(seen.sight("a"), Sighting::InHand));
        in_hand.handled();
        assert!(matches!(seen.sight("a"), Sighting::Handled));
    }

    #[test]
    fn an_id_whose_handling_failed_is_new_again() {
        let seen = window(2);
        drop(seen.sight("a"));
        assert!(matches!(seen.sight("a"), Sighting::New(_)));
    }

    #[test]
    fn the_window_is_bounded() {
        let seen = window(2);
        for id in ["a", "b", "c"] {
            if let Sighting::New(in_hand) = seen.sight(id) {
                in_hand.handled();
            }
        }
        assert!(matches!(seen.sight("a"), Sighting::New(_)));
        assert!(matches!(seen.sight("c"), Sighting::Handled));
    }
}
