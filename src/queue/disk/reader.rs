//! A reading connection to the database. Readers run beside the writer and don't block it.

use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::rows::{self, SqlFilter, attempts_from, micros};
use super::schema::{self, DiskError, is_damage};
use super::store::checksum;
use crate::common::id::MessageId;
use crate::common::job::Job;
use crate::queue::dead::{DeadCursor, DeadFilter, DeadPage, FullDeadLetter};
use crate::queue::message::{MessageRecord, MessageState};
use crate::queue::record;

/// A connection that only reads.
pub(super) struct Reader(Connection);

/// Stored content of a job.
pub(super) enum JobContent {
    Intact(Job),
    /// The job no longer exists, because it was settled meanwhile.
    Missing,
    /// The content can't be read, for that reason.
    Damaged(String),
}

impl Reader {
    /// Opens a connection to the database, which must exist.
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        schema::connect(path).map(Self)
    }

    /// Reads the content of a job and verifies its checksum.
    pub(super) fn content(&self, seq: u64) -> rusqlite::Result<JobContent> {
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
                    Ok(job) => JobContent::Intact(job),
                    Err(error) => JobContent::Damaged(error.to_string()),
                }
            }
            Ok(_) => JobContent::Damaged("its checksum doesn't match".to_owned()),
            Err(rusqlite::Error::QueryReturnedNoRows) => self.without_content(seq)?,
            Err(error) if is_damage(&error) => JobContent::Damaged(error.to_string()),
            Err(error) => return Err(error),
        })
    }

    /// Tells a job without content, which is damaged, from one that was settled meanwhile.
    fn without_content(&self, seq: u64) -> rusqlite::Result<JobContent> {
        let mut statement = self.0.prepare_cached("SELECT 1 FROM job WHERE seq = ?")?;
        let is_queued = statement.exists([seq])?;
        Ok(match is_queued {
            true => JobContent::Damaged("its content is missing".to_owned()),
            false => JobContent::Missing,
        })
    }

    /// Returns the number of jobs that wait for the time of a retry.
    pub(super) fn delayed(&self, now: Timestamp) -> rusqlite::Result<u64> {
        let sql = "SELECT count(*) FROM job WHERE retried = 1 AND due_at > ?";
        self.0.prepare_cached(sql)?.query_row([micros(now)], |row| row.get(0))
    }

    /// See [`crate::queue::dead::DeadLetters::dead_letters`].
    pub(super) fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> rusqlite::Result<DeadPage> {
        let SqlFilter { conditions, params } = SqlFilter::new(filter, after);
        let one_more = limit.saturating_add(1);
        let sql = format!("SELECT * FROM dead WHERE {conditions} ORDER BY died_at, id LIMIT {one_more}");
        let mut statement = self.0.prepare(&sql)?;
        let rows = statement.query_map(rusqlite::params_from_iter(params), rows::letter)?;
        let mut letters = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let more = letters.len() > limit;
        letters.truncate(limit);
        Ok(DeadPage { letters, more })
    }

    /// See [`crate::queue::dead::DeadLetters::count_dead`].
    pub(super) fn count_dead(&self, filter: &DeadFilter) -> rusqlite::Result<u64> {
        let SqlFilter { conditions, params } = SqlFilter::new(filter, None);
        let sql = format!("SELECT count(*) FROM dead WHERE {conditions}");
        self.0.query_row(&sql, rusqlite::params_from_iter(params), |row| row.get(0))
    }

    /// See [`crate::queue::dead::DeadLetters::dead_letter`].
    pub(super) fn dead_letter(&self, id: MessageId) -> rusqlite::Result<Option<FullDeadLetter>> {
        let found = self.row("SELECT * FROM dead WHERE id = ?", id, |row| {
            Ok((rows::letter(row)?, row.get::<_, u64>("seq")?, attempts_from(row.get("attempts")?)))
        })?;
        let Some((letter, seq, attempts)) = found else { return Ok(None) };
        let (content_type, body) = match self.content(seq)? {
            JobContent::Intact(job) => (job.content_type, Some(job.body)),
            JobContent::Missing | JobContent::Damaged(_) => Default::default(),
        };
        Ok(Some(FullDeadLetter { letter, content_type, body, attempts }))
    }

    /// See [`crate::queue::message::Messages::message`].
    pub(super) fn message(&self, id: MessageId) -> rusqlite::Result<Option<MessageRecord>> {
        let queued = self.row("SELECT seq, attempts FROM job WHERE id = ?", id, |row| {
            Ok((row.get::<_, u64>(0)?, attempts_from(row.get(1)?)))
        })?;
        if let Some((seq, attempts)) = queued
            && let JobContent::Intact(job) = self.content(seq)?
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

    /// Reads the one row of `id`, if it exists.
    fn row<T>(
        &self,
        select: &str,
        id: MessageId,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.0.prepare_cached(select)?.query_row([id.to_bytes()], read).optional()
    }
}
