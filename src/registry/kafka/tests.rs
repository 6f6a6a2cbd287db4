#![expect(clippy::print_stdout, reason = "durations are printed for people")]

use std::time::{Duration, Instant};

use super::*;
use crate::common::crypto::api_key::{ApiKey, KeyKind};
use crate::common::crypto::signature::Secret;
use crate::common::crypto::tests::public_key;
use crate::common::kafka::Topics;
use crate::common::kafka::admin::{Admin, Deadline, WantedTopic};
use crate::common::test_services;
use crate::registry::endpoint::{DisabledReason, EndpointPatch};
use crate::registry::error::RegistryError;
use crate::registry::limits::LimitOverrides;
use crate::registry::record::{self, Write};
use crate::registry::state::{Change, State};
use crate::registry::store::Store;
use crate::registry::tenant::Tenant;
use crate::registry::tests::{Home, add_endpoint, name, other_key, settings, subscribed, tenant_with_key};
use crate::registry::{Principal, Registry, RegistryPlace, TenantRef};

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

impl Home {
    /// Returns a home in the Kafka that all tests share, in a topic of its own.
    pub(in crate::registry) async fn in_kafka() -> Self {
        let brokers = test_services::kafka_brokers();
        let topic = format!("test-{}", Uuid::new_v4().simple());
        let topics = Topics::parse("unused", &topic).unwrap();
        let config = KafkaConfig::parse(&brokers, topics, Duration::from_secs(10)).unwrap();
        let home = Self { folder: tempfile::tempdir().unwrap(), place: RegistryPlace::Kafka(config) };
        home.make_topic().await;
        home
    }

    /// Creates the topic as `whk kafka-setup` does.
    async fn make_topic(&self) {
        let (admin, topic) = (Admin::open(self.kafka()).unwrap(), &self.kafka().topics.registry);
        let settings = vec![("cleanup.policy", "compact".to_owned())];
        let wanted = WantedTopic { name: topic.clone(), partitions: 1, replication: 1, settings };
        admin.create(&[wanted]).await.unwrap();
        admin.wait_until_ready(&[topic.as_str()], Deadline::new(Duration::from_secs(30))).await.unwrap();
    }

    fn kafka(&self) -> &KafkaConfig {
        match &self.place {
            RegistryPlace::Kafka(config) => config,
            _ => panic!("the registry isn't in Kafka"),
        }
    }

    async fn open_server(&self) -> Registry {
        self.open().await.unwrap()
    }

    /// Writes records as a server does, whatever their content.
    async fn write(&self, writes: &[(&str, Option<&str>)]) {
        let writes: Vec<Write> =
            writes.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
        let writer = Writer::take_over(self.kafka(), KafkaContext::default()).await.unwrap();
        let (_, written) = writer.write(&Uuid::new_v4().to_string(), &writes, 0).await;
        written.unwrap();
    }

    async fn delete_topic(&self) {
        let (admin, topic) = (Admin::open(self.kafka()).unwrap(), self.kafka().topics.registry.as_str());
        admin.delete(&[topic]).await.unwrap();
        admin.wait_until_gone(&[topic], Deadline::new(PATIENCE)).await.unwrap();
    }
}

fn store(registry: &Registry) -> &KafkaStore {
    match &*registry.0.store {
        Store::Kafka(store, _) => store,
        _ => panic!("the registry isn't in Kafka"),
    }
}

async fn until(most: Duration, what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < most, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("{what}: {:?}", started.elapsed());
}

async fn make(registry: &Registry, text: &str) -> Result<Arc<Tenant>, RegistryError> {
    registry.create_tenant(name(text), LimitOverrides::default()).await
}

fn has(registry: &Registry, text: &str) -> bool {
    registry.tenant(&TenantRef::Name(text.into())).is_some()
}

#[tokio::test]
async fn another_server_sees_a_change_within_a_second() {
    let home = Home::in_kafka().await;
    let (one, other) = (home.open_server().await, home.open_server().await);
    let tenant = tenant_with_key(&one, "Acme").await;
    let endpoint = add_endpoint(&one, tenant, &["*"]).await;
    let (record, key) = one.create_api_key(Some(tenant), None).await.unwrap();
    until(SECOND, "made", || other.authenticate(&key.hash()).is_some()).await;
    assert_eq!(subscribed(&other, "x", None), 1);
    let there = other.endpoint(tenant, endpoint.id).unwrap();
    assert_eq!(format!("{there:?}"), format!("{endpoint:?}"));
    assert_eq!(there.settings.url, endpoint.settings.url);

    other.revoke_api_key(Some(tenant), record.id).await.unwrap();
    until(SECOND, "revoked", || one.authenticate(&key.hash()).is_none()).await;
    let patch = EndpointPatch { enabled: Some(false), ..EndpointPatch::default() };
    other.update_endpoint(tenant, endpoint.id, Some(1), patch, DisabledReason::ByTenant).await.unwrap();
    until(SECOND, "disabled", || subscribed(&one, "x", None) == 0).await;
    other.add_public_key(tenant, other_key()).await.unwrap();
    until(SECOND, "rotated", || one.public_keys(tenant).len() == 2).await;
    other.delete_tenant(tenant, None).await.unwrap();
    until(SECOND, "deleted", || one.count() == (0, 0)).await;
    assert_eq!(home.open_server().await.count(), (0, 0), "deletions are in the log");
    let left = read_all(home.kafka(), &ServerId::random()).await.unwrap().records;
    assert!(left.is_empty(), "no record of the tenant is left");
}

#[tokio::test]
async fn another_server_knows_an_answered_change_once_it_refreshes() {
    let home = Home::in_kafka().await;
    let (one, other) = (home.open_server().await, home.open_server().await);
    let mut asking = Duration::ZERO;
    for round in 0..20 {
        let (here, there) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let tenant = make(here, &format!("t{round}")).await.unwrap();
        let started = Instant::now();
        there.refreshed().await.unwrap();
        asking += started.elapsed();
        assert!(there.tenant(&tenant.id.into()).is_some(), "round {round}");
        let (_, key) = here.create_api_key(Some(tenant.id), None).await.unwrap();
        assert_eq!(there.identify(&key.hash()).await.unwrap(), Some(Principal::Tenant(tenant.id)));
        let taken = make(there, &format!("t{round}")).await;
        assert!(matches!(taken, Err(RegistryError::Conflict(_))), "{taken:?}");
    }
    println!("twenty refreshes: {asking:?}");
    let unknown_key = ApiKey::generate(KeyKind::Tenant).unwrap();
    assert_eq!(one.identify(&unknown_key.hash()).await.unwrap(), None);
}

#[tokio::test]
async fn one_of_two_concurrent_tenants_with_the_same_name_is_created() {
    let home = Home::in_kafka().await;
    let (one, other) = (home.open_server().await, home.open_server().await);
    let started = Instant::now();
    for round in 0..10 {
        let text = format!("t{round}");
        let (first, second) = tokio::join!(make(&one, &text), make(&other, &text));
        let (made, refused) = if first.is_ok() { (first, second) } else { (second, first) };
        assert!(matches!(refused, Err(RegistryError::Conflict(_))), "{refused:?}");
        other.refreshed().await.unwrap();
        assert_eq!(other.tenant(&TenantRef::Name(text)).unwrap().id, made.unwrap().id);
    }
    println!("ten times two at once: {:?}", started.elapsed());
    assert_eq!(home.open_server().await.count(), (10, 0));
}

#[tokio::test]
async fn a_limit_holds_when_servers_change_concurrently() {
    let home = Home::in_kafka().await;
    let limits = LimitOverrides { endpoints: std::num::NonZeroU32::new(12), ..LimitOverrides::default() };
    let (one, other) = (home.open_server().await, home.open_server().await);
    let tenant = one.create_tenant(name("Acme"), limits).await.unwrap().id;
    one.add_public_key(tenant, public_key()).await.unwrap();
    let mut adding = tokio::task::JoinSet::new();
    for registry in (0..10).flat_map(|_| [one.clone(), other.clone()]) {
        let secret = Secret::generate().unwrap();
        adding.spawn(async move { registry.add_endpoint(tenant, settings(&["*"]), secret).await });
    }
    let started = Instant::now();
    let added = adding.join_all().await;
    println!("twenty at once: {:?}", started.elapsed());
    let refused = added.iter().filter(|added| matches!(added, Err(RegistryError::Limit { max: 12, .. })));
    assert_eq!((added.iter().flatten().count(), refused.count()), (12, 8), "{added:?}");
    assert_eq!(home.open_server().await.count(), (1, 12));
}

#[tokio::test]
async fn one_of_several_starting_servers_creates_the_registry_and_the_provider_key() {
    let home = Home::in_kafka().await;
    let key = Vault::generate_key().unwrap();
    let homes = [(); 3].map(|()| {
        let home = Home { folder: tempfile::tempdir().unwrap(), place: home.place.clone() };
        std::fs::write(home.folder.path().join("secret.key"), &*key).unwrap();
        home
    });
    let (first, second, third) = tokio::join!(homes[0].open(), homes[1].open(), homes[2].open());
    let mut starting = tokio::task::JoinSet::new();
    for registry in [first.unwrap(), second.unwrap(), third.unwrap()] {
        starting.spawn(async move {
            let key = ApiKey::generate(KeyKind::Provider).unwrap();
            registry.first_provider_key(&key).await.unwrap().then_some(key)
        });
    }
    let made: Vec<ApiKey> = starting.join_all().await.into_iter().flatten().collect();
    assert_eq!(made.len(), 1);
    let registry = homes[0].open_server().await;
    assert_eq!(registry.authenticate(&made[0].hash()), Some(Principal::Provider));
    assert_eq!(registry.api_keys(None, None, 9).items.len(), 1);
}

#[tokio::test]
async fn an_open_transaction_of_a_killed_server_is_never_visible() {
    let home = Home::in_kafka().await;
    let (one, other) = (home.open_server().await, home.open_server().await);
    make(&one, "kept").await.unwrap();
    let half = [
        ("tenant/x".to_owned(), Some("{}".to_owned())),
        (
            format!("tenant/{}", crate::common::id::TenantId::new()),
            Some(r#"{"v":1,"name":"half","created_at":0,"version":1}"#.to_owned()),
        ),
    ];
    let writer = Writer::take_over(home.kafka(), KafkaContext::default()).await.unwrap();
    writer.send("killed", &half, 0).await.unwrap();
    // A killed process neither commits nor aborts.
    std::mem::forget(writer);
    other.refreshed().await.unwrap();
    assert!(has(&other, "kept") && !has(&other, "half"));
    assert_eq!(home.open_server().await.count().0, 1, "a server that starts meanwhile doesn't see it either");
    make(&other, "half").await.unwrap();
    one.refreshed().await.unwrap();
    assert_eq!((one.count().0, other.count().0), (2, 2));
    assert_eq!(home.open_server().await.count().0, 2);
}

#[tokio::test]
async fn a_fenced_writer_decides_again() {
    let home = Home::in_kafka().await;
    let (one, other) = (home.open_server().await, home.open_server().await);
    make(&one, "a").await.unwrap();
    assert!(store(&one).writer.lock().await.is_some(), "the server keeps its writer");
    make(&other, "b").await.unwrap();
    let taken = make(&one, "b").await;
    assert!(matches!(taken, Err(RegistryError::Conflict(_))), "{taken:?}");
    make(&one, "c").await.unwrap();
    other.refreshed().await.unwrap();
    assert!(has(&other, "a") && has(&other, "b") && has(&other, "c"));
    let started = Instant::now();
    for number in 0..10 {
        make(&one, &format!("alone {number}")).await.unwrap();
    }
    println!("ten changes of one server: {:?}", started.elapsed());
    let started = Instant::now();
    for number in 0..10 {
        let registry = if number % 2 == 0 { &one } else { &other };
        make(registry, &format!("in turn {number}")).await.unwrap();
    }
    println!("ten changes of two servers in turn: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_has_not_read_back_its_change_makes_no_other() {
    let mut home = Home::in_kafka().await;
    let RegistryPlace::Kafka(config) = &mut home.place else { panic!("the registry isn't in Kafka") };
    config.timeout = 2 * SECOND;
    let unnotified = home.open_server().await;
    let Store::Kafka(_, follower) = &*unnotified.0.store else { panic!("the registry isn't in Kafka") };
    follower.stop();
    // The thread may still be running when the first change is written.
    let mut made = 0;
    let unsure = loop {
        match make(&unnotified, &format!("a{made}")).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(unsure, RegistryError::Unsure(_)), "{unsure:?}");
    let again = make(&unnotified, &format!("a{made}")).await;
    assert!(matches!(again, Err(RegistryError::Behind(_))), "{again:?}");
    assert_eq!(home.open_server().await.count().0, made + 1, "the last change was written once");
}

#[tokio::test]
async fn ten_thousand_tenants_are_loaded_at_the_start() {
    let home = Home::in_kafka().await;
    let registry = home.open_server().await;
    let sample = make(&registry, "sample").await.unwrap();
    let state = State::new(crate::registry::tests::LIMITS);
    for batch in 0..10 {
        let tenants = (0..1_000).map(|number| {
            let id = crate::common::id::TenantId::new();
            Change::PutTenant(Arc::new(Tenant {
                id,
                name: name(&format!("t{batch}-{number}")),
                ..(*sample).clone()
            }))
        });
        let writes =
            record::writes(&tenants.collect::<Vec<_>>(), &state, &store(&registry).log.replica.vault)
                .unwrap();
        let writes: Vec<(&str, Option<&str>)> =
            writes.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        home.write(&writes).await;
    }
    let started = Instant::now();
    let again = home.open_server().await;
    println!("ten thousand tenants: {:?}", started.elapsed());
    assert_eq!(again.count().0, 10_001);
    registry.refreshed().await.unwrap();
    assert_eq!(registry.count().0, 10_001, "the server that followed has them too");
}

#[tokio::test]
async fn a_replaced_topic_is_not_written_to_and_tenants_stay_known() {
    let home = Home::in_kafka().await;
    let registry = home.open_server().await;
    let tenant = tenant_with_key(&registry, "Acme").await;
    home.delete_topic().await;
    home.make_topic().await;
    let gone = |registry: &Registry| store(registry).log.progress.borrow().is_gone;
    until(PATIENCE, "noticed that the log was replaced", || gone(&registry)).await;
    let refreshed = registry.refreshed().await;
    assert!(
        matches!(&refreshed, Err(RegistryError::Behind(error)) if matches!(**error, StoreError::Gone)),
        "{refreshed:?}"
    );
    assert!(make(&registry, "Other").await.is_err());
    assert!(registry.tenant(&tenant.into()).is_some());
    assert!(
        read_all(home.kafka(), &ServerId::random()).await.unwrap().meta.is_none(),
        "the new topic stays empty"
    );
}

#[tokio::test]
async fn a_change_right_after_the_topic_was_replaced_is_refused() {
    let home = Home::in_kafka().await;
    let registry = home.open_server().await;
    make(&registry, "Acme").await.unwrap();
    home.delete_topic().await;
    home.make_topic().await;
    let made = make(&registry, "Other").await;
    println!("{made:?}");
    assert!(made.is_err());
    assert!(read_all(home.kafka(), &ServerId::random()).await.unwrap().records.is_empty());
}

#[tokio::test]
async fn all_servers_need_the_same_secret_key() {
    let home = Home::in_kafka().await;
    drop(home.open_server().await);
    let elsewhere = Home { folder: tempfile::tempdir().unwrap(), place: home.place.clone() };
    let missing = elsewhere.open_error().await;
    assert!(missing.contains("in Kafka") && missing.contains("copy secret.key"), "{missing}");
    assert!(
        !elsewhere.folder.path().join("secret.key").exists(),
        "no new key is created for an existing registry"
    );
    std::fs::write(elsewhere.folder.path().join("secret.key"), &*Vault::generate_key().unwrap()).unwrap();
    let wrong = elsewhere.open_error().await;
    assert!(wrong.contains("in Kafka") && wrong.contains("--secret-key-file"), "{wrong}");
    let key = std::fs::read(home.folder.path().join("secret.key")).unwrap();
    std::fs::write(elsewhere.folder.path().join("secret.key"), key).unwrap();
    drop(elsewhere.open_server().await);
}

#[tokio::test]
async fn damaged_records_are_skipped_and_a_newer_format_is_refused() {
    let home = Home::in_kafka().await;
    let registry = home.open_server().await;
    let tenant = tenant_with_key(&registry, "Acme").await;
    home.write(&[(&format!("tenant/{tenant}"), Some("{")), ("what/is/this", Some("{}"))]).await;
    make(&registry, "Other").await.unwrap();
    assert!(
        has(&registry, "Acme") && has(&registry, "Other"),
        "the server continues with the tenants it knew"
    );
    assert_eq!(home.open_server().await.count().0, 1, "the intact tenant is loaded");
    home.write(&[(META, Some(r#"{"v":2,"id":"x"}"#))]).await;
    let newer = home.open_error().await;
    assert!(newer.contains("written by a newer whk (format 2"), "{newer}");
    until(PATIENCE, "refused", || store(&registry).log.progress.borrow().is_gone).await;
    home.write(&[(META, None)]).await;
    assert!(home.open_error().await.contains("meta is damaged: it is missing"));
}

#[tokio::test]
async fn kafka_holds_no_secret() {
    let home = Home::in_kafka().await;
    let registry = home.open_server().await;
    let tenant = tenant_with_key(&registry, "Acme").await;
    let secret = Secret::generate().unwrap();
    registry.add_endpoint(tenant, settings(&["*"]), secret.clone()).await.unwrap();
    let (_, key) = registry.create_api_key(Some(tenant), None).await.unwrap();
    let there = read_all(home.kafka(), &ServerId::random()).await.unwrap();
    let there = format!("{:?} {:?}", there.records, there.meta);
    assert!(there.contains("Acme"), "Kafka holds the name of the tenant");
    let secret = secret.reveal();
    for hidden in
        ["t-secret", "h-secret", &secret["whsec_".len()..], &key.reveal()["whk_tenant_".len() + 4..]]
    {
        assert!(!there.contains(hidden), "{hidden}");
    }
}

#[tokio::test]
async fn the_error_for_a_missing_topic_names_kafka_setup() {
    let home = Home::in_kafka().await;
    home.delete_topic().await;
    let missing = home.open_error().await;
    assert!(missing.contains("whk kafka-setup"), "{missing}");
}
