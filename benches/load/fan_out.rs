//! The cost of publishing one event to many endpoints: first in this process, without HTTP and deliveries, then with a
//! real server that has ten thousand tenants.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use whk::common::clock::Clock;
use whk::common::crypto::envelope::KeyReuse;
use whk::common::crypto::keys::PublicKey;
use whk::common::crypto::signature::Secret;
use whk::common::data_dir::DataDir;
use whk::common::endpoint_url::EndpointUrl;
use whk::common::event_type::{EventFilter, EventType};
use whk::common::id::TenantId;
use whk::common::job::{ContentType, TraceContext};
use whk::common::metrics::Metrics;
use whk::common::retry::{RetryPolicy, Verdict};
use whk::deliver::egress::EgressGuard;
use whk::publish::{Audience, Event, Publisher};
use whk::queue::memory::MemoryQueue;
use whk::queue::{QueueConfig, Settlement};
use whk::registry::endpoint::{EndpointSettings, EnvelopeKind};
use whk::registry::headers::StaticHeaders;
use whk::registry::limits::LimitOverrides;
use whk::registry::name::Name;
use whk::registry::{self, Limits, Registry, RegistryPlace};

use crate::process::{Process, own, whk};
use crate::{sink_count, wait_for_sink};

const LIMITS: Limits = Limits { queued_jobs: 1_000_000, publishes_per_second: 1_000_000, endpoints: 100_000 };

/// Time over which each figure after the first event is measured.
const WARM: Duration = Duration::from_secs(1);

/// Prints the figures. `most` is the number of tenants.
pub(crate) async fn run(public_key: &Path, payload: &str, most: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let sink = Process::start(&mut own("sink")?)?;
    let key = PublicKey::read(public_key)?;
    let sizes: Vec<usize> = [1, 10, 1_000, 10_000].into_iter().filter(|size| *size <= most).collect();
    {
        let dir = DataDir::open(folder.path())?;
        let registry = registry::open(&RegistryPlace::DataDir, &dir, None, LIMITS).await?;
        let started = Instant::now();
        subscribe(&registry, &key, &sizes, most, sink.port).await?;
        let rate = (most * 3) as f64 / started.elapsed().as_secs_f64();
        println!(
            "\n{most} tenants with a key and an endpoint each, created at {rate:.0} changes/s (one fsync each)"
        );
        let (_, key) = registry.create_api_key(None, None).await?;
        dir.write_provider_key(&key)?;
        println!("\npublishing {} bytes to N endpoints, in process, without deliveries", payload.len());
        println!(
            "{:<44} {:>12} {:>12} {:>12} {:>12}",
            "", "first, ms", "events/s", "messages/s", "us/message"
        );
        for &size in &sizes {
            measure(
                &registry,
                &format!("{size} tenants, 1 endpoint each"),
                &format!("tenants.{size}"),
                payload,
            )
            .await?;
        }
        for &size in &sizes {
            measure(&registry, &format!("1 tenant, {size} endpoints"), &format!("one.{size}"), payload)
                .await?;
        }
    }
    serve(folder.path(), &sink, payload, most)
}

/// Subscribes the first `size` tenants to `tenants.<size>`, for each size. One more tenant gets `size` endpoints for
/// `one.<size>`.
async fn subscribe(
    registry: &Registry,
    key: &PublicKey,
    sizes: &[usize],
    most: usize,
    port: u16,
) -> anyhow::Result<()> {
    let making = (0..most).map(|number| {
        let (registry, key) = (registry.clone(), key.clone());
        let wanted = sizes.iter().filter(|size| number < **size).map(|size| format!("tenants.{size}"));
        let wanted: Vec<String> = wanted.collect();
        async move {
            let tenant = add_tenant(&registry, &format!("tenant {number}"), key).await?;
            add_endpoint(&registry, tenant, &wanted, port).await
        }
    });
    for made in making {
        made.await?;
    }
    let one = add_tenant(registry, "one", key.clone()).await?;
    for number in 0..most.min(10_000) {
        let wanted = sizes.iter().filter(|size| number < **size).map(|size| format!("one.{size}"));
        add_endpoint(registry, one, &wanted.collect::<Vec<_>>(), port).await?;
    }
    Ok(())
}

async fn add_tenant(registry: &Registry, name: &str, key: PublicKey) -> anyhow::Result<TenantId> {
    let tenant = registry.create_tenant(Name::of_tenant(name)?, LimitOverrides::default()).await?;
    registry.add_public_key(tenant.id, key).await?;
    Ok(tenant.id)
}

async fn add_endpoint(
    registry: &Registry,
    tenant: TenantId,
    events: &[String],
    port: u16,
) -> anyhow::Result<()> {
    let settings = EndpointSettings {
        url: EndpointUrl::parse(&format!("http://127.0.0.1:{port}/{tenant}"))?,
        description: None,
        events: events.iter().map(|text| EventFilter::parse(text)).collect::<Result<_, _>>()?,
        headers: StaticHeaders::default(),
        content_type: ContentType::Jose,
        envelope: EnvelopeKind::Jwe,
        ordered: false,
    };
    registry.add_endpoint(tenant, settings, Secret::generate()?).await?;
    Ok(())
}

async fn measure(registry: &Registry, name: &str, kind: &str, payload: &str) -> anyhow::Result<()> {
    let clock = Clock::start();
    let max_jobs = 100_000;
    let config = QueueConfig {
        ordered: false,
        max_jobs,
        max_bytes: 1 << 30,
        in_flight: 1_000_000,
        lane_in_flight: 1_000_000,
        lease: Duration::from_secs(60),
        retry: RetryPolicy::default(),
        history: 1_000,
    };
    let publisher = Publisher {
        direct: None,
        registry: registry.clone(),
        key_reuse: KeyReuse::default(),
        guard: EgressGuard::default(),
        queue: Arc::new(MemoryQueue::new(config, clock)),
        max_event_bytes: 1 << 30,
        tenant_queued_bytes: 1 << 30,
        sealing_budget: Semaphore::new(1 << 20),
        metrics: Arc::new(Metrics::new()),
        clock,
    };
    let payload: &RawValue = serde_json::from_str(payload)?;
    let publish = || {
        let kind = EventType::parse(kind).map_err(anyhow::Error::from);
        async {
            let event = Event { kind: kind?, payload, trace: TraceContext::new(), idempotency_key: None };
            anyhow::Ok(publisher.publish(event, Audience::Everyone).await?.messages.len())
        }
    };
    let started = Instant::now();
    let messages = publish().await?;
    let first = started.elapsed();
    let (mut spent, mut events) = (Duration::ZERO, 0_usize);
    while spent < WARM {
        if publisher.queue.depth().await?.unsettled() as usize + messages > max_jobs {
            drain(&publisher).await?;
        }
        let started = Instant::now();
        publish().await?;
        spent += started.elapsed();
        events += 1;
    }
    let per_second = events as f64 / spent.as_secs_f64();
    let message_rate = per_second * messages as f64;
    println!(
        "{name:<44} {:>12.2} {per_second:>12.0} {message_rate:>12.0} {:>12.2}",
        first.as_secs_f64() * 1_000.0,
        1e6 / message_rate,
    );
    Ok(())
}

async fn drain(publisher: &Publisher) -> anyhow::Result<()> {
    while publisher.queue.depth().await?.unsettled() > 0 {
        let leases = publisher.queue.claim(10_000).await?;
        let settled = |lease| Settlement { lease, verdict: Verdict::Done, attempt: None };
        publisher.queue.settle(&leases.into_iter().map(settled).collect::<Vec<_>>()).await?;
    }
    Ok(())
}

/// Starts a server with these tenants and prints its time to start, its memory, and the time of one event to all tenants.
fn serve(folder: &Path, sink: &Process, payload: &str, most: usize) -> anyhow::Result<()> {
    let mut command = whk();
    command.args(["--log-format", "json", "publish-server", "--port", "0", "--allow-net", "127.0.0.0/8"]);
    command.args(["--max-queue-size", "100000"]).arg("--data-dir").arg(folder);
    let started = Instant::now();
    let server = Process::start(&mut command)?;
    let listening = started.elapsed();
    println!(
        "\na server with {} tenants and {} endpoints: ready after {:.0} ms, {:.1} MiB resident",
        most + 1,
        most + most.min(10_000),
        listening.as_secs_f64() * 1_000.0,
        server.resident_mib()?,
    );
    let key = std::fs::read_to_string(DataDir::provider_key_in(folder))?;
    for turn in ["first", "second"] {
        let before = sink_count(sink.port)?;
        let started = Instant::now();
        let body = format!(r#"{{"type":"tenants.{most}","payload":{payload}}}"#);
        let answered = post(server.port, &key, &body)?;
        let accepted = started.elapsed();
        anyhow::ensure!(
            answered.starts_with("HTTP/1.1 202"),
            "{}",
            answered.lines().next().unwrap_or_default()
        );
        wait_for_sink(sink.port, before + most as u64)?;
        println!(
            "{turn} event to {most} tenants: 202 after {:.0} ms, all delivered after {:.0} ms, peak {:.1} MiB",
            accepted.as_secs_f64() * 1_000.0,
            started.elapsed().as_secs_f64() * 1_000.0,
            server.peak_mib()?,
        );
    }
    Ok(())
}

fn post(port: u16, key: &str, body: &str) -> anyhow::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: bench\r\nconnection: close\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    Ok(answer)
}
