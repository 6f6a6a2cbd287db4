use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::endpoint::{DisabledReason, Endpoint, EndpointSettings, EnvelopeKind};
use super::headers::StaticHeaders;
use super::limits::LimitOverrides;
use super::name::Name;
use super::open::open_in;
use super::sqlite::SqliteStore;
use super::tenant::KeyState;
use super::*;
use crate::common::crypto::api_key::{ApiKey, KeyHash, KeyKind};
use crate::common::crypto::keys::PublicKey;
use crate::common::crypto::signature::Secret;
use crate::common::crypto::tests::{fixture, fixture_text, public_key};
use crate::common::data_dir::DataDir;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::{EventFilter, EventType};
use crate::common::id::EndpointId;
use crate::common::job::ContentType;
use crate::common::redis::RedisConfig;
use crate::common::test_services;

mod conformance;

pub(super) const LIMITS: Limits = Limits { queued_jobs: 100, publishes_per_second: 100, endpoints: 3 };

/// Place of one test's registry, and a data dir for its secret key.
pub(super) struct Home {
    pub(super) folder: tempfile::TempDir,
    pub(super) place: RegistryPlace,
}

impl Home {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), place: RegistryPlace::DataDir }
    }

    /// Returns a home in the Redis that all tests share, under a prefix of its own.
    pub(super) fn in_redis() -> Self {
        Self::at(&test_services::redis_url())
    }

    pub(super) fn at(url: &str) -> Self {
        let prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
        let config = RedisConfig::parse(url, &prefix).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), place: RegistryPlace::Redis(config) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) async fn open(&self) -> Result<Registry, OpenError> {
        open(&self.place, &DataDir::open(self.folder.path())?, None, LIMITS).await
    }

    fn open_database(&self) -> Result<Registry, OpenError> {
        open_in(&DataDir::open(self.folder.path())?, None, LIMITS)
    }

    /// Returns the error from opening the registry.
    pub(super) async fn open_error(&self) -> String {
        match self.open().await {
            Ok(_) => panic!("the registry opened"),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        }
    }

    fn database_error(&self) -> String {
        match self.open_database() {
            Ok(_) => panic!("the registry opened"),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        }
    }
}

pub(super) fn open_database_at(home: &Home) -> Registry {
    home.open_database().unwrap()
}

pub(super) fn database(registry: &Registry) -> std::sync::MutexGuard<'_, SqliteStore> {
    match &*registry.0.store {
        Store::Sqlite(store) => store.lock().unwrap(),
        Store::Redis(..) | Store::Kafka(..) => panic!("the registry isn't in a database"),
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::of_tenant(text).unwrap()
}

pub(super) fn other_key() -> PublicKey {
    PublicKey::parse(&fixture_text("keys/other_public_key.pem")).unwrap()
}

pub(super) fn settings(events: &[&str]) -> EndpointSettings {
    EndpointSettings {
        url: EndpointUrl::parse("https://example.com/webhook?token=t-secret").unwrap(),
        description: Some(Name::parse("a note").unwrap()),
        events: events.iter().map(|text| EventFilter::parse(text).unwrap()).collect(),
        headers: StaticHeaders::parse([("authorization", "Bearer h-secret")].into_iter()).unwrap(),
        content_type: ContentType::Json,
        envelope: EnvelopeKind::RsaOaep,
        ordered: true,
    }
}

pub(super) async fn tenant_with_key(registry: &Registry, text: &str) -> TenantId {
    let tenant = registry.create_tenant(name(text), LimitOverrides::default()).await.unwrap();
    registry.add_public_key(tenant.id, public_key()).await.unwrap();
    tenant.id
}

pub(super) async fn add_endpoint(registry: &Registry, tenant: TenantId, events: &[&str]) -> Arc<Endpoint> {
    registry.add_endpoint(tenant, settings(events), Secret::generate().unwrap()).await.unwrap()
}

pub(super) fn kind(text: &str) -> EventType {
    EventType::parse(text).unwrap()
}

pub(super) fn subscribed(registry: &Registry, text: &str, of: Option<TenantId>) -> usize {
    registry.recipients(&kind(text), of).iter().map(|recipient| recipient.endpoints.len()).sum()
}

#[tokio::test]
async fn files_and_debug_output_hold_no_secret() {
    let home = Home::new();
    let registry = home.open_database().unwrap();
    let tenant = tenant_with_key(&registry, "Acme").await;
    let secret = Secret::generate().unwrap();
    let endpoint = registry.add_endpoint(tenant, settings(&["*"]), secret.clone()).await.unwrap();
    let (record, key) = registry.create_api_key(Some(tenant), None).await.unwrap();
    let shown = format!("{endpoint:?} {record:?}");
    drop(registry);
    let mut files = shown.into_bytes();
    for entry in fs::read_dir(home.folder.path()).unwrap() {
        files.extend(fs::read(entry.unwrap().path()).unwrap());
    }
    let holds = |text: &str| files.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("Acme"), "the files hold the name of the tenant");
    let secret = secret.reveal();
    for hidden in
        ["t-secret", "h-secret", &secret["whsec_".len()..], &key.reveal()["whk_tenant_".len() + 4..]]
    {
        assert!(!holds(hidden), "{hidden}");
    }
}

#[test]
fn only_the_owner_can_read_the_data_dir() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let inner = home.path("a/b");
    let dir = DataDir::open(&inner).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    drop(open_in(&dir, None, LIMITS).unwrap());
    dir.write_provider_key(&ApiKey::generate(KeyKind::Provider).unwrap()).unwrap();
    assert_eq!(mode(inner.clone()), 0o700);
    for file in ["registry.db", "secret.key", "provider_key.txt", "lock"] {
        assert_eq!(mode(inner.join(file)), 0o600, "{file}");
    }
    let second = DataDir::open(&inner).unwrap_err().to_string();
    assert!(second.contains("in use by another whk"), "{second}");
}

/// Database that version 0.1 wrote. Every later version must open it.
#[tokio::test]
async fn the_golden_database_of_version_1_opens() {
    let home = Home::new();
    for file in ["registry.db", "secret.key"] {
        fs::copy(fixture(&format!("registry/v1/{file}")), home.path(file)).unwrap();
    }
    let registry = home.open_database().unwrap();
    let tenants: Vec<String> =
        registry.tenants(None, 9).items.iter().map(|tenant| tenant.name.to_string()).collect();
    assert_eq!(tenants, ["Acme", "株式会社"]);
    let acme = registry.tenant(&TenantRef::Name("Acme".into())).unwrap();
    assert_eq!(registry.limits(&acme), Limits { queued_jobs: 500, ..LIMITS });
    let kept = fixture_text("registry/v1/tenant_key.txt");
    assert_eq!(registry.authenticate(&KeyHash::of(kept.trim())), Some(Principal::Tenant(acme.id)));
    let states: Vec<_> = registry.public_keys(acme.id).iter().map(|key| key.state).collect();
    assert_eq!(states, [KeyState::Retired, KeyState::Active]);
    let endpoints = registry.endpoints(acme.id, None, 9).items;
    assert_eq!(endpoints.len(), 2);
    let first = &endpoints[0].settings;
    assert_eq!(first.url.uri().to_string(), "https://acme.example/webhook?token=t");
    assert_eq!(
        first.events.iter().map(EventFilter::to_string).collect::<Vec<_>>(),
        ["invoice.*", "user.created"]
    );
    assert_eq!((first.content_type, first.ordered), (ContentType::Json, true));
    assert_eq!(first.headers.as_slice()[0].1, "v-1");
    assert_eq!(*endpoints[0].secrets[0].secret.reveal(), fixture_text("keys/signing_secret.txt").trim());
    assert_eq!(endpoints[1].disabled.as_ref().unwrap().reason, DisabledReason::ByProvider);
    assert_eq!(endpoints[1].settings.envelope, EnvelopeKind::RsaOaep);
}

#[test]
fn a_newer_a_foreign_and_a_damaged_database_are_refused_and_left_as_they_are() {
    let change = |home: &Home, sql: &str| {
        rusqlite::Connection::open(home.path("registry.db")).unwrap().execute_batch(sql).unwrap();
    };
    let newer = Home::new();
    drop(newer.open_database().unwrap());
    change(&newer, "PRAGMA user_version = 99");
    assert!(
        newer.database_error().contains("written by a newer whk (schema 99"),
        "{}",
        newer.database_error()
    );

    let another = Home::new();
    change(&another, "CREATE TABLE theirs (x)");
    let before = fs::read(another.path("registry.db")).unwrap();
    assert!(another.database_error().contains("database of another program"), "{}", another.database_error());
    assert_eq!(fs::read(another.path("registry.db")).unwrap(), before);

    let text = Home::new();
    fs::write(text.path("registry.db"), "no database at all, but long enough to be read as one".repeat(40))
        .unwrap();
    assert!(text.database_error().contains("not a database"), "{}", text.database_error());

    let damaged = Home::new();
    drop(damaged.open_database().unwrap());
    change(
        &damaged,
        "INSERT INTO tenant (id, name, created_at, version) VALUES ('ten_0198f0a0000070008000000000000000', 'a\nb', 0, 1)",
    );
    let open_error = damaged.database_error();
    assert!(
        open_error.contains("tenant ten_0198f0a0000070008000000000000000 is damaged: name"),
        "{open_error}"
    );
}

#[test]
fn a_missing_or_wrong_secret_key_is_refused() {
    let home = Home::new();
    drop(home.open_database().unwrap());
    let key = fs::read_to_string(home.path("secret.key")).unwrap();
    fs::write(home.path("secret.key"), &*crate::common::crypto::vault::Vault::generate_key().unwrap())
        .unwrap();
    assert!(home.database_error().contains("isn't the one"), "{}", home.database_error());
    fs::write(home.path("secret.key"), "short").unwrap();
    assert!(home.database_error().contains("base64 of 32"), "{}", home.database_error());
    fs::remove_file(home.path("secret.key")).unwrap();
    assert!(home.database_error().contains("--secret-key-file"), "{}", home.database_error());
    assert!(!home.path("secret.key").exists(), "no new key is created for an existing registry");
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("key");
    fs::write(&path, key).unwrap();
    open_in(&DataDir::open(home.folder.path()).unwrap(), Some(&path), LIMITS).unwrap();
}

#[tokio::test]
async fn a_change_that_can_not_be_written_is_not_visible() {
    let home = Home::new();
    let registry = home.open_database().unwrap();
    let tenant = tenant_with_key(&registry, "Acme").await;
    // A limit on the number of pages makes SQLite fail as on a full disk.
    let limit_pages = |pages: i64| {
        database(&registry).connection().pragma_update(None, "max_page_count", pages).unwrap();
    };
    limit_pages(1);
    let mut refused = None;
    // The existing pages may have room for some tenants.
    for number in 0..1_000 {
        let made = registry.create_tenant(name(&format!("{number}")), LimitOverrides::default()).await;
        if let Err(error) = made {
            refused = Some((number, error));
            break;
        }
    }
    let (number, error) = refused.expect("a full disk refuses a change");
    assert!(matches!(error, RegistryError::Store(StoreError::Write(_))), "{error:?}");
    assert_eq!(registry.count().0, 1 + number);
    assert!(registry.tenant(&TenantRef::Name(number.to_string())).is_none());
    limit_pages(1_000_000);
    registry.create_tenant(name(&number.to_string()), LimitOverrides::default()).await.unwrap();
    add_endpoint(&registry, tenant, &["*"]).await;
    let count = registry.count();
    drop(registry);
    assert_eq!(home.open_database().unwrap().count(), count);
}

#[test]
fn waiting_changes_leave_blocking_threads_free() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(2).enable_time().build().unwrap();
    let home = Home::new();
    let registry = home.open_database().unwrap();
    let store = database(&registry);
    let changes: Vec<_> = (0..10)
        .map(|number| {
            let registry = registry.clone();
            let name = name(&format!("t{number}"));
            runtime
                .spawn(async move { registry.create_tenant(name, LimitOverrides::default()).await.map(drop) })
        })
        .collect();
    let other = runtime.block_on(async {
        // The runtime has one thread, so all changes have begun after this.
        tokio::task::yield_now().await;
        tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(|| ())).await
    });
    drop(store);
    other.expect("a blocking thread is free").unwrap();
    changes.into_iter().for_each(|change| runtime.block_on(change).unwrap().unwrap());
    assert_eq!(registry.count().0, 10);
}

/// Returns whether a filter matches an event type, by comparing the texts.
fn matches_plainly(filter: &str, kind: &str) -> bool {
    filter == "*" || filter == kind || filter.strip_suffix('*').is_some_and(|group| kind.starts_with(group))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_index_finds_exactly_the_subscribed_endpoints(
        filters in prop::collection::vec(prop::collection::vec(r"\*|[ab](\.[ab]){0,2}(\.\*)?", 1..3), 1..6),
        kind_text in r"[ab](\.[ab]){0,3}",
        removed: prop::sample::Index,
    ) {
        use super::subscriptions::Subscriptions;
        let mut index = Subscriptions::default();
        let tenants = [TenantId::new(), TenantId::new()];
        let endpoints: Vec<Endpoint> = filters.iter().enumerate().map(|(number, filters)| Endpoint {
            id: EndpointId::new(),
            tenant: tenants[number % 2],
            settings: settings(&filters.iter().map(String::as_str).collect::<Vec<_>>()),
            secrets: Vec::new(),
            disabled: None,
            created_at: Timestamp::UNIX_EPOCH,
            version: 1,
        }).collect();
        endpoints.iter().for_each(|endpoint| index.insert(endpoint));
        let gone = removed.index(endpoints.len());
        index.remove(&endpoints[gone]);
        for of in [None, Some(tenants[0]), Some(tenants[1])] {
            let expected: BTreeSet<_> = endpoints.iter().zip(&filters).enumerate()
                .filter(|(number, (endpoint, filters))| {
                    *number != gone
                        && of.is_none_or(|of| of == endpoint.tenant)
                        && filters.iter().any(|filter| matches_plainly(filter, &kind_text))
                })
                .map(|(_, (endpoint, _))| (endpoint.tenant, endpoint.id))
                .collect();
            prop_assert_eq!(index.subscribers(&kind(&kind_text), of), expected);
        }
    }
}
