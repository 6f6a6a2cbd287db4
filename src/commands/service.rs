//! The delivering part of a process, which `publish-server` and `consume-kafka` share: dispatcher, health and drain.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::flags::delivery::DeliveryArgs;
use super::flags::retry::RetryArgs;
use crate::common::clock::Clock;
use crate::common::crypto::signature::{Secret, Signer};
use crate::common::metrics::Metrics;
use crate::common::retry::RetryPolicy;
use crate::common::shutdown::{Interrupted, Shutdown};
use crate::common::task;
use crate::deliver::{DeliverConfig, Deliverer};
use crate::dispatch::Dispatcher;
use crate::queue::Queue;
use crate::registry::Registry;
use crate::server::Health;

/// Configuration of deliveries, as the flags give it.
pub(super) struct Delivery {
    pub(super) attempts: DeliverConfig,
    pub(super) retries: RetryPolicy,
    /// Signer of direct-mode deliveries. `None` leaves them unsigned.
    pub(super) direct_signer: Option<Signer>,
    max_lane_block: Duration,
    in_flight: usize,
    drain_timeout: Duration,
}

impl Delivery {
    /// Reads the flags about deliveries and retries, and the secrets in `signing_secret_file`.
    ///
    /// # Errors
    /// A flag's value can't be used, or a file can't be read.
    pub(super) fn from_flags(
        delivery: &DeliveryArgs,
        retry: &RetryArgs,
        signing_secret_file: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let secrets = signing_secret_file.map(Secret::read_all).transpose();
        Ok(Self {
            attempts: delivery.config()?,
            retries: retry.policy()?,
            direct_signer: secrets.context("--signing-secret-file")?.map(Signer::new),
            max_lane_block: delivery.max_lane_block,
            in_flight: delivery.in_flight,
            drain_timeout: delivery.drain_timeout,
        })
    }
}

/// A running dispatcher with the parts it works on.
pub(super) struct DeliveryService {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) registry: Registry,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    dispatcher: JoinHandle<()>,
    dispatcher_ended: CancellationToken,
    drain_timeout: Duration,
}

impl DeliveryService {
    /// Starts the dispatcher on `queue`.
    pub(super) fn start(delivery: Delivery, queue: Arc<dyn Queue>, registry: Registry, clock: Clock) -> Self {
        let metrics = Arc::new(Metrics::new());
        let dispatcher = Dispatcher {
            queue: Arc::clone(&queue),
            deliverer: Deliverer::new(delivery.attempts, clock),
            registry: registry.clone(),
            direct_signer: delivery.direct_signer,
            policy: delivery.retries,
            max_lane_block: delivery.max_lane_block,
            in_flight: delivery.in_flight,
            metrics: Arc::clone(&metrics),
            clock,
        };
        let dispatcher_ended = CancellationToken::new();
        let ended = dispatcher_ended.clone().drop_guard();
        let dispatcher = task::spawn("dispatcher", async move {
            let _ended = ended;
            dispatcher.run().await;
        });
        let drain_timeout = delivery.drain_timeout;
        Self { queue, registry, metrics, clock, dispatcher, dispatcher_ended, drain_timeout }
    }

    /// Returns the state behind `/healthz`, `/readyz` and `/metrics`.
    pub(super) fn health(&self) -> Health {
        Health {
            queue: Arc::clone(&self.queue),
            metrics: Arc::clone(&self.metrics),
            dispatcher_ended: self.dispatcher_ended.clone(),
        }
    }

    /// Runs until a signal comes, then drains. `publishing` is the HTTP server that takes events, if there is one.
    ///
    /// # Errors
    /// The dispatcher or the HTTP server ended by itself, a second signal came, or jobs in memory are left when
    /// `--drain-timeout` is over.
    pub(super) async fn run(
        mut self,
        mut publishing: Option<JoinHandle<()>>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let publishing_ended = async {
            match &mut publishing {
                Some(publishing) => drop(publishing.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The order matters: a drain ends the HTTP server as well.
            biased;
            () = shutdown.drain.cancelled() => {}
            _ = &mut self.dispatcher => {
                anyhow::bail!("the dispatcher has ended, so nothing is delivered; the log above says why")
            }
            () = publishing_ended => {
                anyhow::bail!("the HTTP server has ended, so no events are taken; the log above says why")
            }
        }
        self.drain(publishing, &shutdown.abort).await
    }

    /// Lets the requests in flight finish, then the deliveries, and leaves the queue to other processes.
    async fn drain(
        mut self,
        publishing: Option<JoinHandle<()>>,
        abort: &CancellationToken,
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        let deadline = now.checked_add(self.drain_timeout).unwrap_or(now);
        let finished = async {
            if let Some(publishing) = publishing {
                drop(publishing.await);
            }
            self.queue.close();
            drop((&mut self.dispatcher).await);
        };
        let in_time = abort.run_until_cancelled(timeout_at(deadline, finished)).await;
        self.queue.close();
        self.dispatcher.abort();
        let Some(in_time) = in_time else { return Err(self.interrupted()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if abort.run_until_cancelled(self.queue.leave(left)).await.is_none() {
            return Err(self.interrupted());
        }
        self.report(in_time.is_ok()).await
    }

    /// Logs what the queue keeps after a drain.
    ///
    /// # Errors
    /// Undelivered jobs are lost, because the queue is in memory.
    async fn report(&self, in_time: bool) -> anyhow::Result<()> {
        let lost = self.queue.abandoned();
        for job in &lost {
            tracing::warn!(message_id = %job.id, endpoint = %job.target, "may not have been delivered");
        }
        if !lost.is_empty() {
            anyhow::bail!("{}; a longer --drain-timeout gives them more time", lost_jobs(lost.len()));
        }
        if !in_time {
            tracing::warn!(
                "some deliveries hadn't finished within --drain-timeout; their jobs will be delivered again"
            );
        }
        if self.queue.capabilities().is_shared {
            tracing::info!("stopped; the queue keeps what is left for other processes, or the next start");
            return Ok(());
        }
        match self.queue.depth().await.map(|depth| depth.unsettled()) {
            Ok(0) => tracing::info!("stopped; no jobs are left"),
            Ok(jobs) => tracing::info!(jobs, "stopped; the queue keeps what is left for the next start"),
            Err(error) => tracing::warn!(%error, "stopped; the jobs left in the queue couldn't be counted"),
        }
        Ok(())
    }

    /// Returns the error of a drain that a second signal ended. Lost jobs are counted but not listed, because a second
    /// signal means to stop at once.
    fn interrupted(&self) -> anyhow::Error {
        let context = match self.queue.abandoned().len() {
            0 => "stopped while draining; the queue keeps the jobs that weren't delivered".into(),
            lost => lost_jobs(lost),
        };
        anyhow::Error::from(Interrupted).context(context)
    }
}

fn lost_jobs(count: usize) -> String {
    format!("{count} jobs may not have been delivered, and are lost with this process")
}

/// Raises the limit of open files as far as the system allows. Each connection is an open file, and the usual limit of
/// 1,024 is below the default limits of connections.
pub(super) fn raise_open_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files couldn't be raised; `ulimit -n` sets it");
    }
}
