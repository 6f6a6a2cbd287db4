//! Redis stops, restarts, and is full.

use std::process::{Child, Command, Stdio};

use super::*;

/// A Redis server of one test, stopped when dropped.
struct OwnRedis {
    folder: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl OwnRedis {
    async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut redis = Self { folder: tempfile::tempdir().unwrap(), port, child: None };
        redis.restart().await;
        redis
    }

    async fn restart(&mut self) {
        let port = self.port.to_string();
        let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"];
        let mut command = Command::new("redis-server");
        command.args(arguments).args(["--appendfsync", "always", "--dir"]).arg(self.folder.path());
        self.child = Some(command.stdout(Stdio::null()).spawn().unwrap());
        let config = RedisConfig::parse(&self.url(), "x").unwrap();
        let started = Instant::now();
        while RedisConnection::open(&config).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "Redis doesn't start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test]
async fn servers_continue_when_redis_is_back() {
    let mut redis = OwnRedis::start().await;
    let home = Home::at(&redis.url());
    let (one, other) = (home.server().await, home.server().await);
    let tenant = tenant_with_key(&one, "Acme").await;
    add_endpoint(&one, tenant, &["*"]).await;
    until(SECOND, "seen", || subscribed(&other, "x", None) == 1).await;
    redis.kill();
    let refused = one.create_tenant(name("meanwhile"), LimitOverrides::default()).await;
    assert!(matches!(&refused, Err(RegistryError::Unsure(_) | RegistryError::Store(_))), "{refused:?}");
    assert!(matches!(other.refreshed().await, Err(RegistryError::Behind(_))));
    assert!(
        matches!(other.refreshed().await, Err(RegistryError::Behind(_))),
        "the failure is reported again at once"
    );
    let unknown_key = ApiKey::generate(KeyKind::Tenant).unwrap();
    assert!(matches!(other.identify(&unknown_key.hash()).await, Err(RegistryError::Behind(_))));
    assert_eq!(subscribed(&other, "x", None), 1, "known tenants still get events");
    redis.restart().await;
    let made = create_until_done(&one, "afterwards").await;
    until(Duration::from_secs(5), "notified again", || other.tenant(&made.into()).is_some()).await;
    let (_, key) = other.create_api_key(Some(made), None).await.unwrap();
    until(SECOND, "both ways", || one.authenticate(&key.hash()).is_some()).await;
    assert_eq!(subscribed(&home.server().await, "x", None), 1, "no answered change is lost");
}

/// A Redis without free memory still executes revocations and deletions.
#[tokio::test]
async fn a_full_redis_refuses_additions_and_still_revokes() {
    let redis = OwnRedis::start().await;
    let home = Home::at(&redis.url());
    let (one, other) = (home.server().await, home.unnotified_server().await);
    let tenant = tenant_with_key(&one, "Acme").await;
    let (record, key) = one.create_api_key(Some(tenant), None).await.unwrap();
    home.redis::<String>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = one.create_tenant(name("Other"), LimitOverrides::default()).await;
    assert!(matches!(&refused, Err(RegistryError::Store(StoreError::Redis { .. }))), "{refused:?}");
    assert_eq!(one.count(), (1, 0));
    one.revoke_api_key(Some(tenant), record.id).await.unwrap();
    other.refreshed().await.unwrap();
    assert_eq!(other.authenticate(&key.hash()), None);
    home.redis::<String>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    one.create_tenant(name("Other"), LimitOverrides::default()).await.unwrap();
}

async fn create_until_done(registry: &Registry, text: &str) -> TenantId {
    let started = Instant::now();
    loop {
        match registry.create_tenant(name(text), LimitOverrides::default()).await {
            Ok(tenant) => return tenant.id,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(15), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
