//! Replaying and purging batch by batch, at a rate, as far as there is room.

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

/// Batches a second where there is a rate: often enough to be even, seldom enough to be cheap.
const BATCHES_PER_SECOND: f64 = 10.0;
/// How long to wait where the queue, or a tenant's share of it, is full.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// And when to give up where nothing of it is delivered meanwhile.
const FULL_PATIENCE: Duration = Duration::from_secs(60);

/// What is done with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Replay,
    Purge,
}

impl Act {
    /// What they are afterwards.
    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Purge => "purged",
        }
    }

    async fn ask(
        self,
        connection: &Connection,
        root: &str,
        what: &DeadSelection,
    ) -> Result<Answer, ClientError> {
        Ok(match self {
            Self::Replay => {
                let answer: Replayed = connection.api.post(&format!("{root}/replay"), what).await?;
                let Replayed { matched, replayed, more, until } = answer;
                Answer { matched, done: replayed, more, until }
            }
            Self::Purge => {
                let answer: Purged = connection.api.post(&format!("{root}/purge"), what).await?;
                let Purged { matched, purged, more, until } = answer;
                Answer { matched, done: purged, more, until }
            }
        })
    }
}

struct Answer {
    matched: u64,
    done: u64,
    more: bool,
    until: Timestamp,
}

/// What is to be done, counted.
pub(super) struct Plan<'a> {
    act: Act,
    connection: &'a Connection,
    root: String,
    selections: Vec<DeadSelection>,
    missing: Vec<MessageId>,
    /// How many that are, at most as many as were asked for.
    pub(super) matched: u64,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) done: u64,
    /// Why it isn't all.
    pub(super) stopped: Option<Stopped>,
}

/// Why something is left.
pub(super) enum Stopped {
    /// The server didn't do it.
    Refused(ClientError),
    /// A signal came.
    Interrupted,
    /// What matches can't be replayed.
    Stuck,
}

impl<'a> Plan<'a> {
    /// Asks how many there are; from now on no others are meant, so that what dies again isn't.
    pub(super) async fn make(
        act: Act,
        connection: &'a Connection,
        select: &SelectArgs,
    ) -> anyhow::Result<Self> {
        let root = select.filter.tenant.path("/dead-letters");
        let (mut selections, mut missing, mut matched) = (select.selections()?, Vec::new(), 0_u64);
        for selection in &mut selections {
            let count = DeadSelection { dry_run: true, ..selection.clone() };
            let counted = act.ask(connection, &root, &count).await?;
            selection.until = Some(counted.until);
            matched = matched.saturating_add(counted.matched);
            missing.extend(selection.message.filter(|_| counted.matched == 0));
        }
        let matched = select.limit.map_or(matched, |limit| matched.min(limit));
        Ok(Self { act, connection, root, selections, missing, matched })
    }

    /// An error where messages that were named aren't there.
    pub(super) fn complete(&self) -> anyhow::Result<()> {
        let missing: Vec<String> = self.missing.iter().map(MessageId::to_string).collect();
        match missing.as_slice() {
            [] => Ok(()),
            missing => anyhow::bail!("no such dead letter: {}", missing.join(", ")),
        }
    }

    /// Does it: at most `rate` a second, waiting where there is no room, until all is done or a signal comes.
    pub(super) async fn carry_out(&self, rate: Option<f64>) -> anyhow::Result<Outcome> {
        let shutdown = Shutdown::on_signals().context("install signal handlers")?;
        let progress = progress_bar(self.matched);
        let outcome = tokio::select! {
            outcome = self.batches(rate, &progress, &shutdown.drain) => outcome,
            () = shutdown.abort.cancelled() => return Err(Interrupted.into()),
        };
        progress.finish_and_clear();
        Ok(outcome)
    }

    async fn batches(&self, rate: Option<f64>, progress: &ProgressBar, stop: &CancellationToken) -> Outcome {
        let mut pace = Pace { rate, started: Instant::now(), moved: Instant::now(), done: 0 };
        let ended = |pace: &Pace, stopped| Outcome { done: pace.done, stopped };
        for selection in &self.selections {
            loop {
                let left = self.matched.saturating_sub(pace.done);
                if left == 0 {
                    return ended(&pace, None);
                }
                if stop.run_until_cancelled(tokio::time::sleep_until(pace.due())).await.is_none() {
                    return ended(&pace, Some(Stopped::Interrupted));
                }
                let limit = u32::try_from(left).unwrap_or(u32::MAX).min(pace.batch());
                let batch = DeadSelection { limit: Some(limit), ..selection.clone() };
                match self.act.ask(self.connection, &self.root, &batch).await {
                    Ok(answer) => {
                        pace.advance(answer.done);
                        progress.inc(answer.done);
                        match (answer.done, answer.more) {
                            (_, false) => break,
                            (0, true) => return ended(&pace, Some(Stopped::Stuck)),
                            (_, true) => {}
                        }
                    }
                    Err(error) if is_full(&error) && pace.moved.elapsed() < FULL_PATIENCE => {
                        if stop.run_until_cancelled(tokio::time::sleep(FULL_PAUSE)).await.is_none() {
                            return ended(&pace, Some(Stopped::Interrupted));
                        }
                    }
                    Err(error) => return ended(&pace, Some(Stopped::Refused(error))),
                }
            }
        }
        ended(&pace, None)
    }

    /// The error that the command ends with, where not all is done.
    pub(super) fn result(&self, outcome: Outcome) -> anyhow::Result<()> {
        let done = self.act.done();
        let left = self.matched.saturating_sub(outcome.done);
        let not_all = format!("{left} of {} weren't {done}", self.matched);
        match outcome.stopped {
            None => self.complete(),
            Some(Stopped::Interrupted) => Err(Interrupted).context(not_all),
            Some(Stopped::Stuck) => {
                anyhow::bail!(
                    "{not_all}: the server can't; `whk dlq list --cause damaged` shows what is lost"
                )
            }
            // What was refused from the first has that code; what was done in part has failed.
            Some(Stopped::Refused(error)) if outcome.done == 0 => Err(error.into()),
            Some(Stopped::Refused(error)) => anyhow::bail!("{not_all}: {error}"),
        }
    }
}

/// So many, for people.
pub(super) fn dead_letters(count: u64) -> String {
    format!("{count} dead {}", if count == 1 { "letter" } else { "letters" })
}

/// Whether it may be tried again, once more is delivered.
fn is_full(error: &ClientError) -> bool {
    let full = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    matches!(error, ClientError::Refused { status, .. } if full.contains(status))
}

/// How fast it goes.
struct Pace {
    rate: Option<f64>,
    started: Instant,
    /// When something was done last.
    moved: Instant,
    done: u64,
}

impl Pace {
    /// When the next batch is to be asked for.
    fn due(&self) -> Instant {
        let Some(rate) = self.rate else { return self.started };
        let after = Duration::try_from_secs_f64(self.done as f64 / rate).unwrap_or(FULL_PATIENCE);
        self.started.checked_add(after).unwrap_or(self.started)
    }

    /// How many to ask for at once.
    fn batch(&self) -> u32 {
        let most = u32::try_from(MAX_BATCH).unwrap_or(u32::MAX);
        // `as` stops at u32's bounds.
        self.rate.map_or(most, |rate| ((rate / BATCHES_PER_SECOND) as u32).clamp(1, most))
    }

    fn advance(&mut self, done: u64) {
        self.done = self.done.saturating_add(done);
        if done > 0 {
            self.moved = Instant::now();
        }
    }
}

/// Shown on a terminal only, as indicatif does on its own.
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
        let pace = |rate| Pace { rate, started: now, moved: now, done: 30 };
        let of = |rate| (pace(rate).batch(), pace(rate).due().duration_since(now));
        assert_eq!(of(None), (1_000, Duration::ZERO));
        assert_eq!(of(Some(50.0)), (5, Duration::from_millis(600)));
        assert_eq!(of(Some(0.5)), (1, Duration::from_secs(60)));
        assert_eq!(of(Some(1e9)).0, 1_000);
    }

    #[test]
    fn only_a_full_queue_is_waited_for() {
        let refused = |status| ClientError::Refused { status, detail: "no".into() };
        assert!(is_full(&refused(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(is_full(&refused(StatusCode::TOO_MANY_REQUESTS)));
        assert!(!is_full(&refused(StatusCode::FORBIDDEN)));
        assert!(!is_full(&ClientError::TimedOut { server: "here".into() }));
    }
}
