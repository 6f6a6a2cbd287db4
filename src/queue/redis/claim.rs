//! Leasing: which shard is looked at, what comes of it, and the leases that this process holds.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use redis::Value;
use tokio::time::Instant;

use super::shards::Shard;
use super::{Shared, microseconds};
use crate::common::attempt::Attempt;
use crate::common::id::MessageId;
use crate::common::retry::Cause;
use crate::queue::throttle::EndpointHealth;
use crate::queue::{Lease, LeaseId, QueueError, record};

/// Jobs that one call leases: Redis does nothing else meanwhile.
const MOST_IN_CALL: usize = 500;

/// How long a shard that failed is left alone while others answer.
const SHARD_PAUSE: Duration = Duration::from_secs(1);

/// How long after it was asked Redis may lease jobs: shorter than its answer is waited for, so that none are leased
/// to nobody when it was away.
const CLAIM_TIME: Duration = Duration::from_millis(2_500);

/// Leases that are given back when nobody takes them.
pub(super) struct Claimed {
    leases: Vec<Lease>,
    shared: Arc<Shared>,
}

impl Claimed {
    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub(super) fn into_leases(mut self) -> Vec<Lease> {
        std::mem::take(&mut self.leases)
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let (leases, shared) = (std::mem::take(&mut self.leases), Arc::clone(&self.shared));
        // Without a runtime there is no connection either; they come back when they run out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !leases.is_empty()
        {
            runtime.spawn(async move { shared.give_back(&leases).await });
        }
    }
}

/// What a script answered of one shard.
struct Looked {
    wait: Option<Duration>,
    short: bool,
    found: Vec<Found>,
}

struct Found {
    id: MessageId,
    token: u64,
    failures: u32,
    first_attempt_at: Timestamp,
    ordered: bool,
    standing: EndpointHealth,
    record: String,
    body: Option<Bytes>,
}

impl Shared {
    /// Leases what is due, from those shards where something may be.
    pub(super) async fn claim_now(self: Arc<Self>, max: usize) -> Result<Claimed, QueueError> {
        let mut claimed = Claimed { leases: Vec::new(), shared: Arc::clone(&self) };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn.checked_rem(self.shards.len()).unwrap_or(0);
        let mut failure = None;
        for shard in self.shards.iter().cycle().skip(first).take(self.shards.len()) {
            let more = max.min(MOST_IN_CALL).saturating_sub(claimed.leases.len());
            if more == 0 || self.is_closed() {
                break;
            }
            if !shard.take_look() {
                continue;
            }
            match self.claim_from(shard, more, turn).await {
                Ok(Looked { wait, short, found }) => {
                    shard.looked(wait, short, found.len() >= more);
                    for found in found {
                        claimed.leases.extend(self.lease(shard, found).await);
                    }
                }
                Err(error) => {
                    shard.looked(Some(SHARD_PAUSE), true, self.shards.len() == 1);
                    failure = Some(error);
                    // What is leased isn't kept waiting for what may be away.
                    if !claimed.leases.is_empty() {
                        break;
                    }
                }
            }
        }
        match failure {
            Some(error) if claimed.is_empty() => Err(error),
            _ => Ok(claimed),
        }
    }

    /// Asks what each shard holds and what time it is there, and leases nothing.
    pub(super) async fn meet(&self) -> Result<(), QueueError> {
        for shard in &self.shards {
            self.claim_from(shard, 0, 0).await?;
        }
        Ok(())
    }

    async fn claim_from(&self, shard: &Shard, max: usize, turn: usize) -> Result<Looked, QueueError> {
        let held = self.held.counts();
        let deadline = shard.time().map_or(0, |now| now.saturating_add(microseconds(CLAIM_TIME)));
        let call = self.call::<Vec<Value>>(&self.scripts.claim, shard, |command| {
            command.arg(max).arg(microseconds(self.config.lease)).arg(self.config.in_flight);
            command.arg(held.all).arg(held.new).arg(held.failing).arg(turn);
            self.wake_up(command, shard).arg(deadline);
        });
        let mut answer = call.await?.into_iter();
        let mut number = || answer.next().and_then(number);
        let (wait, short, jobs, bytes) = (number(), number(), number(), number());
        shard.set_totals(unsigned(jobs), unsigned(bytes));
        shard.set_time(unsigned(number()));
        for lost in answer.next().into_iter().flat_map(array).filter_map(text) {
            tracing::error!(
                message_id = lost,
                "a queued job is gone from Redis: something else deletes keys there"
            );
        }
        let found = answer.filter_map(|lease| self.found(shard, lease)).collect();
        let wait = wait.and_then(|wait| u64::try_from(wait).ok()).map(Duration::from_micros);
        Ok(Looked { wait, short: short == Some(1), found })
    }

    fn found(&self, shard: &Shard, lease: Value) -> Option<Found> {
        let mut fields = array(lease).into_iter();
        let id = fields.next().and_then(text)?.parse().ok()?;
        let token = unsigned(fields.next().and_then(number));
        let failures = u32::try_from(unsigned(fields.next().and_then(number))).unwrap_or(u32::MAX);
        let first = fields.next().and_then(number).and_then(|time| Timestamp::from_microsecond(time).ok());
        let ordered = fields.next().and_then(number) == Some(1);
        let standing = match fields.next().and_then(text).as_deref() {
            Some("well") => EndpointHealth::Healthy,
            Some("new") => EndpointHealth::New,
            _ => EndpointHealth::Failing,
        };
        self.held.add(LeaseId { slot: shard.index, serial: token }, standing);
        Some(Found {
            id,
            token,
            failures,
            first_attempt_at: first.unwrap_or_else(|| self.clock.now()),
            ordered,
            standing,
            record: fields.next().and_then(text).unwrap_or_default(),
            body: fields.next().and_then(bytes),
        })
    }

    /// The lease of a job that was found; none where it can't be read, and is dead by that.
    async fn lease(&self, shard: &Shard, found: Found) -> Option<Lease> {
        let id = LeaseId { slot: shard.index, serial: found.token };
        let attempt = found.failures.saturating_add(1);
        let read = match found.body {
            None => Err("its body is gone".to_owned()),
            Some(body) => record::decode(&found.record, body).map_err(|error| error.to_string()),
        };
        match read {
            Ok(job) => Some(Lease {
                job: Arc::new(job),
                attempt,
                first_attempt_at: found.first_attempt_at,
                ordered: found.ordered,
                id,
            }),
            Err(detail) => {
                tracing::error!(message_id = %found.id, standing = ?found.standing, detail, "a queued job is damaged");
                let cause = Cause::Damaged(detail);
                if let Err(error) = self.bury(shard, found.id, id, &cause, found.failures).await {
                    tracing::error!(message_id = %found.id, %error, "set a damaged job aside");
                }
                None
            }
        }
    }
}

/// Leases that this process holds, by the standing of their lanes when they were given out.
pub(super) struct Held {
    length: Duration,
    leases: Mutex<Holding>,
}

#[derive(Default)]
struct Holding {
    by_id: HashMap<(usize, u64), (EndpointHealth, Instant)>,
    counts: HeldCounts,
    next_sweep: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct HeldCounts {
    pub(super) all: usize,
    pub(super) new: usize,
    pub(super) failing: usize,
}

impl HeldCounts {
    fn of(&mut self, standing: EndpointHealth) -> Option<&mut usize> {
        match standing {
            EndpointHealth::Healthy => None,
            EndpointHealth::New => Some(&mut self.new),
            EndpointHealth::Failing => Some(&mut self.failing),
        }
    }
}

impl Held {
    pub(super) fn new(length: Duration) -> Self {
        Self { length, leases: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Holding> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: LeaseId, standing: EndpointHealth) {
        let until = Instant::now().checked_add(self.length).unwrap_or_else(Instant::now);
        let mut holding = self.lock();
        holding.by_id.insert((id.slot, id.serial), (standing, until));
        holding.next_sweep.get_or_insert(until);
        holding.counts.all = holding.counts.all.saturating_add(1);
        if let Some(count) = holding.counts.of(standing) {
            *count = count.saturating_add(1);
        }
    }

    pub(super) fn remove(&self, id: LeaseId) {
        let mut holding = self.lock();
        let removed = holding.by_id.remove(&(id.slot, id.serial));
        if let Some((standing, _)) = removed {
            holding.less(standing);
        }
    }

    /// How many there are that haven't run out.
    fn counts(&self) -> HeldCounts {
        let now = Instant::now();
        let mut holding = self.lock();
        if holding.next_sweep.is_some_and(|at| at <= now) {
            let ran_out: Vec<_> = holding
                .by_id
                .extract_if(|_, (_, until)| *until <= now)
                .map(|(_, (standing, _))| standing)
                .collect();
            ran_out.into_iter().for_each(|standing| holding.less(standing));
            holding.next_sweep = holding.by_id.values().map(|(_, until)| *until).min();
        }
        holding.counts
    }
}

impl Holding {
    fn less(&mut self, standing: EndpointHealth) {
        self.counts.all = self.counts.all.saturating_sub(1);
        if let Some(count) = self.counts.of(standing) {
            *count = count.saturating_sub(1);
        }
    }
}

fn array(value: Value) -> Vec<Value> {
    if let Value::Array(values) = value { values } else { Vec::new() }
}

fn number(value: Value) -> Option<i64> {
    redis::from_redis_value(value).ok()
}

fn unsigned(number: Option<i64>) -> u64 {
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
}

fn text(value: Value) -> Option<String> {
    if let Value::BulkString(bytes) = value { String::from_utf8(bytes).ok() } else { None }
}

fn bytes(value: Value) -> Option<Bytes> {
    if let Value::BulkString(bytes) = value { Some(bytes.into()) } else { None }
}

/// As it is stored: a line.
pub(super) fn attempt_line(attempt: Option<&Attempt>) -> String {
    attempt.and_then(|attempt| serde_json::to_string(attempt).ok()).unwrap_or_default()
}
