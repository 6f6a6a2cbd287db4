mod panics;
mod refresh;

use bytes::Bytes;

use super::*;
use crate::common::id::MessageId;
use crate::common::job::{ContentType, Job, TraceContext};
use crate::deliver::egress::EgressGuard;
use crate::deliver::{DeliverConfig, ExtraRoots};
use crate::queue::QueueConfig;
use crate::queue::open::{self, Backend};

/// Duration of a lease.
const LEASE: Duration = Duration::from_secs(60);

/// Makes a dispatcher with a queue in memory.
async fn dispatcher(registry: Registry, policy: RetryPolicy) -> Dispatcher {
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
        lease: LEASE,
        retry: policy.clone(),
        history: 10,
    };
    Dispatcher {
        queue: open::open(Backend::Memory, config, clock).await.unwrap(),
        deliverer: Deliverer::new(deliver, clock),
        registry,
        direct_signer: None,
        policy,
        max_lane_block: Duration::from_secs(60),
        in_flight: 8,
        metrics: Arc::new(Metrics::new()),
        clock,
    }
}

fn job(target: Target, tenant: &str, clock: Clock) -> Job {
    Job {
        id: MessageId::new(),
        tenant: tenant.into(),
        lane: target.lane(),
        ordered: false,
        target,
        content_type: ContentType::Jose,
        body: Bytes::from_static(b"sealed"),
        published_at: clock.now(),
        trace: TraceContext::new(),
    }
}
