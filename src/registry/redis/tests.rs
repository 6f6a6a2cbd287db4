mod outage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Cmd;

use super::*;
use crate::common::crypto::api_key::{ApiKey, KeyKind};
use crate::common::crypto::signature::Secret;
use crate::common::crypto::tests::public_key;
use crate::common::data_dir::DataDir;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::TenantId;
use crate::registry::endpoint::{DisabledReason, Endpoint, EndpointPatch, EndpointSettings};
use crate::registry::error::RegistryError;
use crate::registry::limits::LimitOverrides;
use crate::registry::store::Store;
use crate::registry::tests::{
    Home, LIMITS, add_endpoint, name, other_key, settings, subscribed, tenant_with_key,
};
use crate::registry::{Principal, Registry, RegistryPlace, TenantRef};

const SECOND: Duration = Duration::from_secs(1);

impl Home {
    fn config(&self) -> &RedisConfig {
        match &self.place {
            RegistryPlace::Redis(config) => config,
            _ => panic!("the registry isn't in Redis"),
        }
    }

    async fn server(&self) -> Registry {
        self.open().await.unwrap()
    }

    /// Opens a server that isn't notified of changes.
    async fn unnotified_server(&self) -> Registry {
        let dir = DataDir::open(self.folder.path()).unwrap();
        let store =
            RedisStore::open(self.config(), LIMITS, |may_make| dir.vault(None, may_make)).await.unwrap();
        let state = store.replica().state();
        Registry::new(Store::Redis(store, Follower::unnotified()), state)
    }

    fn key(&self, part: &str) -> String {
        format!("{{{}:registry}}:{part}", self.config().prefix())
    }

    async fn redis<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let connection = RedisConnection::open(self.config()).await.unwrap();
        connection.query(&command_of(command)).await.unwrap()
    }
}

fn command_of(parts: &[&str]) -> Cmd {
    let mut command = redis::cmd(parts[0]);
    command.arg(&parts[1..]);
    command
}

async fn until(most: Duration, what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < most, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn another_server_sees_a_change_within_a_second() {
    let home = Home::in_redis();
    let (one, other) = (home.server().await, home.server().await);
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
    assert_eq!(
        home.redis::<usize>(&["HLEN", &home.key("records")]).await,
        0,
        "no record of the tenant is left"
    );
}

#[tokio::test]
async fn one_of_two_concurrent_tenants_with_the_same_name_is_created() {
    let home = Home::in_redis();
    let (one, other) = (home.server().await, home.unnotified_server().await);
    for round in 0..50 {
        let make = |registry: &Registry| {
            let registry = registry.clone();
            let name = name(&format!("t{round}"));
            async move { registry.create_tenant(name, LimitOverrides::default()).await }
        };
        let (first, second) = tokio::join!(make(&one), make(&other));
        let (made, refused) = if first.is_ok() { (first, second) } else { (second, first) };
        assert!(matches!(refused, Err(RegistryError::Conflict(_))), "{refused:?}");
        other.refreshed().await.unwrap();
        let named = TenantRef::Name(format!("t{round}"));
        assert_eq!(other.tenant(&named).unwrap().id, made.unwrap().id);
    }
    assert_eq!(home.server().await.count(), (50, 0));
}

#[tokio::test]
async fn a_limit_holds_when_servers_change_concurrently() {
    let home = Home::in_redis();
    let limits = LimitOverrides { endpoints: std::num::NonZeroU32::new(120), ..LimitOverrides::default() };
    let (one, other) = (home.server().await, home.server().await);
    let tenant = one.create_tenant(name("Acme"), limits).await.unwrap().id;
    one.add_public_key(tenant, public_key()).await.unwrap();
    let mut adding = tokio::task::JoinSet::new();
    for _ in 0..100 {
        for registry in [one.clone(), other.clone()] {
            let secret = Secret::generate().unwrap();
            adding.spawn(async move { registry.add_endpoint(tenant, settings(&["*"]), secret).await });
        }
    }
    let added = adding.join_all().await;
    let refused = added.iter().filter(|added| matches!(added, Err(RegistryError::Limit { max: 120, .. })));
    assert_eq!((added.iter().flatten().count(), refused.count()), (120, 80));
    assert_eq!(home.server().await.count(), (1, 120));
}

#[tokio::test]
async fn a_server_without_notifications_sees_changes_once_it_refreshes() {
    let home = Home::in_redis();
    let (one, unnotified) = (home.server().await, home.unnotified_server().await);
    let tenant = tenant_with_key(&one, "Acme").await;
    let endpoint = add_endpoint(&one, tenant, &["*"]).await;
    assert!(unnotified.endpoint(tenant, endpoint.id).is_none(), "the server wasn't notified");
    unnotified.refreshed().await.unwrap();
    assert!(unnotified.endpoint(tenant, endpoint.id).is_some());
    let (record, key) = one.create_api_key(Some(tenant), None).await.unwrap();
    assert_eq!(unnotified.identify(&key.hash()).await.unwrap(), Some(Principal::Tenant(tenant)));
    one.revoke_api_key(Some(tenant), record.id).await.unwrap();
    unnotified.refreshed().await.unwrap();
    assert_eq!(unnotified.identify(&key.hash()).await.unwrap(), None);
    let unknown_key = ApiKey::generate(KeyKind::Tenant).unwrap();
    assert_eq!(unnotified.identify(&unknown_key.hash()).await.unwrap(), None);
}

#[tokio::test]
async fn changes_that_were_not_notified_decide_a_change_as_well() {
    let home = Home::in_redis();
    let (one, unnotified) = (home.server().await, home.unnotified_server().await);
    let tenant = tenant_with_key(&one, "Acme").await;
    let taken = unnotified.create_tenant(name("Acme"), LimitOverrides::default()).await;
    assert!(matches!(taken, Err(RegistryError::Conflict(_))), "{taken:?}");
    let before = add_endpoint(&one, tenant, &["*"]).await;
    let patch = || EndpointPatch { ordered: Some(false), ..EndpointPatch::default() };
    let by = DisabledReason::ByTenant;
    let unheard = unnotified.update_endpoint(tenant, before.id, Some(1), patch(), by).await.unwrap();
    assert_eq!(unheard.version, 2, "the endpoint is found, though the server wasn't notified of it");
    // The endpoint is changed at another server after the version that the delivery attempt used.
    let now = unnotified.endpoint(tenant, before.id).unwrap();
    let moved = EndpointPatch { ordered: Some(true), ..EndpointPatch::default() };
    one.update_endpoint(tenant, before.id, None, moved, by).await.unwrap();
    assert!(!unnotified.disable_gone(now).await.unwrap());
    add_endpoint(&one, tenant, &["*"]).await;
    let (_, key) = one.create_api_key(Some(tenant), None).await.unwrap();
    assert_eq!(
        unnotified.delete_tenant(tenant, None).await.unwrap().len(),
        2,
        "endpoints that it wasn't notified of are deleted too"
    );
    assert_eq!(home.redis::<usize>(&["HLEN", &home.key("records")]).await, 0);
    one.refreshed().await.unwrap();
    assert_eq!(one.authenticate(&key.hash()), None);
}

#[tokio::test]
async fn one_of_several_starting_servers_creates_the_provider_key() {
    let home = Home::in_redis();
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let registry = home.unnotified_server().await;
        starting.spawn(async move {
            let key = ApiKey::generate(KeyKind::Provider).unwrap();
            registry.first_provider_key(&key).await.unwrap().then_some(key)
        });
    }
    let made: Vec<ApiKey> = starting.join_all().await.into_iter().flatten().collect();
    assert_eq!(made.len(), 1);
    let registry = home.server().await;
    assert_eq!(registry.authenticate(&made[0].hash()), Some(Principal::Provider));
    assert_eq!(registry.api_keys(None, None, 9).items.len(), 1);
}

#[tokio::test]
async fn a_server_that_is_too_far_behind_reads_all_records() {
    let home = Home::in_redis();
    let (one, unnotified, later) =
        (home.server().await, home.unnotified_server().await, home.unnotified_server().await);
    let gone = tenant_with_key(&unnotified, "gone").await;
    later.refreshed().await.unwrap();
    one.refreshed().await.unwrap();
    let rate = unnotified.publish_rate(gone).unwrap();
    one.delete_tenant(gone, None).await.unwrap();
    let kept = tenant_with_key(&one, "kept").await;
    unnotified.refreshed().await.unwrap();
    let rate_of_kept = unnotified.publish_rate(kept).unwrap();
    // More changes than one page holds.
    for number in 0..600 {
        one.create_tenant(name(&format!("t{number}")), LimitOverrides::default()).await.unwrap();
    }
    later.refreshed().await.unwrap();
    assert_eq!(later.count(), one.count(), "the server followed the stream page by page");
    let trimmed: usize = home.redis(&["XTRIM", &home.key("changes"), "MAXLEN", "1"]).await;
    assert!(trimmed > 600);
    unnotified.refreshed().await.unwrap();
    assert_eq!(unnotified.count(), one.count(), "the server read all records");
    assert!(unnotified.tenant(&gone.into()).is_none());
    assert!(unnotified.publish_rate(gone).is_none() && Arc::strong_count(&rate) == 1);
    assert!(Arc::ptr_eq(&rate_of_kept, &unnotified.publish_rate(kept).unwrap()), "the rate limiter is kept");
    unnotified.create_tenant(name("after"), LimitOverrides::default()).await.unwrap();
}

/// Simulates a Redis that restarts without its latest changes.
#[tokio::test]
async fn servers_follow_a_redis_that_lost_changes() {
    let home = Home::in_redis();
    let (one, other) = (home.unnotified_server().await, home.unnotified_server().await);
    tenant_with_key(&one, "kept").await;
    let parts = ["meta", "records", "changes"].map(|part| home.key(part));
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for part in &parts {
        kept.push(home.redis(&["DUMP", part]).await);
    }
    for number in 0..3 {
        one.create_tenant(name(&format!("lost {number}")), LimitOverrides::default()).await.unwrap();
    }
    other.refreshed().await.unwrap();
    let connection = RedisConnection::open(home.config()).await.unwrap();
    for (part, dump) in parts.iter().zip(kept) {
        let mut restore = redis::cmd("RESTORE");
        restore.arg(part).arg(0).arg(dump).arg("REPLACE");
        connection.query::<()>(&restore).await.unwrap();
    }
    // As many changes as were lost. By their numbers alone, nothing would seem to have happened.
    let third = home.server().await;
    for number in 0..3 {
        third.create_tenant(name(&format!("new {number}")), LimitOverrides::default()).await.unwrap();
    }
    let has = |registry: &Registry, text: &str| registry.tenant(&TenantRef::Name(text.into())).is_some();
    other.refreshed().await.unwrap();
    let made = one.create_tenant(name("last"), LimitOverrides::default()).await;
    made.unwrap();
    for registry in [&one, &other] {
        assert!(has(registry, "kept") && has(registry, "new 2") && !has(registry, "lost 2"));
    }
    assert_eq!(home.server().await.count().0, 5);
}

#[tokio::test]
async fn a_deleted_registry_is_not_created_again_and_tenants_stay_known() {
    let home = Home::in_redis();
    let registry = home.server().await;
    let tenant = tenant_with_key(&registry, "Acme").await;
    for part in ["meta", "records", "changes"] {
        home.redis::<usize>(&["DEL", &home.key(part)]).await;
    }
    let refreshed = registry.refreshed().await;
    assert!(matches!(&refreshed, Err(RegistryError::Behind(error)) if matches!(**error, StoreError::Gone)));
    let made = registry.create_tenant(name("Other"), LimitOverrides::default()).await;
    assert!(matches!(made, Err(RegistryError::Store(StoreError::Gone))), "{made:?}");
    assert!(registry.tenant(&tenant.into()).is_some());
    assert_eq!(home.redis::<usize>(&["EXISTS", &home.key("meta")]).await, 0);
}

#[tokio::test]
async fn all_servers_need_the_same_secret_key() {
    let home = Home::in_redis();
    drop(home.server().await);
    let elsewhere = Home { folder: tempfile::tempdir().unwrap(), place: home.place.clone() };
    let missing = elsewhere.open_error().await;
    assert!(missing.contains("copy secret.key") && missing.contains("--secret-key-file"), "{missing}");
    assert!(
        !elsewhere.folder.path().join("secret.key").exists(),
        "no new key is created for an existing registry"
    );
    let wrong = Vault::generate_key().unwrap();
    std::fs::write(elsewhere.folder.path().join("secret.key"), &*wrong).unwrap();
    let wrong = elsewhere.open_error().await;
    assert!(wrong.contains("copy secret.key") && wrong.contains("--secret-key-file"), "{wrong}");
    let key = std::fs::read(home.folder.path().join("secret.key")).unwrap();
    std::fs::write(elsewhere.folder.path().join("secret.key"), key).unwrap();
    drop(elsewhere.server().await);
}

#[tokio::test]
async fn errors_name_the_record_that_can_not_be_read() {
    let home = Home::in_redis();
    let registry = home.server().await;
    let tenant = tenant_with_key(&registry, "Acme").await;
    let (meta, records) = (home.key("meta"), home.key("records"));
    home.redis::<usize>(&["HSET", &meta, "format", "2"]).await;
    let newer = home.open_error().await;
    assert!(newer.contains("written by a newer whk (format 2"), "{newer}");
    home.redis::<usize>(&["HSET", &meta, "format", "1"]).await;
    let of_tenant = format!("tenant/{tenant}");
    for (value, reason) in [
        ("{", "it isn't JSON of whk's"),
        (r#"{"v":1}"#, "a field is missing"),
        (r#"{"v":2}"#, "it is of version 2, which a newer whk wrote"),
        (r#"{"v":1,"name":"a\nb","created_at":0,"version":1}"#, "name must"),
    ] {
        home.redis::<usize>(&["HSET", &records, &of_tenant, value]).await;
        let damaged = home.open_error().await;
        assert!(damaged.contains(&format!("{of_tenant} is damaged: {reason}")), "{damaged}");
    }
    home.redis::<usize>(&["HDEL", &records, &of_tenant]).await;
    home.redis::<usize>(&["HSET", &records, "what/is/this", "{}"]).await;
    assert!(home.open_error().await.contains("what/is/this is damaged: its key has an unknown form"));
    home.redis::<usize>(&["DEL", &meta]).await;
    assert!(home.open_error().await.contains("is missing"), "{}", home.open_error().await);
}

#[tokio::test]
async fn redis_holds_no_secret() {
    let home = Home::in_redis();
    let registry = home.server().await;
    let tenant = tenant_with_key(&registry, "Acme").await;
    let secret = Secret::generate().unwrap();
    registry.add_endpoint(tenant, settings(&["*"]), secret.clone()).await.unwrap();
    let (_, key) = registry.create_api_key(Some(tenant), None).await.unwrap();
    let mut there: Vec<String> = home.redis(&["HGETALL", &home.key("records")]).await;
    there.extend(home.redis::<Vec<String>>(&["HGETALL", &home.key("meta")]).await);
    let changes: redis::Value = home.redis(&["XRANGE", &home.key("changes"), "-", "+"]).await;
    let there = format!("{there:?} {changes:?}");
    assert!(there.contains("Acme"), "Redis holds the name of the tenant");
    let secret = secret.reveal();
    for hidden in
        ["t-secret", "h-secret", &secret["whsec_".len()..], &key.reveal()["whk_tenant_".len() + 4..]]
    {
        assert!(!there.contains(hidden), "{hidden}");
    }
}

/// Two servers that share a registry. One of them isn't notified of changes.
pub(crate) struct TwoServers {
    pub(crate) one: Registry,
    pub(crate) unnotified: Registry,
    home: Home,
}

impl TwoServers {
    pub(crate) async fn open() -> Self {
        let home = Home::in_redis();
        Self { one: home.server().await, unnotified: home.unnotified_server().await, home }
    }

    /// Adds an endpoint of a new tenant, at an address that isn't public.
    pub(crate) async fn endpoint(at: &Registry) -> Arc<Endpoint> {
        let tenant = tenant_with_key(at, "Acme").await;
        let url = EndpointUrl::parse("https://127.0.0.1:9/").unwrap();
        let settings = EndpointSettings { url, ..settings(&["*"]) };
        at.add_endpoint(tenant, settings, Secret::generate().unwrap()).await.unwrap()
    }

    pub(crate) async fn enable(at: &Registry, endpoint: &Endpoint, enabled: bool) {
        let patch = EndpointPatch { enabled: Some(enabled), ..EndpointPatch::default() };
        let by = DisabledReason::ByTenant;
        at.update_endpoint(endpoint.tenant, endpoint.id, None, patch, by).await.unwrap();
    }

    /// Deletes the registry.
    pub(crate) async fn lose(&self) {
        self.home.redis::<usize>(&["DEL", &self.home.key("meta")]).await;
    }
}
