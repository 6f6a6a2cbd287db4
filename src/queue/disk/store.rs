//! The writing connection to the database, owned by the writer thread.

mod dead;
mod settle;
mod space;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use lru::LruCache;
use rusqlite::{Connection, params};

pub(super) use self::dead::ReplayedJob;
pub(super) use self::settle::StoredJobSize;
use super::rows::{self, micros, time};
use super::schema::{self, DiskError};
use crate::common::job::{Job, Lane};
use crate::queue::lanes::window::{LanePosition, WaitingJob};
use crate::queue::record;

/// Number of lanes whose row ids are cached.
const CACHED_LANES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);

/// The writing connection, and the counters that continue from what the file holds.
pub(super) struct Store {
    connection: Connection,
    lanes: LruCache<Lane, LaneRow>,
    next_seq: u64,
    next_delivered: i64,
    /// Number of delivered messages to remember.
    history: i64,
    /// Whether a commit waits for the disk (`synchronous = FULL`).
    is_durable: bool,
}

/// Row of a lane, as far as a push needs it.
#[derive(Clone, Copy)]
struct LaneRow {
    id: i64,
    ordered: bool,
}

/// A lane with jobs, as the database holds it when the queue is opened.
pub(super) struct StoredLane {
    pub(super) lane: Lane,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) ordered: bool,
    pub(super) jobs: u64,
    pub(super) bytes: u64,
    /// Position of the first job.
    pub(super) first: LanePosition,
}

impl Store {
    /// Opens or creates the database for writing. It remembers `history` delivered messages.
    pub(super) fn open(path: &Path, history: usize, now: Timestamp) -> Result<Self, DiskError> {
        let connection = schema::open(path, now)?;
        let next = |select| {
            let next = connection.query_row(select, [], |row| row.get::<_, i64>(0));
            next.map_err(|source| schema::open_error(path, source))
        };
        let next_seq = next(
            "SELECT max(coalesce((SELECT max(seq) FROM content), 0), coalesce((SELECT max(seq) FROM job), 0),
             coalesce((SELECT max(seq) FROM dead), 0)) + 1",
        )?;
        let next_delivered = next("SELECT coalesce(max(n), 0) + 1 FROM delivered")?;
        Ok(Self {
            connection,
            lanes: LruCache::new(CACHED_LANES),
            next_seq: u64::try_from(next_seq).unwrap_or_default(),
            next_delivered,
            history: i64::try_from(history).unwrap_or(i64::MAX),
            is_durable: true,
        })
    }

    /// Returns the lanes that have jobs. An index has the answer, so no job is read.
    pub(super) fn stored_lanes(&self) -> rusqlite::Result<Vec<StoredLane>> {
        let mut statement = self.connection.prepare(
            "SELECT name, tenant, ordered, count(*), sum(bytes), min(due_at) AS first, lane.id
             FROM job JOIN lane ON lane.id = job.lane GROUP BY job.lane",
        )?;
        let mut first = self
            .connection
            .prepare("SELECT seq FROM job WHERE lane = ? AND due_at = ? ORDER BY due_at, seq LIMIT 1")?;
        let rows = statement.query_map([], |row| {
            let due_at: i64 = row.get("first")?;
            let seq: u64 = first.query_row(params![row.get::<_, i64>("id")?, due_at], |row| row.get(0))?;
            Ok(StoredLane {
                lane: Lane::new(&row.get::<_, String>("name")?),
                tenant: row.get::<_, Option<String>>("tenant")?.map(Into::into),
                ordered: row.get("ordered")?,
                jobs: row.get(3)?,
                bytes: row.get(4)?,
                first: (time(due_at), seq),
            })
        })?;
        rows.collect()
    }

    /// Begins a transaction. A `durable` one survives a loss of power once it is committed; any other survives only
    /// the end of the process.
    pub(super) fn begin(&mut self, durable: bool) -> rusqlite::Result<()> {
        if self.is_durable != durable {
            self.connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
            self.is_durable = durable;
        }
        self.execute("BEGIN IMMEDIATE", []).map(drop)
    }

    /// Commits the transaction.
    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.execute("COMMIT", []).map(drop)
    }

    /// Undoes everything since [`Store::begin`].
    pub(super) fn roll_back(&mut self) {
        // This fails if SQLite has rolled back by itself.
        if let Err(error) = self.execute("ROLLBACK", []) {
            tracing::debug!(%error, "roll back");
        }
        // Cached rows may have been inserted by the transaction that was undone.
        self.lanes.clear();
    }

    /// Executes a statement, which stays prepared. Returns the number of rows changed.
    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }

    /// Writes a job that is due `now`. Returns its position, or `None` if it is queued already.
    pub(super) fn push(&mut self, job: &Job, now: Timestamp) -> rusqlite::Result<Option<LanePosition>> {
        let lane = self.lane_id(job)?;
        let seq = self.next_seq;
        let added = self.execute(
            "INSERT INTO job (seq, id, lane, due_at, failures, bytes) VALUES (?, ?, ?, ?, 0, ?)
             ON CONFLICT (id) DO NOTHING",
            params![seq, job.id.to_bytes(), lane, micros(now), job.body.len()],
        )?;
        if added == 0 {
            return Ok(None);
        }
        let record = record::encode(job);
        let checksum = checksum(&record, &job.body);
        self.execute(
            "INSERT INTO content (seq, record, body, checksum) VALUES (?, ?, ?, ?)",
            params![seq, record, &*job.body, checksum],
        )?;
        self.next_seq = self.next_seq.saturating_add(1);
        Ok(Some((now, seq)))
    }

    /// Returns the row id of the job's lane. Creates the row, or updates whether the lane is ordered.
    fn lane_id(&mut self, job: &Job) -> rusqlite::Result<i64> {
        if let Some(row) = self.lanes.get(&job.lane)
            && row.ordered == job.ordered
        {
            return Ok(row.id);
        }
        let tenant = rows::tenant_of(&job.target);
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO lane (name, tenant, ordered) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET ordered = ?3 RETURNING id",
        )?;
        let id = statement.query_row(params![job.lane.name(), tenant, job.ordered], |row| row.get(0))?;
        self.lanes.put(job.lane.clone(), LaneRow { id, ordered: job.ordered });
        Ok(id)
    }

    /// Reads the positions of up to `limit` jobs of a lane, from position `from` on.
    pub(super) fn positions(
        &self,
        lane: &Lane,
        from: LanePosition,
        limit: usize,
    ) -> rusqlite::Result<Vec<(LanePosition, WaitingJob<()>)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT due_at, seq, failures, first_attempt_at, held_until FROM job
             WHERE lane = (SELECT id FROM lane WHERE name = ?1) AND (due_at, seq) >= (?2, ?3)
             ORDER BY due_at, seq LIMIT ?4",
        )?;
        let rows = statement.query_map(params![lane.name(), micros(from.0), from.1, limit], |row| {
            let waiting = WaitingJob {
                job: (),
                failures: row.get(2)?,
                first_attempt_at: row.get::<_, Option<i64>>(3)?.map(time),
                retry_at: row.get::<_, Option<i64>>(4)?.map(time),
            };
            Ok(((time(row.get(0)?), row.get(1)?), waiting))
        })?;
        rows.collect()
    }
}

/// Returns the CRC-32 of a job's record and body.
pub(super) fn checksum(record: &str, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record.as_bytes());
    hasher.update(body);
    hasher.finalize()
}
