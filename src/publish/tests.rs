use std::collections::HashSet;
use std::time::Duration;

use serde_json::value::RawValue;

use super::*;
use crate::common::crypto::envelope::{Envelope, Opener};
use crate::common::crypto::keys::{PrivateKey, PublicKey};
use crate::common::crypto::signature::Secret;
use crate::common::crypto::tests::{fixture_text, private_key, public_key};
use crate::common::data_dir::DataDir;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::EventFilter;
use crate::common::id::TenantId;
use crate::common::job::{ContentType, TraceContext};
use crate::common::retry::RetryPolicy;
use crate::queue::memory::MemoryQueue;
use crate::queue::{QueueConfig, QueueError};
use crate::registry::endpoint::{EndpointSettings, EnvelopeKind};
use crate::registry::headers::StaticHeaders;
use crate::registry::limits::LimitOverrides;
use crate::registry::name::Name;
use crate::registry::{self, Limits, Principal, RegistryPlace};

/// A publisher over an in-memory queue, and the data dir that its registry needs.
struct TestPublisher {
    publisher: Publisher,
    _data: (DataDir, tempfile::TempDir),
}

/// Creates a publisher whose queue and sealing budget hold `max_bytes`.
async fn test_publisher(max_bytes: usize) -> TestPublisher {
    let folder = tempfile::tempdir().unwrap();
    let dir = DataDir::open(folder.path()).unwrap();
    let limits = Limits { queued_jobs: 1_000, publishes_per_second: 1_000, endpoints: 1_000 };
    let registry = registry::open(&RegistryPlace::DataDir, &dir, None, limits).await.unwrap();
    let clock = Clock::start();
    let config = QueueConfig {
        ordered: false,
        max_jobs: 1_000,
        max_bytes,
        in_flight: 512,
        lane_in_flight: 64,
        lease: Duration::from_secs(60),
        retry: RetryPolicy::default(),
        history: 1_000,
    };
    let publisher = Publisher {
        direct: None,
        registry,
        key_reuse: KeyReuse::default(),
        guard: EgressGuard::default(),
        queue: Arc::new(MemoryQueue::new(config, clock)),
        max_event_bytes: max_bytes,
        tenant_queued_bytes: max_bytes,
        sealing_budget: Semaphore::new(max_bytes.div_ceil(1024)),
        metrics: Arc::new(Metrics::new()),
        clock,
    };
    TestPublisher { publisher, _data: (dir, folder) }
}

fn other_private_key() -> PrivateKey {
    PrivateKey::parse(&fixture_text("keys/other_private_key.pem"), None).unwrap()
}

/// Creates a tenant with one public key, and an endpoint that subscribes to everything.
async fn subscribe(test: &TestPublisher, name: &str, key: PublicKey) -> TenantId {
    let registry = &test.publisher.registry;
    let name = Name::of_tenant(name).unwrap();
    let tenant = registry.create_tenant(name, LimitOverrides::default()).await.unwrap().id;
    registry.add_public_key(tenant, key).await.unwrap();
    let settings = EndpointSettings {
        url: EndpointUrl::parse("https://example.com/").unwrap(),
        description: None,
        events: vec![EventFilter::All],
        headers: StaticHeaders::default(),
        content_type: ContentType::Jose,
        envelope: EnvelopeKind::Jwe,
        ordered: false,
    };
    registry.add_endpoint(tenant, settings, Secret::generate().unwrap()).await.unwrap();
    tenant
}

/// Publishes `payload` to everyone, with an idempotency key if there is one.
async fn publish(
    test: &TestPublisher,
    payload: &str,
    key: Option<&str>,
) -> Result<PublishOutcome, PublishError> {
    let payload: &RawValue = serde_json::from_str(payload).unwrap();
    let idempotency_key = key.map(|key| IdempotencyKey::new(Principal::Provider, key.into()));
    let kind = EventType::parse("x").unwrap();
    let event = Event { kind, payload, trace: TraceContext::new(), idempotency_key };
    test.publisher.publish(event, Audience::Everyone).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_tenants_gets_a_body_sealed_with_its_own_key() {
    let test = test_publisher(1 << 20).await;
    let mut with_other_key = HashSet::new();
    // More than MIN_TENANTS_PER_THREAD, so that two threads seal.
    for number in 0..300 {
        let key = if number % 3 == 0 { other_private_key() } else { private_key() };
        let tenant = subscribe(&test, &format!("t{number}"), key.public().clone()).await;
        if number % 3 == 0 {
            with_other_key.insert(tenant.to_string());
        }
    }
    let published = publish(&test, r#"{"a":1}"#, None).await.unwrap();
    assert_eq!((published.messages.len(), published.refusals.len()), (300, 0));
    let leases = test.publisher.queue.claim(300).await.unwrap();
    assert_eq!(leases.len(), 300);
    let ids: HashSet<_> = leases.iter().map(|lease| lease.job.id).collect();
    assert_eq!(ids, published.messages.iter().map(|message| message.id).collect());
    for lease in leases.iter().step_by(29) {
        let opens = |key| Opener::new([key]).open(Envelope::parse(&lease.job.body).unwrap());
        let is_other = with_other_key.contains(&*lease.job.tenant);
        let (right, wrong) = match is_other {
            true => (other_private_key(), private_key()),
            false => (private_key(), other_private_key()),
        };
        assert!(opens(wrong).is_err());
        let plain: serde_json::Value = serde_json::from_slice(&opens(right).unwrap()).unwrap();
        assert_eq!(plain["id"], published.event_id.to_string());
        assert_eq!(plain["data"]["a"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_derived_from_the_idempotency_key_and_the_endpoint() {
    let test = test_publisher(1 << 20).await;
    subscribe(&test, "a", public_key()).await;
    let first = publish(&test, "1", Some("k")).await.unwrap();
    assert_eq!(publish(&test, "1", Some("k")).await.unwrap(), first);
    let other = publish(&test, "1", Some("l")).await.unwrap();
    assert!(other.event_id != first.event_id && other.messages != first.messages);
    subscribe(&test, "b", public_key()).await;
    let wider = publish(&test, "1", Some("k")).await.unwrap();
    assert_eq!((wider.event_id, wider.messages.len()), (first.event_id, 2));
    assert!(wider.messages.contains(&first.messages[0]));
    let of_tenant = IdempotencyKey::new(Principal::Tenant(TenantId::new()), b"k".to_vec());
    assert_ne!(of_tenant.event_id(), first.event_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealing_never_takes_more_memory_than_its_budget() {
    let test = test_publisher(64 << 10).await;
    for number in 0..20 {
        subscribe(&test, &format!("t{number}"), public_key()).await;
    }
    let large = format!("\"{}\"", "x".repeat(16 * 1024));
    let refused = publish(&test, &large, None).await;
    assert!(matches!(refused, Err(PublishError::Queue(QueueError::TooLarge))), "{refused:?}");
    let taken = test.publisher.sealing_budget.try_acquire_many(60).unwrap();
    let meanwhile = publish(&test, "1", None).await;
    assert!(matches!(meanwhile, Err(PublishError::Queue(QueueError::Full))), "{meanwhile:?}");
    drop(taken);
    assert_eq!(test.publisher.queue.depth().await.unwrap().unsettled(), 0);
    assert_eq!(publish(&test, "1", None).await.unwrap().messages.len(), 20);
    assert_eq!(test.publisher.sealing_budget.available_permits(), 64, "the permits are returned");
}
