//! Replay and purge of dead letters in the database.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::params;

use super::Store;
use crate::common::job::Lane;
use crate::queue::dead::DeadFilter;
use crate::queue::disk::rows::{SqlFilter, micros};
use crate::queue::lanes::window::LanePosition;

/// A dead letter that was queued again.
pub(in crate::queue::disk) struct ReplayedJob {
    pub(in crate::queue::disk) lane: Lane,
    pub(in crate::queue::disk) ordered: bool,
    pub(in crate::queue::disk) position: LanePosition,
    pub(in crate::queue::disk) tenant: Option<Arc<str>>,
    pub(in crate::queue::disk) bytes: usize,
}

impl Store {
    /// Returns the number of dead letters.
    pub(in crate::queue::disk) fn dead_count(&self) -> rusqlite::Result<u64> {
        self.connection.query_row("SELECT count(*) FROM dead", [], |row| row.get(0))
    }

    /// Returns the `seq` and bytes of up to `limit` dead letters that match, the oldest death first.
    pub(in crate::queue::disk) fn matching(
        &self,
        filter: &DeadFilter,
        limit: usize,
    ) -> rusqlite::Result<Vec<(u64, usize)>> {
        let SqlFilter { conditions, params } = SqlFilter::new(filter, None);
        let sql =
            format!("SELECT seq, bytes FROM dead WHERE {conditions} ORDER BY died_at, id LIMIT {limit}");
        let mut statement = self.connection.prepare(&sql)?;
        let rows =
            statement.query_map(rusqlite::params_from_iter(params), |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    }

    /// Queues a dead letter again, due `now`. If its message is queued already, the letter is deleted and the result is
    /// `None`.
    pub(in crate::queue::disk) fn replay(
        &self,
        seq: u64,
        now: Timestamp,
    ) -> rusqlite::Result<Option<ReplayedJob>> {
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
            Ok(ReplayedJob {
                lane: Lane::new(&row.get::<_, String>(0)?),
                tenant: row.get::<_, Option<String>>(1)?.map(Into::into),
                ordered: row.get(2)?,
                position: (now, seq),
                bytes: row.get(3)?,
            })
        })?;
        Ok(Some(replayed))
    }

    /// Deletes a dead letter.
    pub(in crate::queue::disk) fn purge(&self, seq: u64) -> rusqlite::Result<()> {
        self.execute("DELETE FROM dead WHERE seq = ?", [seq])?;
        self.execute("DELETE FROM content WHERE seq = ?", [seq]).map(drop)
    }
}
