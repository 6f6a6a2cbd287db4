//! The cache of responses behind idempotency keys.
//!
//! Responses are kept in memory for 24 hours. The provider has room for 64 MiB of them, and each tenant for 512 KiB, so
//! that no caller evicts the responses of another. The least recently used one is evicted first. Only successful
//! responses are kept: after a failure, a repetition is a new attempt.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use super::Fingerprint;
use crate::common::id::{TenantId, digest};
use crate::common::task;
use crate::registry::Principal;
use crate::server::problem::Problem;

/// Maximum size of the provider's cached responses, in bytes.
const PROVIDER_BYTES: u64 = 64 << 20;
/// Maximum size of one tenant's cached responses, in bytes.
const TENANT_BYTES: u64 = 512 << 10;
/// Maximum number of tenants with cached responses. The least recently active tenant is evicted first.
const MAX_TENANTS: u64 = 1_024;
/// Lifetime of a cached response.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Memory that a cached response takes beside its body, in bytes.
const OVERHEAD_BYTES: usize = 256;

/// Cached responses of one caller, by the SHA-256 of the idempotency key.
type ResponseCache = Cache<[u8; 32], CachedResponse>;

/// Responses to requests that may be repeated, kept per caller.
pub struct IdempotencyCache {
    provider: ResponseCache,
    tenants: moka::sync::Cache<TenantId, ResponseCache>,
    /// Maximum size of one tenant's cached responses, in bytes.
    tenant_bytes: u64,
}

/// A response that can be sent again, with the fingerprint of its request.
#[derive(Clone)]
struct CachedResponse {
    fingerprint: Fingerprint,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl CachedResponse {
    /// Reads a response's body into memory.
    async fn collect(response: Response, fingerprint: Fingerprint) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Self { fingerprint, status: parts.status, headers: parts.headers, body }
    }

    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        *response.headers_mut() = self.headers;
        response
    }
}

impl IdempotencyCache {
    /// Creates an empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::with_sizes(PROVIDER_BYTES, TENANT_BYTES)
    }

    fn with_sizes(provider_bytes: u64, tenant_bytes: u64) -> Self {
        let tenants = moka::sync::Cache::builder().max_capacity(MAX_TENANTS).time_to_idle(LIFETIME);
        let tenants = tenants.eviction_policy(EvictionPolicy::lru()).build();
        Self { provider: response_cache(provider_bytes), tenants, tenant_bytes }
    }

    fn of(&self, principal: Principal) -> ResponseCache {
        match principal {
            Principal::Provider => self.provider.clone(),
            Principal::Tenant(id) => self.tenants.get_with(id, || response_cache(self.tenant_bytes)),
        }
    }

    /// Returns the cached response for `key`, or runs `request` and caches its response. Concurrent calls with the same
    /// key run one request and share the response.
    ///
    /// Returns 409 when `key` was used for a request with another fingerprint.
    ///
    /// The request runs in its own task. If the caller drops this future, the request still runs to its end, and its
    /// response is cached.
    pub(in crate::server) async fn get_or_run(
        &self,
        principal: Principal,
        key: &[u8],
        fingerprint: Fingerprint,
        request: impl Future<Output = Response> + Send + 'static,
    ) -> Response {
        let (cache, key) = (self.of(principal), digest(&[key]));
        let running = task::spawn("idempotent_request", async move {
            let run = async {
                let response = CachedResponse::collect(request.await, fingerprint).await;
                // moka caches `Ok` values only.
                if response.status.is_success() { Ok(response) } else { Err(response) }
            };
            cache.try_get_with(key, run).await
        });
        let cached = match running.await {
            Ok(Ok(response)) => response,
            Ok(Err(failed)) => CachedResponse::clone(&failed),
            // The panic is logged and counted already.
            Err(_panic) => {
                let detail = "the request failed; the operator finds the cause in the server's log";
                return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response();
            }
        };
        if cached.fingerprint != fingerprint {
            let detail =
                "this Idempotency-Key was used for another request; send a new key with each new request";
            return Problem::new(StatusCode::CONFLICT, detail).into_response();
        }
        cached.into_response()
    }
}

/// Creates a cache for responses of `max_bytes` in total. It evicts by least recent use, because moka's default policy
/// prefers responses with many past hits over new ones.
fn response_cache(max_bytes: u64) -> ResponseCache {
    let weight = |_: &[u8; 32], response: &CachedResponse| {
        u32::try_from(response.body.len().saturating_add(OVERHEAD_BYTES)).unwrap_or(u32::MAX)
    };
    let cache = Cache::builder().weigher(weight).max_capacity(max_bytes).time_to_live(LIFETIME);
    cache.eviction_policy(EvictionPolicy::lru()).build()
}

impl Default for IdempotencyCache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const KIB: u64 = 1 << 10;

    /// Counter of requests that ran.
    #[derive(Default, Clone)]
    struct Runs(Arc<AtomicUsize>);

    impl Runs {
        async fn request(
            &self,
            cache: &IdempotencyCache,
            caller: Principal,
            key: &str,
            status: StatusCode,
        ) -> StatusCode {
            let runs = self.clone();
            let request = async move {
                runs.0.fetch_add(1, Ordering::Relaxed);
                status.into_response()
            };
            cache.get_or_run(caller, key.as_bytes(), [7; 32], request).await.status()
        }

        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_successful_request_runs_once_and_a_failed_one_again() {
        let (cache, runs) = (IdempotencyCache::new(), Runs::default());
        for _ in 0..3 {
            assert_eq!(runs.request(&cache, Principal::Provider, "k", StatusCode::CREATED).await, 201);
        }
        assert_eq!(runs.count(), 1);
        for _ in 0..3 {
            assert_eq!(runs.request(&cache, Principal::Provider, "l", StatusCode::CONFLICT).await, 409);
        }
        assert_eq!(runs.count(), 4);
    }

    #[tokio::test]
    async fn no_caller_evicts_responses_of_another_and_the_latest_stay() {
        let (cache, runs) = (IdempotencyCache::with_sizes(32 * KIB, 32 * KIB), Runs::default());
        let tenants = [TenantId::new(), TenantId::new()].map(Principal::Tenant);
        for caller in [Principal::Provider, tenants[0]] {
            runs.request(&cache, caller, "first", StatusCode::OK).await;
        }
        for number in 0..2_000 {
            runs.request(&cache, tenants[1], &number.to_string(), StatusCode::OK).await;
        }
        cache.of(tenants[1]).run_pending_tasks().await;
        assert_eq!(runs.count(), 2_002);
        for caller in [Principal::Provider, tenants[0]] {
            runs.request(&cache, caller, "first", StatusCode::OK).await;
        }
        for number in 1_950..2_000 {
            runs.request(&cache, tenants[1], &number.to_string(), StatusCode::OK).await;
        }
        assert_eq!(runs.count(), 2_002, "all of these are cached");
        runs.request(&cache, tenants[1], "0", StatusCode::OK).await;
        assert_eq!(runs.count(), 2_003, "the oldest was evicted");
    }

    #[tokio::test]
    async fn a_request_whose_caller_hangs_up_runs_to_its_end() {
        let (cache, runs) = (Arc::new(IdempotencyCache::new()), Runs::default());
        let (resume, resumed) = tokio::sync::oneshot::channel::<()>();
        let counted = runs.clone();
        let request = async move {
            drop(resumed.await);
            counted.0.fetch_add(1, Ordering::Relaxed);
            StatusCode::OK.into_response()
        };
        let response = cache.get_or_run(Principal::Provider, b"k", [7; 32], request);
        assert!(tokio::time::timeout(Duration::from_millis(1), response).await.is_err());
        resume.send(()).unwrap();
        runs.request(&cache, Principal::Provider, "k", StatusCode::OK).await;
        assert_eq!(runs.count(), 1);
    }
}
