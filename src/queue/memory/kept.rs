//! What the queue in memory knows of messages beside their turn: attempts, dead letters, the latest delivered.

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

/// Dead letters that are kept; the oldest go first.
const KEPT_DEAD_LETTERS: usize = 1_000;
/// Bytes of their bodies that are kept.
const KEPT_DEAD_BYTES: usize = 64 << 20;

/// See the module's page.
pub(super) struct Kept {
    queued: HashMap<MessageId, Tracked>,
    delivered: Option<LruCache<MessageId, Tracked>>,
    dead: BTreeMap<DeadCursor, Buried>,
    dead_by_id: HashMap<MessageId, DeadCursor>,
    dead_bytes: usize,
}

struct Tracked {
    job: Arc<Job>,
    attempts: Vec<Attempt>,
}

struct Buried {
    letter: DeadLetter,
    tracked: Tracked,
}

impl Kept {
    /// Nothing yet; `history` delivered messages at most.
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

    /// A job is queued.
    pub(super) fn queue(&mut self, job: &Arc<Job>) {
        self.queued.insert(job.id, Tracked { job: Arc::clone(job), attempts: Vec::new() });
    }

    /// An attempt was made.
    pub(super) fn attempted(&mut self, id: MessageId, made: Option<&Attempt>) {
        if let (Some(tracked), Some(made)) = (self.queued.get_mut(&id), made) {
            attempt::keep(&mut tracked.attempts, made.clone());
        }
    }

    /// A job's endpoint is gone.
    pub(super) fn drop_job(&mut self, id: MessageId) {
        self.queued.remove(&id);
    }

    /// A job is delivered. Its body goes: it isn't wanted again.
    pub(super) fn deliver(&mut self, id: MessageId) {
        let Some(tracked) = self.queued.remove(&id) else { return };
        if let Some(delivered) = &mut self.delivered {
            let job = Arc::new(Job { body: bytes::Bytes::new(), ..Job::clone(&tracked.job) });
            delivered.put(id, Tracked { job, ..tracked });
        }
    }

    /// A job is given up.
    pub(super) fn bury(&mut self, id: MessageId, cause: &Cause, attempts: u32, now: Timestamp) {
        let Some(tracked) = self.queued.remove(&id) else { return };
        self.remove(id);
        let job = &tracked.job;
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
        self.dead.insert(letter.cursor(), Buried { letter, tracked });
        while self.dead.len() > KEPT_DEAD_LETTERS || self.dead_bytes > KEPT_DEAD_BYTES {
            let Some(oldest) = self.dead.first_key_value().map(|(cursor, _)| cursor.id) else { break };
            self.remove(oldest);
        }
    }

    /// Takes a dead letter out.
    pub(super) fn remove(&mut self, id: MessageId) -> Option<Arc<Job>> {
        let cursor = self.dead_by_id.remove(&id)?;
        let buried = self.dead.remove(&cursor)?;
        self.dead_bytes = self.dead_bytes.saturating_sub(buried.tracked.job.body.len());
        Some(buried.tracked.job)
    }

    /// The dead letters that match, the longest dead first.
    pub(super) fn matching<'a>(&'a self, filter: &'a DeadFilter) -> impl Iterator<Item = &'a DeadLetter> {
        self.dead.values().map(|buried| &buried.letter).filter(|letter| filter.matches(letter))
    }

    /// A page of them.
    pub(super) fn page(&self, filter: &DeadFilter, after: Option<DeadCursor>, limit: usize) -> DeadPage {
        let mut letters =
            self.matching(filter).filter(|letter| after.is_none_or(|after| letter.cursor() > after));
        let page = letters.by_ref().take(limit).cloned().collect();
        DeadPage { letters: page, more: letters.next().is_some() }
    }

    /// The job of a dead letter.
    pub(super) fn dead_job(&self, id: MessageId) -> Option<&Arc<Job>> {
        self.buried(id).map(|buried| &buried.tracked.job)
    }

    /// One dead letter with all that is known of it.
    pub(super) fn dead_body(&self, id: MessageId) -> Option<FullDeadLetter> {
        self.buried(id).map(|Buried { letter, tracked }| FullDeadLetter {
            letter: letter.clone(),
            content_type: tracked.job.content_type,
            body: Some(tracked.job.body.clone()),
            attempts: tracked.attempts.clone(),
        })
    }

    fn buried(&self, id: MessageId) -> Option<&Buried> {
        self.dead.get(self.dead_by_id.get(&id)?)
    }

    pub(super) fn dead_count(&self) -> usize {
        self.dead.len()
    }

    /// What is known of a message.
    pub(super) fn message(&self, id: MessageId) -> Option<MessageRecord> {
        let delivered = || self.delivered.as_ref()?.peek(&id);
        let (tracked, state) = if let Some(tracked) = self.queued.get(&id) {
            (tracked, MessageState::Queued)
        } else if let Some(buried) = self.buried(id) {
            (&buried.tracked, MessageState::Dead(buried.letter.cause))
        } else {
            (delivered()?, MessageState::Delivered)
        };
        let Tracked { job, attempts } = tracked;
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
