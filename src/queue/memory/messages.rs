//! The messages of the queue in memory: queued ones with their attempts, dead letters, and the latest delivered ones.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;

use jiff::Timestamp;
use lru::LruCache;

use crate::common::attempt::{self, Attempt};
use crate::common::id::MessageId;
use crate::common::job::Job;
use crate::common::retry::Cause;
use crate::queue::dead::{DeadCursor, DeadFilter, DeadLetter, DeadPage, FullDeadLetter};
use crate::queue::message::{MessageRecord, MessageState};

/// Maximum number of dead letters. The oldest are deleted first.
const MAX_DEAD_LETTERS: usize = 1_000;

/// Maximum bytes of the bodies of dead letters (64 MiB).
const MAX_DEAD_BYTES: usize = 64 << 20;

/// Messages by state.
pub(super) struct MessageStore {
    queued: HashMap<MessageId, TrackedMessage>,
    /// `None` if no delivered messages are remembered.
    delivered: Option<LruCache<MessageId, TrackedMessage>>,
    dead: BTreeMap<DeadCursor, StoredDeadLetter>,
    dead_by_id: HashMap<MessageId, DeadCursor>,
    dead_bytes: usize,
}

/// A job with its latest attempts.
struct TrackedMessage {
    job: Arc<Job>,
    attempts: Vec<Attempt>,
}

/// A dead letter with the message that it was.
struct StoredDeadLetter {
    letter: DeadLetter,
    message: TrackedMessage,
}

impl MessageStore {
    /// Creates an empty store that remembers up to `history` delivered messages.
    pub(super) fn new(history: usize) -> Self {
        Self {
            queued: HashMap::new(),
            delivered: NonZeroUsize::new(history).map(LruCache::new),
            dead: BTreeMap::new(),
            dead_by_id: HashMap::new(),
            dead_bytes: 0,
        }
    }

    pub(super) fn is_queued(&self, id: MessageId) -> bool {
        self.queued.contains_key(&id)
    }

    /// Records a queued job.
    pub(super) fn add_queued(&mut self, job: &Arc<Job>) {
        self.queued.insert(job.id, TrackedMessage { job: Arc::clone(job), attempts: Vec::new() });
    }

    /// Records an attempt, if one was made, of a queued job.
    pub(super) fn add_attempt(&mut self, id: MessageId, attempt: Option<&Attempt>) {
        if let (Some(message), Some(attempt)) = (self.queued.get_mut(&id), attempt) {
            attempt::keep(&mut message.attempts, attempt.clone());
        }
    }

    /// Forgets a queued job whose endpoint was deleted.
    pub(super) fn drop_job(&mut self, id: MessageId) {
        self.queued.remove(&id);
    }

    /// Moves a job to the delivered messages. Its body is dropped, because it is not needed again.
    pub(super) fn deliver(&mut self, id: MessageId) {
        let Some(message) = self.queued.remove(&id) else { return };
        if let Some(delivered) = &mut self.delivered {
            let job = Arc::new(Job { body: bytes::Bytes::new(), ..Job::clone(&message.job) });
            delivered.put(id, TrackedMessage { job, ..message });
        }
    }

    /// Makes a job a dead letter. An earlier dead letter of the same message is replaced.
    pub(super) fn bury(&mut self, id: MessageId, cause: &Cause, attempts: u32, now: Timestamp) {
        let Some(message) = self.queued.remove(&id) else { return };
        self.remove_dead(id);
        let job = &message.job;
        let letter = DeadLetter {
            id,
            tenant: Arc::clone(&job.tenant),
            target: job.target.clone(),
            cause: cause.kind(),
            detail: cause.to_string(),
            attempts,
            published_at: job.published_at,
            died_at: Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now),
            bytes: u64::try_from(job.body.len()).unwrap_or(u64::MAX),
        };
        self.dead_bytes = self.dead_bytes.saturating_add(job.body.len());
        self.dead_by_id.insert(id, letter.cursor());
        self.dead.insert(letter.cursor(), StoredDeadLetter { letter, message });
        while self.dead.len() > MAX_DEAD_LETTERS || self.dead_bytes > MAX_DEAD_BYTES {
            let Some(oldest) = self.dead.first_key_value().map(|(cursor, _)| cursor.id) else { break };
            self.remove_dead(oldest);
        }
    }

    /// Removes a dead letter. Returns its job, if it existed.
    pub(super) fn remove_dead(&mut self, id: MessageId) -> Option<Arc<Job>> {
        let cursor = self.dead_by_id.remove(&id)?;
        let StoredDeadLetter { message, .. } = self.dead.remove(&cursor)?;
        self.dead_bytes = self.dead_bytes.saturating_sub(message.job.body.len());
        Some(message.job)
    }

    /// Returns the dead letters that match, the oldest death first.
    pub(super) fn matching<'a>(&'a self, filter: &'a DeadFilter) -> impl Iterator<Item = &'a DeadLetter> {
        self.dead.values().map(|dead| &dead.letter).filter(|letter| filter.matches(letter))
    }

    /// Returns a page of the dead letters that match.
    pub(super) fn page(&self, filter: &DeadFilter, after: Option<DeadCursor>, limit: usize) -> DeadPage {
        let mut letters =
            self.matching(filter).filter(|letter| after.is_none_or(|after| letter.cursor() > after));
        let page = letters.by_ref().take(limit).cloned().collect();
        DeadPage { letters: page, more: letters.next().is_some() }
    }

    /// Returns the job of a dead letter.
    pub(super) fn dead_job(&self, id: MessageId) -> Option<&Arc<Job>> {
        self.stored_dead(id).map(|dead| &dead.message.job)
    }

    /// Returns one dead letter with its body and attempts.
    pub(super) fn full_dead_letter(&self, id: MessageId) -> Option<FullDeadLetter> {
        self.stored_dead(id).map(|StoredDeadLetter { letter, message }| FullDeadLetter {
            letter: letter.clone(),
            content_type: message.job.content_type,
            body: Some(message.job.body.clone()),
            attempts: message.attempts.clone(),
        })
    }

    fn stored_dead(&self, id: MessageId) -> Option<&StoredDeadLetter> {
        self.dead.get(self.dead_by_id.get(&id)?)
    }

    pub(super) fn dead_count(&self) -> usize {
        self.dead.len()
    }

    /// See [`crate::queue::message::Messages::message`].
    pub(super) fn message(&self, id: MessageId) -> Option<MessageRecord> {
        let delivered = || self.delivered.as_ref()?.peek(&id);
        let (message, state) = if let Some(message) = self.queued.get(&id) {
            (message, MessageState::Queued)
        } else if let Some(dead) = self.stored_dead(id) {
            (&dead.message, MessageState::Dead(dead.letter.cause))
        } else {
            (delivered()?, MessageState::Delivered)
        };
        let TrackedMessage { job, attempts } = message;
        Some(MessageRecord {
            id,
            tenant: Arc::clone(&job.tenant),
            target: job.target.clone(),
            published_at: job.published_at,
            state,
            attempts: attempts.clone(),
        })
    }
}
