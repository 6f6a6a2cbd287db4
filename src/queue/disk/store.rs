//! The database of the queue: one SQLite file, `queue.db` in the data dir.
//!
//! ```text
//! user_version  how many of MIGRATIONS have been applied
//! lane          a row a lane that has had jobs: its endpoint's id, or in direct mode its URL, the tenant, and whether
//!               it keeps order. Those without jobs go at the next start
//! content       what a job is: its record (queue/record.rs), its body, and the CRC-32 of both. From push until the job
//!               is delivered, dropped, or purged from the dead letters
//! job           where a job stands that isn't settled: when it is due, what its attempts came to. Leases aren't
//!               written: a job that was out when the process ended is due again
//! dead          a job that was given up, since when and why; it shares `seq` with its content
//! delivered     the latest messages that were delivered, and their attempts; the oldest go first
//! ```
//!
//! Times are microseconds since 1970, those of death milliseconds. `attempts` is a JSON array.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use lru::LruCache;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::rows::{self, Filter, attempts_from, attempts_with, micros, time};
use crate::common::attempt::Attempt;
use crate::common::id::MessageId;
use crate::common::job::{Job, Lane};
use crate::common::retry::Cause;
use crate::queue::dead::{DeadCursor, DeadFilter, DeadPage, FullDeadLetter};
use crate::queue::lanes::Retry;
use crate::queue::lanes::window::{Key, Waiting};
use crate::queue::message::{MessageRecord, MessageState};
use crate::queue::record;

/// What brings a database from each version to the next. Never changed once released, only added to.
const MIGRATIONS: [&str; 1] = [include_str!("v1.sql")];

/// Marks the file as whk's queue: "whkq".
const APPLICATION_ID: i64 = 0x7768_6b71;

/// Lanes whose rows are remembered.
const KNOWN_LANES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);

/// How long a connection waits for the others of this process.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// How long commits wait for the log to begin anew.
const RESTART_WAIT: Duration = Duration::from_millis(200);

/// Why the queue on disk can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It can't be opened, read, or brought up to date.
    #[error("open queue {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer whk wrote it.
    #[error(
        "queue {path} was written by a newer whk (schema {found}, this one knows up to {known}); upgrade, or use another --data-dir"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The newest that is known here.
        known: usize,
    },
    /// It is some other program's database.
    #[error("{0} is a database of another program; use another --data-dir")]
    NotOurs(PathBuf),
    /// The thread that writes can't be started, or the file can't be reserved.
    #[error("prepare queue {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// One connection to the database, and what is known of it.
pub(super) struct Store {
    connection: Connection,
    lanes: LruCache<Lane, KnownLane>,
    next_seq: u64,
    next_delivered: i64,
    history: i64,
    is_durable: bool,
}

#[derive(Clone, Copy)]
struct KnownLane {
    id: i64,
    ordered: bool,
}

/// A lane as it is found at the start.
pub(super) struct StoredLane {
    pub(super) lane: Lane,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) ordered: bool,
    pub(super) jobs: u64,
    pub(super) bytes: u64,
    pub(super) first: Key,
}

/// What a job is, read for its attempt.
pub(super) enum Content {
    Job(Job),
    /// It was settled meanwhile.
    Missing,
    /// It can't be read.
    Damaged(String),
}

/// What a job takes of the queue.
pub(super) struct StoredShare {
    pub(super) tenant: Option<Arc<str>>,
    pub(super) bytes: usize,
}

/// A dead letter that is queued again.
pub(super) struct Replayed {
    pub(super) lane: Lane,
    pub(super) ordered: bool,
    pub(super) key: Key,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) bytes: usize,
}

impl Store {
    /// Opens or makes the database, brings it up to date, and prepares it for writing.
    pub(super) fn open(path: &Path, history: usize, now: Timestamp) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open { path: path.to_owned(), source };
        let mut connection = connect(path).map_err(failed)?;
        let version = version_of(&connection, path)?;
        if version == 0 {
            // Before there are tables: space that a backlog took is given back once it has drained.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
        }
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        // Another thread copies the log into the file, so that no commit waits for that.
        connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        migrate(&mut connection, version).map_err(failed)?;
        match tidy(&connection, now) {
            // What is queued goes on, which makes room.
            Err(error) if is_full(&error) => tracing::warn!(%error, "tidy the queue"),
            tidied => tidied.map_err(failed)?,
        }
        let next = |select| connection.query_row(select, [], |row| row.get::<_, i64>(0)).map_err(failed);
        let next_seq = next(
            "SELECT max(coalesce((SELECT max(seq) FROM content), 0), coalesce((SELECT max(seq) FROM job), 0),
             coalesce((SELECT max(seq) FROM dead), 0)) + 1",
        )?;
        let next_delivered = next("SELECT coalesce(max(n), 0) + 1 FROM delivered")?;
        Ok(Self {
            connection,
            lanes: LruCache::new(KNOWN_LANES),
            next_seq: u64::try_from(next_seq).unwrap_or_default(),
            next_delivered,
            history: i64::try_from(history).unwrap_or(i64::MAX),
            is_durable: true,
        })
    }

    /// The lanes that have jobs, without reading any of these: from an index.
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

    pub(super) fn dead_count(&self) -> rusqlite::Result<u64> {
        self.connection.query_row("SELECT count(*) FROM dead", [], |row| row.get(0))
    }

    /// Begins a transaction. One that is `durable` survives a loss of power once it is committed, any other the end
    /// of the process.
    pub(super) fn begin(&mut self, durable: bool) -> rusqlite::Result<()> {
        if self.is_durable != durable {
            self.connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
            self.is_durable = durable;
        }
        self.execute("BEGIN IMMEDIATE", []).map(drop)
    }

    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.execute("COMMIT", []).map(drop)
    }

    /// Undoes what was written since `begin`.
    pub(super) fn roll_back(&mut self) {
        // It fails where SQLite has rolled back already.
        if let Err(error) = self.execute("ROLLBACK", []) {
            tracing::debug!(%error, "roll back");
        }
        // They may be of the transaction that wasn't.
        self.lanes.clear();
    }

    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }

    /// Writes a job that is due `now`. `None` where it is queued already.
    pub(super) fn push(&mut self, job: &Job, now: Timestamp) -> rusqlite::Result<Option<Key>> {
        let lane = self.lane_id(job)?;
        let key = (now, self.next_seq);
        let added = self.execute(
            "INSERT INTO job (seq, id, lane, due_at, failures, bytes) VALUES (?, ?, ?, ?, 0, ?)
             ON CONFLICT (id) DO NOTHING",
            params![key.1, job.id.to_bytes(), lane, micros(now), job.body.len()],
        )?;
        if added == 0 {
            return Ok(None);
        }
        let record = record::encode(job);
        let checksum = checksum(&record, &job.body);
        self.execute(
            "INSERT INTO content (seq, record, body, checksum) VALUES (?, ?, ?, ?)",
            params![key.1, record, &*job.body, checksum],
        )?;
        self.next_seq = self.next_seq.saturating_add(1);
        Ok(Some(key))
    }

    fn lane_id(&mut self, job: &Job) -> rusqlite::Result<i64> {
        if let Some(known) = self.lanes.get(&job.lane)
            && known.ordered == job.ordered
        {
            return Ok(known.id);
        }
        let tenant = rows::tenant_of(&job.target);
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO lane (name, tenant, ordered) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET ordered = ?3 RETURNING id",
        )?;
        let id = statement.query_row(params![job.lane.name(), tenant, job.ordered], |row| row.get(0))?;
        self.lanes.put(job.lane.clone(), KnownLane { id, ordered: job.ordered });
        Ok(id)
    }

    /// Removes a job that is delivered, and remembers it. Says whether it was there.
    pub(super) fn deliver(&mut self, seq: u64, job: &Job, made: Option<&Attempt>) -> rusqlite::Result<bool> {
        let stored = self
            .connection
            .prepare_cached("DELETE FROM job WHERE seq = ? RETURNING attempts")?
            .query_row([seq], |row| row.get::<_, Option<String>>(0))
            .optional()?;
        let Some(stored) = stored else { return Ok(false) };
        let attempts = attempts_with(stored, made);
        self.execute("DELETE FROM content WHERE seq = ?", [seq])?;
        if self.history == 0 {
            return Ok(true);
        }
        let (endpoint, url) = rows::columns_of(&job.target);
        self.execute(
            "INSERT OR REPLACE INTO delivered (n, id, tenant, endpoint, url, published_at, attempts)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                self.next_delivered,
                job.id.to_bytes(),
                &*job.tenant,
                endpoint,
                url,
                micros(job.published_at),
                attempts
            ],
        )?;
        let forgotten = self.next_delivered.saturating_sub(self.history);
        self.execute("DELETE FROM delivered WHERE n <= ?", [forgotten])?;
        self.next_delivered = self.next_delivered.saturating_add(1);
        Ok(true)
    }

    /// The attempts of a job with the one that was just made, as they are stored.
    fn attempts(&self, seq: u64, made: Option<&Attempt>) -> rusqlite::Result<Option<String>> {
        let stored = self
            .connection
            .prepare_cached("SELECT attempts FROM job WHERE seq = ?")?
            .query_row([seq], |row| row.get::<_, Option<String>>(0))
            .optional()?;
        Ok(attempts_with(stored.flatten(), made))
    }

    /// Removes a job for good. Says whether it was there.
    pub(super) fn remove(&self, seq: u64) -> rusqlite::Result<bool> {
        let removed = self.execute("DELETE FROM job WHERE seq = ?", [seq])?;
        self.execute("DELETE FROM content WHERE seq = ?", [seq])?;
        Ok(removed > 0)
    }

    /// Writes when a job that failed is tried again.
    pub(super) fn retry(&self, retry: &Retry, made: Option<&Attempt>) -> rusqlite::Result<()> {
        let (due_at, seq) = retry.key;
        let attempts = self.attempts(seq, made)?;
        self.execute(
            "UPDATE job SET due_at = ?2, held_until = ?3, failures = ?4, retried = 1, first_attempt_at = ?5, attempts = ?6
             WHERE seq = ?1",
            params![
                seq,
                micros(due_at),
                retry.held_until.map(micros),
                retry.failures,
                retry.first_attempt_at.map(micros),
                attempts
            ],
        )
        .map(drop)
    }

    /// What a job takes of the queue; `None` where it isn't there.
    pub(super) fn share_of(&self, seq: u64) -> rusqlite::Result<Option<StoredShare>> {
        let sql = "SELECT tenant, bytes FROM job JOIN lane ON lane.id = job.lane WHERE seq = ?";
        let share = self.connection.prepare_cached(sql)?.query_row([seq], |row| {
            let tenant = row.get::<_, Option<String>>(0)?.map(Into::into);
            Ok(StoredShare { tenant, bytes: row.get(1)? })
        });
        share.optional()
    }

    /// Makes a job a dead letter, in the place of an earlier one of the same message. Says how many dead letters there
    /// are more, and whether the job was there.
    pub(super) fn bury(
        &self,
        seq: u64,
        cause: &Cause,
        failures: u32,
        made: Option<&Attempt>,
        now: Timestamp,
    ) -> rusqlite::Result<(i64, bool)> {
        let attempts = self.attempts(seq, made)?;
        let earlier = "DELETE FROM dead WHERE id = (SELECT id FROM job WHERE seq = ?) RETURNING seq";
        let earlier: Option<u64> =
            self.connection.prepare_cached(earlier)?.query_row([seq], |row| row.get(0)).optional()?;
        if let Some(earlier) = earlier {
            self.execute("DELETE FROM content WHERE seq = ?", [earlier])?;
        }
        // What it says of itself, as far as that can be read.
        let of_record =
            |member: &str| format!("CASE WHEN json_valid(record) THEN record ->> '$.{member}' END");
        let sql = format!(
            "INSERT INTO dead (seq, id, lane, tenant, endpoint, url, cause, detail, failures, published_at, died_at,
             bytes, attempts)
             SELECT seq, job.id, job.lane, coalesce(lane.tenant, {tenant}, ''),
             CASE WHEN lane.tenant IS NOT NULL THEN name END, CASE WHEN lane.tenant IS NULL THEN name END,
             ?2, ?3, ?4, coalesce({published_at}, first_attempt_at, due_at), ?5, bytes, ?6
             FROM job JOIN lane ON lane.id = job.lane LEFT JOIN content USING (seq) WHERE seq = ?1",
            tenant = of_record("tenant"),
            published_at = of_record("published_at"),
        );
        let buried = self.execute(
            &sql,
            params![seq, cause.kind().as_str(), cause.to_string(), failures, now.as_millisecond(), attempts],
        )?;
        self.execute("DELETE FROM job WHERE seq = ?", [seq])?;
        let more = i64::try_from(buried).unwrap_or(i64::MAX);
        Ok((more.saturating_sub(i64::from(earlier.is_some())), buried > 0))
    }

    /// Makes up to `limit` jobs of a lane due `now` that wait for a retry. Says whether there may be more.
    pub(super) fn release(&self, lane: &Lane, now: Timestamp, limit: usize) -> rusqlite::Result<bool> {
        let lane = lane.name();
        let head = "UPDATE job SET held_until = NULL
             WHERE lane = (SELECT id FROM lane WHERE name = ?) AND held_until IS NOT NULL";
        self.execute(head, [lane])?;
        let released = self.execute(
            "UPDATE job SET due_at = ?2 WHERE seq IN (
             SELECT seq FROM job WHERE lane = (SELECT id FROM lane WHERE name = ?1) AND due_at > ?2 LIMIT ?3)",
            params![lane, micros(now), limit],
        )?;
        Ok(released >= limit)
    }

    /// Reads where the jobs of a lane stand, up to `limit` of them from `from` on.
    pub(super) fn window(
        &self,
        lane: &Lane,
        from: Key,
        limit: usize,
    ) -> rusqlite::Result<Vec<(Key, Waiting<()>)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT due_at, seq, failures, first_attempt_at, held_until FROM job
             WHERE lane = (SELECT id FROM lane WHERE name = ?1) AND (due_at, seq) >= (?2, ?3)
             ORDER BY due_at, seq LIMIT ?4",
        )?;
        let rows = statement.query_map(params![lane.name(), micros(from.0), from.1, limit], |row| {
            let waiting = Waiting {
                job: (),
                failures: row.get(2)?,
                first_attempt_at: row.get::<_, Option<i64>>(3)?.map(time),
                held_until: row.get::<_, Option<i64>>(4)?.map(time),
            };
            Ok(((time(row.get(0)?), row.get(1)?), waiting))
        })?;
        rows.collect()
    }

    /// The dead letters that match, as their `seq`s and sizes.
    pub(super) fn matching(&self, filter: &DeadFilter, limit: usize) -> rusqlite::Result<Vec<(u64, usize)>> {
        let Filter { conditions, params } = Filter::of(filter, None);
        let sql =
            format!("SELECT seq, bytes FROM dead WHERE {conditions} ORDER BY died_at, id LIMIT {limit}");
        let mut statement = self.connection.prepare(&sql)?;
        let rows =
            statement.query_map(rusqlite::params_from_iter(params), |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    }

    /// Queues a dead letter again, due `now`. `None` where its message is queued already: then it is deleted.
    pub(super) fn replay(&self, seq: u64, now: Timestamp) -> rusqlite::Result<Option<Replayed>> {
        let queued = self.execute(
            "INSERT INTO job (seq, id, lane, due_at, failures, bytes)
             SELECT seq, id, lane, ?2, 0, bytes FROM dead WHERE seq = ?1 ON CONFLICT DO NOTHING",
            params![seq, micros(now)],
        )?;
        if queued == 0 {
            return self.purge(seq).map(|()| None);
        }
        self.execute("DELETE FROM dead WHERE seq = ?", [seq])?;
        let mut statement = self.connection.prepare_cached(
            "SELECT name, tenant, ordered, bytes FROM job JOIN lane ON lane.id = job.lane WHERE seq = ?",
        )?;
        let replayed = statement.query_row([seq], |row| {
            Ok(Replayed {
                lane: Lane::new(&row.get::<_, String>(0)?),
                tenant: row.get::<_, Option<String>>(1)?.map(Into::into),
                ordered: row.get(2)?,
                key: (now, seq),
                bytes: row.get(3)?,
            })
        })?;
        Ok(Some(replayed))
    }

    /// Deletes a dead letter.
    pub(super) fn purge(&self, seq: u64) -> rusqlite::Result<()> {
        self.execute("DELETE FROM dead WHERE seq = ?", [seq])?;
        self.execute("DELETE FROM content WHERE seq = ?", [seq]).map(drop)
    }

    /// Copies the log into the file while no other does, so that the log begins anew.
    pub(super) fn restart_log(&self) -> rusqlite::Result<()> {
        // Whoever reads for long is passed over: it is tried again when there is more of the log.
        self.connection.busy_timeout(RESTART_WAIT)?;
        let restarted = self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        self.connection.busy_timeout(BUSY_WAIT)?;
        restarted
    }

    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        let limited = self.connection.pragma_update(None, "max_page_count", pages);
        assert!(limited.is_ok(), "{limited:?}");
    }

    /// Pages of the file that hold nothing.
    pub(super) fn free_pages(&self) -> rusqlite::Result<u64> {
        self.connection.pragma_query_value(None, "freelist_count", |row| row.get(0))
    }

    /// Gives up to `pages` free pages at the end of the file back.
    pub(super) fn vacuum(&self, pages: u32) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut steps = statement.query([])?;
        // Each step gives one page back.
        while steps.next()?.is_some() {}
        Ok(())
    }
}

/// Reads beside the thread that writes.
pub(super) struct Reader(Connection);

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        connect(path).map(Self).map_err(|source| DiskError::Open { path: path.to_owned(), source })
    }

    /// What a job is.
    pub(super) fn content(&self, seq: u64) -> rusqlite::Result<Content> {
        let mut statement =
            self.0.prepare_cached("SELECT record, body, checksum FROM content WHERE seq = ?")?;
        let read = statement.query_row([seq], |row| {
            let (record, body, stored) =
                (row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, u32>(2)?);
            Ok((record, Bytes::from(body), stored))
        });
        Ok(match read {
            Ok((record, body, stored)) if checksum(&record, &body) == stored => {
                match record::decode(&record, body) {
                    Ok(job) => Content::Job(job),
                    Err(error) => Content::Damaged(error.to_string()),
                }
            }
            Ok(_) => Content::Damaged("its checksum doesn't fit".to_owned()),
            Err(rusqlite::Error::QueryReturnedNoRows) => self.missing(seq)?,
            Err(error) if is_damage(&error) => Content::Damaged(error.to_string()),
            Err(error) => return Err(error),
        })
    }

    /// A job without content: settled meanwhile, or damaged.
    fn missing(&self, seq: u64) -> rusqlite::Result<Content> {
        let mut statement = self.0.prepare_cached("SELECT 1 FROM job WHERE seq = ?")?;
        let is_queued = statement.exists([seq])?;
        Ok(if is_queued { Content::Damaged("its content is missing".to_owned()) } else { Content::Missing })
    }

    /// Jobs that wait for a retry.
    pub(super) fn delayed(&self, now: Timestamp) -> rusqlite::Result<u64> {
        let sql = "SELECT count(*) FROM job WHERE retried = 1 AND due_at > ?";
        self.0.prepare_cached(sql)?.query_row([micros(now)], |row| row.get(0))
    }

    pub(super) fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> rusqlite::Result<DeadPage> {
        let Filter { conditions, params } = Filter::of(filter, after);
        let one_more = limit.saturating_add(1);
        let sql = format!("SELECT * FROM dead WHERE {conditions} ORDER BY died_at, id LIMIT {one_more}");
        let mut statement = self.0.prepare(&sql)?;
        let rows = statement.query_map(rusqlite::params_from_iter(params), rows::letter)?;
        let mut letters = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let more = letters.len() > limit;
        letters.truncate(limit);
        Ok(DeadPage { letters, more })
    }

    pub(super) fn count_dead(&self, filter: &DeadFilter) -> rusqlite::Result<u64> {
        let Filter { conditions, params } = Filter::of(filter, None);
        let sql = format!("SELECT count(*) FROM dead WHERE {conditions}");
        self.0.query_row(&sql, rusqlite::params_from_iter(params), |row| row.get(0))
    }

    pub(super) fn dead_letter(&self, id: MessageId) -> rusqlite::Result<Option<FullDeadLetter>> {
        let found = self.row("SELECT * FROM dead WHERE id = ?", id, |row| {
            Ok((rows::letter(row)?, row.get::<_, u64>("seq")?, attempts_from(row.get("attempts")?)))
        })?;
        let Some((letter, seq, attempts)) = found else { return Ok(None) };
        let (content_type, body) = match self.content(seq)? {
            Content::Job(job) => (job.content_type, Some(job.body)),
            Content::Missing | Content::Damaged(_) => Default::default(),
        };
        Ok(Some(FullDeadLetter { letter, content_type, body, attempts }))
    }

    /// What is known of a message.
    pub(super) fn message(&self, id: MessageId) -> rusqlite::Result<Option<MessageRecord>> {
        let queued = self.row("SELECT seq, attempts FROM job WHERE id = ?", id, |row| {
            Ok((row.get::<_, u64>(0)?, attempts_from(row.get(1)?)))
        })?;
        if let Some((seq, attempts)) = queued
            && let Content::Job(job) = self.content(seq)?
        {
            return Ok(Some(MessageRecord {
                id,
                tenant: job.tenant,
                target: job.target,
                published_at: job.published_at,
                state: MessageState::Queued,
                attempts,
            }));
        }
        let dead = self.row("SELECT * FROM dead WHERE id = ?", id, |row| {
            let letter = rows::letter(row)?;
            let state = MessageState::Dead(letter.cause);
            Ok(MessageRecord {
                id,
                tenant: letter.tenant,
                target: letter.target,
                published_at: letter.published_at,
                state,
                attempts: attempts_from(row.get("attempts")?),
            })
        })?;
        if dead.is_some() {
            return Ok(dead);
        }
        self.row("SELECT * FROM delivered WHERE id = ?", id, rows::delivered)
    }

    fn row<T>(
        &self,
        select: &str,
        id: MessageId,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.0.prepare_cached(select)?.query_row([id.to_bytes()], read).optional()
    }
}

/// Copies the log into the file, as far as that needs nobody to wait. Gives the pages that the log has, and how many
/// are copied.
pub(super) struct Checkpointer(Connection);

impl Checkpointer {
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        connect(path).map(Self).map_err(|source| DiskError::Open { path: path.to_owned(), source })
    }

    pub(super) fn run(&self) -> rusqlite::Result<(i64, i64)> {
        self.0.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Three connections of this process take turns for a moment, such as when the log begins anew.
    connection.busy_timeout(BUSY_WAIT)?;
    Ok(connection)
}

/// The CRC-32 of what a job is.
fn checksum(record: &str, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record.as_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Whether the database says that a page or a value isn't what it must be.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
    ) || error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
}

/// How many migrations a database has had. It is only looked at: another program's must stay as it is.
fn version_of(connection: &Connection, path: &Path) -> Result<usize, DiskError> {
    let failed = |source| DiskError::Open { path: path.to_owned(), source };
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
    let is_empty = connection
        .query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get::<_, bool>(0))
        .map_err(failed)?;
    if application != APPLICATION_ID && !is_empty {
        return Err(DiskError::NotOurs(path.to_owned()));
    }
    let found = usize::try_from(version).unwrap_or(usize::MAX);
    if found > MIGRATIONS.len() {
        return Err(DiskError::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() });
    }
    Ok(found)
}

/// Forgets lanes that have no jobs. Jobs that have become due in the future, since the clock went back, are due now.
fn tidy(connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let unused = "DELETE FROM lane WHERE id NOT IN (SELECT lane FROM job UNION SELECT lane FROM dead)";
    connection.execute(unused, [])?;
    let ahead = "UPDATE job SET due_at = ?1 WHERE lane IN (SELECT id FROM lane) AND due_at > ?1
                 AND (retried = 0 OR held_until IS NOT NULL)";
    connection.execute(ahead, [micros(now)]).map(drop)
}

/// Whether there is no room for what was to be written. A quota that is used up is told as a write that failed.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
        || code == Some(rusqlite::ffi::SQLITE_IOERR_WRITE)
}

fn migrate(connection: &mut Connection, version: usize) -> rusqlite::Result<()> {
    if version == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    transaction.commit()
}
