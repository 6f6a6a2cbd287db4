//! Step 2, `whk publish-server`: takes events, seals them, queues them, delivers them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::retry_args::RetryArgs;
use super::{at_least_one, count, duration};
use crate::common::clock::Clock;
use crate::common::crypto::envelope::{KeyReuse, Sealer};
use crate::common::crypto::keys::PublicKey;
use crate::common::crypto::signature::{Secret, Signer};
use crate::common::http::{ServeLimits, address_of, bind, serve};
use crate::common::metrics::Metrics;
use crate::common::retry::RetryPolicy;
use crate::common::shutdown::{Interrupted, Shutdown};
use crate::deliver::egress::EgressGuard;
use crate::deliver::{DeliverConfig, Deliverer, ExtraRoots};
use crate::dispatch::Dispatcher;
use crate::exit::UsageError;
use crate::publish::{Envelope, Publisher};
use crate::queue::{self, Queue, QueueConfig, QueueKind};
use crate::server::Server;

/// A lease outlasts an attempt by this: time enough to settle it.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// Bodies that are being received take no more memory than this (256 MiB), or two of the largest.
const BODY_BUDGET_KIB: usize = 256 * 1024;

/// Take events at POST /publish, encrypt them with the customer's public key, deliver them with retries
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk publish-server --signing-secret-file signing_secret.txt --allow-net 127.0.0.0/8
  curl http://localhost:4242/publish -H 'content-type: application/json' \\
       -d '{\"url\":\"http://localhost:9000/webhook\",\"payload\":{\"hello\":\"world\"}}'

Deliveries go to public addresses over https. --allow-net opens a network of your own, over http as well.
SIGTERM or SIGINT stops accepting and delivers what is queued within --drain-timeout; a second one ends at once.
Exit status: 0 stopped with nothing left, 1 jobs were left, 64 usage, 66 a file is missing, 69 the port isn't free,
130 interrupted while draining.")]
pub struct Args {
    /// Where jobs wait between publish and delivery
    #[arg(long, value_enum, default_value_t)]
    queue: QueueKind,
    /// Keep strict order per URL: a failed job holds up those behind it, and no other URL's
    #[arg(long)]
    ordered: bool,
    /// The customer's public key: PEM, base64 of PEM, or JWK
    #[arg(long, value_name = "FILE", default_value = "public_key.pem")]
    public_key: PathBuf,
    /// Sign deliveries with the secrets in this file, one `whsec_…` a line
    #[arg(long, value_name = "FILE")]
    signing_secret_file: Option<PathBuf>,
    /// How payloads are sealed: jwe, or the Deno scripts' rsa-oaep (at most 470 bytes)
    #[arg(long, value_enum, default_value_t)]
    envelope: EnvelopeKind,
    /// Messages that one content key seals; 1 makes a new one for each
    #[arg(long, default_value_t = 1_000, value_name = "COUNT")]
    key_reuse: u32,
    /// Bytes of messages that one content key seals
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES")]
    key_reuse_bytes: u64,
    /// How long one content key is used
    #[arg(long, value_parser = duration, default_value = "5m", value_name = "DURATION")]
    key_reuse_age: Duration,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    delivery: DeliveryArgs,
    #[command(flatten)]
    retry: RetryArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP server")]
struct HttpArgs {
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "SERVER_PORT", default_value_t = 4242)]
    port: u16,
    /// Name or address to listen on; who reaches it can publish
    #[arg(long, env = "SERVER_HOSTNAME", default_value = "127.0.0.1", value_name = "HOST")]
    hostname: String,
    /// Connections at once
    #[arg(long, value_parser = count, default_value_t = 1_024, value_name = "COUNT")]
    max_connections: usize,
    /// How long a connection may be silent before a request, and take to send its headers
    #[arg(long, value_parser = duration, default_value = "60s", value_name = "DURATION")]
    idle_timeout: Duration,
    /// How long a request's body may take to come
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    request_timeout: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Unsettled jobs that are held; further ones are answered 503
    #[arg(long, env = "MAX_QUEUE_SIZE", value_parser = at_least_one, default_value_t = 10_000, value_name = "JOBS")]
    max_queue_size: usize,
    /// Bytes of unsettled jobs that are held
    #[arg(long, value_parser = at_least_one, default_value_t = 256 << 20, value_name = "BYTES")]
    max_queue_bytes: usize,
    /// Bytes of one payload; larger ones are answered 413
    #[arg(long, env = "MAX_PAYLOAD_SIZE", value_parser = at_least_one, default_value_t = 1 << 20, value_name = "BYTES")]
    max_payload_size: usize,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Delivery")]
struct DeliveryArgs {
    /// A network that may be called though it isn't public, over http too; repeat it or separate with commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    allow_net: Vec<IpNet>,
    /// Certificates (PEM) that are trusted beside the public ones
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Time limit of one attempt: connect, headers and body together
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    delivery_timeout: Duration,
    /// Attempts at once, over all endpoints
    #[arg(long, value_parser = count, default_value_t = 512, value_name = "COUNT")]
    in_flight: usize,
    /// Attempts at once to one endpoint that does well; at most a fifth of --in-flight
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 64, value_name = "COUNT")]
    endpoint_in_flight: u32,
    /// How long to go on delivering after SIGTERM
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    drain_timeout: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum EnvelopeKind {
    #[default]
    Jwe,
    RsaOaep,
}

/// Runs the command until a signal stops it.
///
/// # Errors
/// A flag or a file can't be used, the port isn't free, or jobs are left when the drain's time is over.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let policy = args.retry.policy().map_err(|error| UsageError(format!("retry flags: {error}")))?;
    let envelope = args.open_envelope()?;
    let deliver = args.deliver_config()?;
    let guard = deliver.guard.clone();
    // Each connection takes a descriptor, and the usual soft limit of 1,024 is less than the defaults here allow.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "raise the limit of open files");
    }
    let listener = bind(&args.http.hostname, args.http.port, "--port").await?;
    let shutdown = Shutdown::on_signals().context("install signal handlers")?;

    let clock = Clock::start();
    let metrics = Arc::new(Metrics::new());
    let queue = queue::open(args.queue, args.queue_config(&policy), clock);
    let dispatcher = Dispatcher {
        queue: Arc::clone(&queue),
        deliverer: Deliverer::new(deliver, clock),
        policy,
        in_flight: args.delivery.in_flight,
        metrics: Arc::clone(&metrics),
        clock,
    };
    let dispatcher_ended = CancellationToken::new();
    let ended = dispatcher_ended.clone().drop_guard();
    let mut dispatching = tokio::spawn(async move {
        let _ended = ended;
        dispatcher.run().await;
    });
    let publisher =
        Publisher { envelope, guard, queue: Arc::clone(&queue), metrics: Arc::clone(&metrics), clock };
    let server = Server {
        publisher,
        queue: Arc::clone(&queue),
        metrics,
        max_payload: args.limits.max_payload_size,
        request_time: args.http.request_timeout,
        body_budget: Semaphore::new(
            BODY_BUDGET_KIB.max((args.limits.max_payload_size / 512).saturating_add(128)),
        ),
        dispatcher_ended,
    };
    let address = address_of(&listener);
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches this address can publish; see --hostname");
    }
    if args.signing_secret_file.is_none() {
        tracing::warn!(
            "deliveries aren't signed, so customers can't tell who sent them; see --signing-secret-file"
        );
    }
    tracing::info!(%address, "taking events at POST /publish");
    let limits = ServeLimits { connections: args.http.max_connections, idle: args.http.idle_timeout };
    let mut serving = tokio::spawn(serve(listener, server.router(), limits, shutdown.drain.clone()));

    tokio::select! {
        // First, since a drain ends the server as well.
        biased;
        () = shutdown.drain.cancelled() => {}
        _ = &mut dispatching => anyhow::bail!("the dispatcher broke down; its panic stands above"),
        _ = &mut serving => anyhow::bail!("the HTTP server broke down; its panic stands above"),
    }
    drain(&*queue, serving, dispatching, args.delivery.drain_timeout, &shutdown.abort).await
}

/// Lets requests in flight finish, then deliveries; says what is left when the time is over.
async fn drain(
    queue: &dyn Queue,
    serving: JoinHandle<()>,
    mut dispatching: JoinHandle<()>,
    time: Duration,
    abort: &CancellationToken,
) -> anyhow::Result<()> {
    let finished = async {
        drop(serving.await);
        queue.close();
        drop((&mut dispatching).await);
    };
    let in_time = abort.run_until_cancelled(tokio::time::timeout(time, finished)).await;
    queue.close();
    dispatching.abort();
    let left = queue.abandoned();
    let what_is_left =
        format!("{} jobs may not have been delivered and are gone with this process", left.len());
    match in_time {
        // At once means at once: no list.
        None => Err(Interrupted).context(what_is_left),
        Some(_) if left.is_empty() => {
            tracing::info!("stopped; nothing is left");
            Ok(())
        }
        Some(_) => {
            for job in &left {
                tracing::warn!(message_id = %job.id, endpoint = %job.url, "may not have been delivered");
            }
            anyhow::bail!("{what_is_left}; --drain-timeout gives them more time")
        }
    }
}

impl Args {
    fn open_envelope(&self) -> anyhow::Result<Envelope> {
        let key = PublicKey::read(&self.public_key).context("--public-key")?;
        Ok(match self.envelope {
            EnvelopeKind::RsaOaep => Envelope::RsaOaep(key),
            EnvelopeKind::Jwe => {
                let reuse = KeyReuse::try_new(self.key_reuse, self.key_reuse_bytes, self.key_reuse_age)
                    .map_err(|error| UsageError(format!("--key-reuse: {error}")))?;
                Envelope::Jwe(Sealer::new(key, reuse))
            }
        })
    }

    fn deliver_config(&self) -> anyhow::Result<DeliverConfig> {
        let secrets = self.signing_secret_file.as_deref().map(Secret::read_all).transpose();
        let extra_roots = match &self.delivery.ca_file {
            None => ExtraRoots::default(),
            Some(path) => {
                let pem =
                    std::fs::read(path).with_context(|| format!("--ca-file: read {}", path.display()))?;
                ExtraRoots::from_pem(&pem).map_err(|error| UsageError(error.to_string()))?
            }
        };
        Ok(DeliverConfig {
            time_limit: self.delivery.delivery_timeout,
            guard: EgressGuard::new(self.delivery.allow_net.clone()),
            extra_roots,
            signer: secrets.context("--signing-secret-file")?.map(Signer::new),
            // Endpoints of many tenants may share a host.
            idle_connections: self.delivery.in_flight,
        })
    }

    fn queue_config(&self, policy: &RetryPolicy) -> QueueConfig {
        QueueConfig {
            ordered: self.ordered,
            max_jobs: self.limits.max_queue_size,
            max_bytes: self.limits.max_queue_bytes,
            in_flight: self.delivery.in_flight,
            lane_in_flight: self.delivery.endpoint_in_flight,
            lease: self.delivery.delivery_timeout.saturating_add(LEASE_MARGIN),
            retry: policy.clone(),
        }
    }
}
