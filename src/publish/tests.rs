use std::collections::HashSet;
use std::time::Duration;

use super::*;
use crate::common::crypto::envelope::{Envelope, Opener};
use crate::common::crypto::keys::PrivateKey;
use crate::common::crypto::signature::Secret;
use crate::common::crypto::tests::{fixture_text, private_key, public_key};
use crate::common::data_dir::DataDir;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::EventFilter;
use crate::common::retry::RetryPolicy;
use crate::queue::QueueConfig;
use crate::queue::memory::MemoryQueue;
use crate::registry::endpoint::{EndpointSettings, EnvelopeKind};
use crate::registry::headers::StaticHeaders;
use crate::registry::limits::LimitOverrides;
use crate::registry::name::Name;
use crate::registry::{self, Limits, RegistryPlace};

struct Home {
    publisher: Publisher,
    _data: (DataDir, tempfile::TempDir),
}

async fn home(max_bytes: usize) -> Home {
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
    Home { publisher, _data: (dir, folder) }
}

fn other_private_key() -> PrivateKey {
    PrivateKey::parse(&fixture_text("keys/other_private_key.pem"), None).unwrap()
}

async fn subscribe(home: &Home, name: &str, key: PublicKey) -> TenantId {
    let registry = &home.publisher.registry;
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

async fn publish(home: &Home, payload: &str, repeat: Option<&str>) -> Result<Published, PublishError> {
    let payload: &RawValue = serde_json::from_str(payload).unwrap();
    let repeat = repeat.map(|key| RepeatKey::new(Principal::Provider, key.into()));
    let event = Event { kind: EventType::parse("x").unwrap(), payload, trace: TraceContext::new(), repeat };
    home.publisher.publish(event, Audience::Everyone).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tenants_get_a_seal_each_of_their_own_key() {
    let home = home(1 << 20).await;
    let mut with_other_key = HashSet::new();
    // Enough for more than one thread.
    for number in 0..300 {
        let key = if number % 3 == 0 { other_private_key() } else { private_key() };
        let tenant = subscribe(&home, &format!("t{number}"), key.public().clone()).await;
        if number % 3 == 0 {
            with_other_key.insert(tenant.to_string());
        }
    }
    let published = publish(&home, r#"{"a":1}"#, None).await.unwrap();
    assert_eq!((published.messages.len(), published.refused.len()), (300, 0));
    let leases = home.publisher.queue.claim(300).await.unwrap();
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
async fn ids_of_a_repeat_are_made_from_its_key_and_the_endpoint() {
    let home = home(1 << 20).await;
    subscribe(&home, "a", public_key()).await;
    let first = publish(&home, "1", Some("k")).await.unwrap();
    assert_eq!(publish(&home, "1", Some("k")).await.unwrap(), first);
    let other = publish(&home, "1", Some("l")).await.unwrap();
    assert!(other.event_id != first.event_id && other.messages != first.messages);
    subscribe(&home, "b", public_key()).await;
    let wider = publish(&home, "1", Some("k")).await.unwrap();
    assert_eq!((wider.event_id, wider.messages.len()), (first.event_id, 2));
    assert!(wider.messages.contains(&first.messages[0]));
    let of_tenant = RepeatKey::new(Principal::Tenant(TenantId::new()), b"k".to_vec());
    assert_ne!(of_tenant.event_id(), first.event_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_sealed_takes_no_more_memory_than_the_queue() {
    let home = home(64 << 10).await;
    for number in 0..20 {
        subscribe(&home, &format!("t{number}"), public_key()).await;
    }
    let large = format!("\"{}\"", "x".repeat(16 * 1024));
    let refused = publish(&home, &large, None).await;
    assert!(matches!(refused, Err(PublishError::Queue(QueueError::TooLarge))), "{refused:?}");
    let taken = home.publisher.sealing_budget.try_acquire_many(60).unwrap();
    let meanwhile = publish(&home, "1", None).await;
    assert!(matches!(meanwhile, Err(PublishError::Queue(QueueError::Full))), "{meanwhile:?}");
    drop(taken);
    assert_eq!(home.publisher.queue.depth().await.unwrap().unsettled(), 0);
    assert_eq!(publish(&home, "1", None).await.unwrap().messages.len(), 20);
    assert_eq!(home.publisher.sealing_budget.available_permits(), 64, "given back");
}
