//! Jobs of endpoints that were changed at another server.

use bytes::Bytes;

use super::*;
use crate::common::id::MessageId;
use crate::common::job::{ContentType, Job, TraceContext};
use crate::deliver::egress::EgressGuard;
use crate::deliver::{DeliverConfig, ExtraRoots};
use crate::queue::QueueConfig;
use crate::queue::open::{self, Backend};
use crate::registry::two_servers::TwoServers;

async fn dispatcher(registry: Registry) -> Dispatcher {
    let clock = Clock::start();
    let deliver = DeliverConfig {
        time_limit: Duration::from_secs(1),
        guard: EgressGuard::default(),
        extra_roots: ExtraRoots::default(),
        idle_connections: 1,
    };
    let config = QueueConfig {
        ordered: false,
        max_jobs: 10,
        max_bytes: 10_000,
        in_flight: 8,
        lane_in_flight: 8,
        lease: Duration::from_secs(60),
        retry: RetryPolicy::default(),
        history: 10,
    };
    Dispatcher {
        queue: open::open(Backend::Memory, config, clock).await.unwrap(),
        deliverer: Deliverer::new(deliver, clock),
        registry,
        direct_signer: None,
        policy: RetryPolicy::default(),
        max_lane_block: Duration::from_secs(60),
        in_flight: 8,
        metrics: Arc::new(Metrics::new()),
        clock,
    }
}

/// What becomes of a job of that endpoint.
async fn verdict_on(dispatcher: &Dispatcher, endpoint: &Endpoint) -> Verdict {
    let target = Target::Endpoint(endpoint.tenant, endpoint.id);
    let job = Job {
        id: MessageId::new(),
        tenant: endpoint.tenant.to_string().into(),
        lane: target.lane(),
        ordered: false,
        target,
        content_type: ContentType::Jose,
        body: Bytes::from_static(b"sealed"),
        published_at: dispatcher.clock.now(),
        trace: TraceContext::new(),
    };
    dispatcher.queue.push(vec![job]).await.unwrap();
    let lease = dispatcher.queue.claim(1).await.unwrap().pop().unwrap();
    let (verdict, attempt) = dispatcher.deliver(&lease).await;
    // Else the next one waits for it.
    let settlement = Settlement { lease, verdict: Verdict::Done, attempt };
    dispatcher.queue.settle(&[settlement]).await.unwrap();
    verdict
}

#[tokio::test]
async fn an_endpoint_that_another_server_made_or_enabled_just_now_is_attempted() {
    let Some(TwoServers { one, deaf, .. }) = TwoServers::open().await else { return };
    let dispatcher = dispatcher(deaf).await;
    // It names an address that the guard refuses: the attempt was made, and isn't repeated.
    let attempted = |verdict| matches!(verdict, Verdict::Dead { cause: Cause::Refused(_) });
    let endpoint = TwoServers::endpoint(&one).await;
    assert!(attempted(verdict_on(&dispatcher, &endpoint).await), "made");
    TwoServers::enable(&one, &endpoint, false).await;
    dispatcher.registry.refreshed().await.unwrap();
    assert_eq!(verdict_on(&dispatcher, &endpoint).await, Verdict::Dead { cause: Cause::Disabled });
    TwoServers::enable(&one, &endpoint, true).await;
    assert!(attempted(verdict_on(&dispatcher, &endpoint).await), "enabled");
    one.delete_endpoint(endpoint.tenant, endpoint.id, None).await.unwrap();
    dispatcher.registry.refreshed().await.unwrap();
    assert_eq!(verdict_on(&dispatcher, &endpoint).await, Verdict::Dropped);
}

#[tokio::test]
async fn a_job_is_neither_dropped_nor_dead_while_the_registry_can_not_be_asked() {
    let Some(servers) = TwoServers::open().await else { return };
    let dispatcher = dispatcher(servers.deaf.clone()).await;
    let endpoint = TwoServers::endpoint(&servers.one).await;
    servers.lose().await;
    let verdict = verdict_on(&dispatcher, &endpoint).await;
    assert!(matches!(verdict, Verdict::Retry { endpoint: EndpointState::NotAsked, .. }), "{verdict:?}");
}
