//! Replays and purges dead letters in batches, at a rate, and waits while the queue is full.

use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::select::SelectArgs;
use crate::api::{DeadSelection, Purged, Replayed};
use crate::client::ClientError;
use crate::common::id::MessageId;
use crate::common::shutdown::{Interrupted, Shutdown};
use crate::queue::dead::MAX_BATCH;

/// Batches per second when a rate is given: often enough for an even rate, seldom enough to be cheap.
const BATCHES_PER_SECOND: f64 = 10.0;
/// Pause before a batch is sent again because the queue, or the tenant's share of it, was full.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Time without any progress after which a full queue is an error.
const FULL_TIMEOUT: Duration = Duration::from_secs(60);

/// An operation on dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Replay,
    Purge,
}

impl Operation {
    /// Returns the past participle, for messages.
    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Purge => "purged",
        }
    }

    async fn send(
        self,
        connection: &Connection,
        root: &str,
        selection: &DeadSelection,
    ) -> Result<BatchResult, ClientError> {
        Ok(match self {
            Self::Replay => {
                let answer: Replayed = connection.api.post(&format!("{root}/replay"), selection).await?;
                let Replayed { matched, replayed, more, until } = answer;
                BatchResult { matched, done: replayed, more, until }
            }
            Self::Purge => {
                let answer: Purged = connection.api.post(&format!("{root}/purge"), selection).await?;
                let Purged { matched, purged, more, until } = answer;
                BatchResult { matched, done: purged, more, until }
            }
        })
    }
}

/// Result of one batch of either operation.
struct BatchResult {
    matched: u64,
    done: u64,
    more: bool,
    until: Timestamp,
}

/// The selected dead letters, counted by a dry run.
pub(super) struct BatchPlan<'a> {
    operation: Operation,
    connection: &'a Connection,
    root: String,
    selections: Vec<DeadSelection>,
    missing: Vec<MessageId>,
    /// Number of selected dead letters, at most `--limit`.
    pub(super) matched: u64,
}

/// Result of an operation, complete or not.
pub(super) struct BatchOutcome {
    pub(super) done: u64,
    /// Reason why the operation ended early, if it did.
    pub(super) stopped: Option<StopReason>,
}

/// Reason why an operation ended before all selected dead letters were done.
pub(super) enum StopReason {
    /// The server refused a batch.
    Refused(ClientError),
    /// A signal came.
    Interrupted,
    /// The server replayed no dead letter of a batch, so the remaining ones can't be replayed.
    Stuck,
}

impl<'a> BatchPlan<'a> {
    /// Counts the selected dead letters. Later ones aren't included, so a message that dies again isn't replayed again.
    ///
    /// # Errors
    /// Nothing is selected, or the server can't be reached or refuses.
    pub(super) async fn make(
        operation: Operation,
        connection: &'a Connection,
        select: &SelectArgs,
    ) -> anyhow::Result<Self> {
        let root = select.filter.tenant.path("/dead-letters");
        let (mut selections, mut missing, mut matched) = (select.selections()?, Vec::new(), 0_u64);
        for selection in &mut selections {
            let count = DeadSelection { dry_run: true, ..selection.clone() };
            let counted = operation.send(connection, &root, &count).await?;
            selection.until = Some(counted.until);
            matched = matched.saturating_add(counted.matched);
            missing.extend(selection.message.filter(|_| counted.matched == 0));
        }
        let matched = select.limit.map_or(matched, |limit| matched.min(limit));
        Ok(Self { operation, connection, root, selections, missing, matched })
    }

    /// Fails if a dead letter selected by id doesn't exist.
    pub(super) fn check_all_found(&self) -> anyhow::Result<()> {
        let missing: Vec<String> = self.missing.iter().map(MessageId::to_string).collect();
        match missing.as_slice() {
            [] => Ok(()),
            missing => anyhow::bail!("no such dead letter: {}", missing.join(", ")),
        }
    }

    /// Runs the operation on all selected dead letters, at most `rate` per second, until a signal comes.
    ///
    /// # Errors
    /// A second signal came, or signal handlers can't be installed.
    pub(super) async fn run(&self, rate: Option<f64>) -> anyhow::Result<BatchOutcome> {
        let shutdown = Shutdown::on_signals().context("install signal handlers")?;
        let progress = progress_bar(self.matched);
        let outcome = tokio::select! {
            outcome = self.batches(rate, &progress, &shutdown.drain) => outcome,
            () = shutdown.abort.cancelled() => return Err(Interrupted.into()),
        };
        progress.finish_and_clear();
        Ok(outcome)
    }

    async fn batches(
        &self,
        rate: Option<f64>,
        progress: &ProgressBar,
        stop: &CancellationToken,
    ) -> BatchOutcome {
        let mut pacer = Pacer { rate, started: Instant::now(), progressed_at: Instant::now(), done: 0 };
        let ended = |pacer: &Pacer, stopped| BatchOutcome { done: pacer.done, stopped };
        for selection in &self.selections {
            loop {
                let left = self.matched.saturating_sub(pacer.done);
                if left == 0 {
                    return ended(&pacer, None);
                }
                if stop.run_until_cancelled(tokio::time::sleep_until(pacer.due())).await.is_none() {
                    return ended(&pacer, Some(StopReason::Interrupted));
                }
                let limit = u32::try_from(left).unwrap_or(u32::MAX).min(pacer.batch());
                let batch = DeadSelection { limit: Some(limit), ..selection.clone() };
                match self.operation.send(self.connection, &self.root, &batch).await {
                    Ok(answer) => {
                        pacer.advance(answer.done);
                        progress.inc(answer.done);
                        match (answer.done, answer.more) {
                            (_, false) => break,
                            (0, true) => return ended(&pacer, Some(StopReason::Stuck)),
                            (_, true) => {}
                        }
                    }
                    Err(error) if is_full(&error) && pacer.progressed_at.elapsed() < FULL_TIMEOUT => {
                        if stop.run_until_cancelled(tokio::time::sleep(FULL_PAUSE)).await.is_none() {
                            return ended(&pacer, Some(StopReason::Interrupted));
                        }
                    }
                    Err(error) => return ended(&pacer, Some(StopReason::Refused(error))),
                }
            }
        }
        ended(&pacer, None)
    }

    /// Returns an error if not all selected dead letters are done.
    pub(super) fn result(&self, outcome: BatchOutcome) -> anyhow::Result<()> {
        let done = self.operation.done();
        let left = self.matched.saturating_sub(outcome.done);
        let not_all = format!("{left} of {} weren't {done}", self.matched);
        match outcome.stopped {
            None => self.check_all_found(),
            Some(StopReason::Interrupted) => Err(Interrupted).context(not_all),
            Some(StopReason::Stuck) => {
                anyhow::bail!(
                    "{not_all}, because their stored messages are damaged; `whk dlq list --cause damaged` lists them"
                )
            }
            // If nothing was done, the exit code is that of the refusal. After a part was done, it is that of a
            // failure.
            Some(StopReason::Refused(error)) if outcome.done == 0 => Err(error.into()),
            Some(StopReason::Refused(error)) => anyhow::bail!("{not_all}: {error}"),
        }
    }
}

/// Returns a number of dead letters as text.
pub(super) fn dead_letters(count: u64) -> String {
    format!("{count} dead {}", if count == 1 { "letter" } else { "letters" })
}

/// Returns whether the queue, or the tenant's share of it, is full. Deliveries make room.
fn is_full(error: &ClientError) -> bool {
    let full = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    matches!(error, ClientError::Refused { status, .. } if full.contains(status))
}

/// Spreads batches over time to keep a rate.
struct Pacer {
    rate: Option<f64>,
    started: Instant,
    /// Time of the last batch with any progress.
    progressed_at: Instant,
    done: u64,
}

impl Pacer {
    /// Returns the time at which to send the next batch.
    fn due(&self) -> Instant {
        let Some(rate) = self.rate else { return self.started };
        let after = Duration::try_from_secs_f64(self.done as f64 / rate).unwrap_or(FULL_TIMEOUT);
        self.started.checked_add(after).unwrap_or(self.started)
    }

    /// Returns the size of the next batch.
    fn batch(&self) -> u32 {
        let max = u32::try_from(MAX_BATCH).unwrap_or(u32::MAX);
        // `as` saturates at the bounds of u32.
        self.rate.map_or(max, |rate| ((rate / BATCHES_PER_SECOND) as u32).clamp(1, max))
    }

    fn advance(&mut self, done: u64) {
        self.done = self.done.saturating_add(done);
        if done > 0 {
            self.progressed_at = Instant::now();
        }
    }
}

/// Returns a progress bar. indicatif shows it on a terminal only.
fn progress_bar(total: u64) -> ProgressBar {
    let template = "{bar:40} {pos}/{len} dead letters  {per_sec}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_over_batches_of_a_tenth_of_a_second() {
        let now = Instant::now();
        let pacer = |rate| Pacer { rate, started: now, progressed_at: now, done: 30 };
        let of = |rate| (pacer(rate).batch(), pacer(rate).due().duration_since(now));
        assert_eq!(of(None), (1_000, Duration::ZERO));
        assert_eq!(of(Some(50.0)), (5, Duration::from_millis(600)));
        assert_eq!(of(Some(0.5)), (1, Duration::from_secs(60)));
        assert_eq!(of(Some(1e9)).0, 1_000);
    }

    #[test]
    fn only_a_full_queue_is_retried() {
        let refused = |status| ClientError::Refused { status, detail: "no".into() };
        assert!(is_full(&refused(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(is_full(&refused(StatusCode::TOO_MANY_REQUESTS)));
        assert!(!is_full(&refused(StatusCode::FORBIDDEN)));
        assert!(!is_full(&ClientError::TimedOut { server: "here".into() }));
    }
}
