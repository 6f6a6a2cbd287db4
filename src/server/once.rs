//! Requests that are repeated: the same `Idempotency-Key` of the same caller gets the same answer, and is done once.
//!
//! Answers are remembered in memory for a day, the longest unused going first where they take more than 64 MiB for the
//! provider, or half a MiB for a tenant: each has its own share, so that none makes another's be forgotten. Only success
//! is remembered: after a failure the repetition is another attempt.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use super::Server;
use super::auth::authenticate;
use super::extract::receive_managing;
use super::problem::Problem;
use crate::common::id::{TenantId, digest};
use crate::registry::Principal;

/// The header by which a caller marks a repetition.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Longer keys are refused: each is remembered.
const MOST_KEY_BYTES: usize = 255;

const PROVIDERS_BYTES: u64 = 64 << 20;
const TENANTS_BYTES: u64 = 512 << 10;
/// Tenants whose answers are remembered: those that repeated themselves last.
const TENANTS: u64 = 1_024;
const REMEMBERED_TIME: Duration = Duration::from_secs(24 * 3600);
/// What remembering takes beside key and body.
const ENTRY_BYTES: usize = 256;

/// The SHA-256 of what a request asks for.
pub(super) type Fingerprint = [u8; 32];

/// The answers of one caller, by the SHA-256 of their keys.
type Answers = Cache<[u8; 32], Remembered>;

/// See the module's page.
pub struct Once {
    providers: Answers,
    tenants: moka::sync::Cache<TenantId, Answers>,
    /// Bytes that each tenant's answers may take.
    share: u64,
}

#[derive(Clone)]
struct Remembered {
    asked: Fingerprint,
    answer: Answer,
}

/// An answer that can be given again.
#[derive(Clone)]
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// Takes an answer apart.
    pub(super) async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, body }
    }

    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        *response.headers_mut() = self.headers;
        response
    }
}

impl Once {
    /// Nothing remembered.
    #[must_use]
    pub fn new() -> Self {
        Self::with_shares(PROVIDERS_BYTES, TENANTS_BYTES)
    }

    fn with_shares(providers: u64, share: u64) -> Self {
        let tenants = moka::sync::Cache::builder().max_capacity(TENANTS).time_to_idle(REMEMBERED_TIME);
        let tenants = tenants.eviction_policy(EvictionPolicy::lru()).build();
        Self { providers: answers(providers), tenants, share }
    }

    fn of(&self, principal: Principal) -> Answers {
        match principal {
            Principal::Provider => self.providers.clone(),
            Principal::Tenant(id) => self.tenants.get_with(id, || answers(self.share)),
        }
    }

    /// Answers as before, or makes the answer, once however many ask at the same time; also where the caller goes
    /// away meanwhile, so that what was done is remembered.
    pub(super) async fn answer(
        &self,
        principal: Principal,
        key: &[u8],
        asked: Fingerprint,
        make: impl Future<Output = Response> + Send + 'static,
    ) -> Response {
        let (cache, key) = (self.of(principal), digest(&[key]));
        let made = tokio::spawn(async move {
            let remembered = async {
                let answer = Answer::of(make.await).await;
                let remembered = Remembered { asked, answer };
                if remembered.answer.status.is_success() { Ok(remembered) } else { Err(remembered) }
            };
            cache.try_get_with(key, remembered).await
        });
        let remembered = match made.await {
            Ok(Ok(remembered)) => remembered,
            Ok(Err(failed)) => Remembered::clone(&failed),
            Err(_) => {
                return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "see the server's log")
                    .into_response();
            }
        };
        if remembered.asked != asked {
            let detail = "this Idempotency-Key was used for another request; use a new one for each";
            return Problem::new(StatusCode::CONFLICT, detail).into_response();
        }
        remembered.answer.into_response()
    }
}

/// Room for answers of `bytes` in all. The longest unused go first: moka's other policy would rather keep old ones
/// that are used no more than new ones that may be.
fn answers(bytes: u64) -> Answers {
    let weight = |_: &[u8; 32], remembered: &Remembered| {
        u32::try_from(remembered.answer.body.len().saturating_add(ENTRY_BYTES)).unwrap_or(u32::MAX)
    };
    let cache = Cache::builder().weigher(weight).max_capacity(bytes).time_to_live(REMEMBERED_TIME);
    cache.eviction_policy(EvictionPolicy::lru()).build()
}

impl Default for Once {
    fn default() -> Self {
        Self::new()
    }
}

/// The request's idempotency key, where it has one.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > MOST_KEY_BYTES || !key.iter().all(u8::is_ascii_graphic) {
        let detail = format!("Idempotency-Key must be 1 to {MOST_KEY_BYTES} visible ASCII characters");
        return Err(Problem::bad_request(detail));
    }
    Ok(Some(key.to_vec()))
}

/// What a request asks for.
pub(super) fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    digest(parts)
}

/// Gives POSTs that manage something the same answer again.
pub(super) async fn layer(
    State(server): State<Arc<Server>>,
    request: Request<Body>,
    next: Next,
) -> Result<Response, Problem> {
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let Some(key) = key_of(request.headers())? else { return Ok(next.run(request).await) };
    let (parts, body) = request.into_parts();
    let principal = authenticate(&server, &parts).await?;
    let (body, room) = receive_managing(&server, body).await?;
    drop(room);
    let content_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], http::HeaderValue::as_bytes);
    let asked = fingerprint(&[parts.uri.path().as_bytes(), content_type, &body]);
    let request = Request::from_parts(parts, Body::from(body));
    // Keys of published events are others'.
    let key = [b"manage ", key.as_slice()].concat();
    Ok(server.once.answer(principal, &key, asked, next.run(request)).await)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const KIB: u64 = 1 << 10;

    /// How often requests were done.
    #[derive(Default, Clone)]
    struct Done(Arc<AtomicUsize>);

    impl Done {
        async fn ask(&self, once: &Once, who: Principal, key: &str, status: StatusCode) -> StatusCode {
            let done = self.clone();
            let make = async move {
                done.0.fetch_add(1, Ordering::Relaxed);
                status.into_response()
            };
            once.answer(who, key.as_bytes(), [7; 32], make).await.status()
        }

        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn success_is_done_once_and_failure_again() {
        let (once, done) = (Once::new(), Done::default());
        for _ in 0..3 {
            assert_eq!(done.ask(&once, Principal::Provider, "k", StatusCode::CREATED).await, 201);
        }
        assert_eq!(done.count(), 1);
        for _ in 0..3 {
            assert_eq!(done.ask(&once, Principal::Provider, "l", StatusCode::CONFLICT).await, 409);
        }
        assert_eq!(done.count(), 4);
    }

    #[tokio::test]
    async fn nobody_makes_anothers_answers_be_forgotten_and_the_latest_stay() {
        let (once, done) = (Once::with_shares(32 * KIB, 32 * KIB), Done::default());
        let tenants = [TenantId::new(), TenantId::new()].map(Principal::Tenant);
        for who in [Principal::Provider, tenants[0]] {
            done.ask(&once, who, "first", StatusCode::OK).await;
        }
        for number in 0..2_000 {
            done.ask(&once, tenants[1], &number.to_string(), StatusCode::OK).await;
        }
        once.of(tenants[1]).run_pending_tasks().await;
        assert_eq!(done.count(), 2_002);
        for who in [Principal::Provider, tenants[0]] {
            done.ask(&once, who, "first", StatusCode::OK).await;
        }
        for number in 1_950..2_000 {
            done.ask(&once, tenants[1], &number.to_string(), StatusCode::OK).await;
        }
        assert_eq!(done.count(), 2_002, "remembered");
        done.ask(&once, tenants[1], "0", StatusCode::OK).await;
        assert_eq!(done.count(), 2_003, "forgotten");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_undo_what_it_asked_for() {
        let (once, done) = (Arc::new(Once::new()), Done::default());
        let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
        let counted = done.clone();
        let make = async move {
            drop(wait.await);
            counted.0.fetch_add(1, Ordering::Relaxed);
            StatusCode::OK.into_response()
        };
        let asking = once.answer(Principal::Provider, b"k", [7; 32], make);
        assert!(tokio::time::timeout(Duration::from_millis(1), asking).await.is_err());
        go_on.send(()).unwrap();
        done.ask(&once, Principal::Provider, "k", StatusCode::OK).await;
        assert_eq!(done.count(), 1);
    }
}
