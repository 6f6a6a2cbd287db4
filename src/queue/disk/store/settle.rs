//! Settlements in the database: delivered, retried, dropped or dead; and the release of a lane.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::Store;
use crate::common::attempt::Attempt;
use crate::common::job::{Job, Lane};
use crate::common::retry::Cause;
use crate::queue::disk::rows::{self, attempts_with, micros};
use crate::queue::lanes::ScheduledRetry;

/// Share of the queue that one job takes.
pub(in crate::queue::disk) struct StoredJobSize {
    pub(in crate::queue::disk) tenant: Option<Arc<str>>,
    pub(in crate::queue::disk) bytes: usize,
}

impl Store {
    /// Removes a delivered job and remembers its message. Returns whether the job existed.
    pub(in crate::queue::disk) fn deliver(
        &mut self,
        seq: u64,
        job: &Job,
        attempt: Option<&Attempt>,
    ) -> rusqlite::Result<bool> {
        let stored = self
            .connection
            .prepare_cached("DELETE FROM job WHERE seq = ? RETURNING attempts")?
            .query_row([seq], |row| row.get::<_, Option<String>>(0))
            .optional()?;
        let Some(stored) = stored else { return Ok(false) };
        self.execute("DELETE FROM content WHERE seq = ?", [seq])?;
        if self.history == 0 {
            return Ok(true);
        }
        let attempts = attempts_with(stored, attempt);
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

    /// Returns the stored attempts of a job with `attempt` added, in their stored form.
    fn attempts(&self, seq: u64, attempt: Option<&Attempt>) -> rusqlite::Result<Option<String>> {
        let stored = self
            .connection
            .prepare_cached("SELECT attempts FROM job WHERE seq = ?")?
            .query_row([seq], |row| row.get::<_, Option<String>>(0))
            .optional()?;
        Ok(attempts_with(stored.flatten(), attempt))
    }

    /// Deletes a job. Returns whether it existed.
    pub(in crate::queue::disk) fn remove(&self, seq: u64) -> rusqlite::Result<bool> {
        let removed = self.execute("DELETE FROM job WHERE seq = ?", [seq])?;
        self.execute("DELETE FROM content WHERE seq = ?", [seq])?;
        Ok(removed > 0)
    }

    /// Writes when a failed job is retried.
    pub(in crate::queue::disk) fn retry(
        &self,
        retry: &ScheduledRetry,
        attempt: Option<&Attempt>,
    ) -> rusqlite::Result<()> {
        let (due_at, seq) = retry.position;
        let attempts = self.attempts(seq, attempt)?;
        self.execute(
            "UPDATE job SET due_at = ?2, held_until = ?3, failures = ?4, retried = 1, first_attempt_at = ?5, attempts = ?6
             WHERE seq = ?1",
            params![
                seq,
                micros(due_at),
                retry.retry_at.map(micros),
                retry.failures,
                retry.first_attempt_at.map(micros),
                attempts
            ],
        )
        .map(drop)
    }

    /// Returns the size of a job, or `None` if it does not exist.
    pub(in crate::queue::disk) fn size_of(&self, seq: u64) -> rusqlite::Result<Option<StoredJobSize>> {
        let sql = "SELECT tenant, bytes FROM job JOIN lane ON lane.id = job.lane WHERE seq = ?";
        let size = self.connection.prepare_cached(sql)?.query_row([seq], |row| {
            let tenant = row.get::<_, Option<String>>(0)?.map(Into::into);
            Ok(StoredJobSize { tenant, bytes: row.get(1)? })
        });
        size.optional()
    }

    /// Makes a job a dead letter. An earlier dead letter of the same message is replaced.
    ///
    /// Returns the change in the number of dead letters, and whether the job existed.
    pub(in crate::queue::disk) fn bury(
        &self,
        seq: u64,
        cause: &Cause,
        failures: u32,
        attempt: Option<&Attempt>,
        now: Timestamp,
    ) -> rusqlite::Result<(i64, bool)> {
        let attempts = self.attempts(seq, attempt)?;
        let earlier = "DELETE FROM dead WHERE id = (SELECT id FROM job WHERE seq = ?) RETURNING seq";
        let earlier: Option<u64> =
            self.connection.prepare_cached(earlier)?.query_row([seq], |row| row.get(0)).optional()?;
        if let Some(earlier) = earlier {
            self.execute("DELETE FROM content WHERE seq = ?", [earlier])?;
        }
        // A damaged record contributes nothing.
        let from_record =
            |member: &str| format!("CASE WHEN json_valid(record) THEN record ->> '$.{member}' END");
        let sql = format!(
            "INSERT INTO dead (seq, id, lane, tenant, endpoint, url, cause, detail, failures, published_at, died_at,
             bytes, attempts)
             SELECT seq, job.id, job.lane, coalesce(lane.tenant, {tenant}, ''),
             CASE WHEN lane.tenant IS NOT NULL THEN name END, CASE WHEN lane.tenant IS NULL THEN name END,
             ?2, ?3, ?4, coalesce({published_at}, first_attempt_at, due_at), ?5, bytes, ?6
             FROM job JOIN lane ON lane.id = job.lane LEFT JOIN content USING (seq) WHERE seq = ?1",
            tenant = from_record("tenant"),
            published_at = from_record("published_at"),
        );
        let buried = self.execute(
            &sql,
            params![seq, cause.kind().as_str(), cause.to_string(), failures, now.as_millisecond(), attempts],
        )?;
        self.execute("DELETE FROM job WHERE seq = ?", [seq])?;
        let more = i64::try_from(buried).unwrap_or(i64::MAX);
        Ok((more.saturating_sub(i64::from(earlier.is_some())), buried > 0))
    }

    /// Makes up to `limit` jobs of a lane due `now` that are due later. Returns whether there may be more of them.
    pub(in crate::queue::disk) fn release(
        &self,
        lane: &Lane,
        now: Timestamp,
        limit: usize,
    ) -> rusqlite::Result<bool> {
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
}
