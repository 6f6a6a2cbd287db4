//! Authentication of callers, and what each of them may see.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::problem::Problem;
use super::{Server, response};
use crate::common::crypto::api_key::{self, KeyHash};
use crate::registry::endpoint::DisabledReason;
use crate::registry::name::ME;
use crate::registry::tenant::Tenant;
use crate::registry::{Principal, TenantRef};

/// Maximum length of an API key, in bytes. A longer text can't be a key and isn't hashed.
const MAX_KEY_BYTES: usize = 128;

/// The authenticated caller of a request.
pub(super) struct Caller(pub(super) Principal);

impl FromRequestParts<Arc<Server>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Problem> {
        authenticate(server, parts).await?;
        // Another server may have revoked the key or changed the tenant a moment ago. If the shared registry can't be
        // reached, this server goes on with what it knows.
        drop(server.registry.refreshed().await);
        authenticate(server, parts).await.map(Self)
    }
}

/// Identifies the caller by the API key in the `Authorization` header.
///
/// # Errors
/// 401 without a valid key, 503 if the key is unknown here and the shared registry can't be reached, 400 for a key in
/// the URL.
pub(super) async fn authenticate(server: &Server, parts: &Parts) -> Result<Principal, Problem> {
    refuse_key_in_url(parts)?;
    let unauthorized = |detail| Problem::new(StatusCode::UNAUTHORIZED, detail);
    let header = parts
        .headers
        .get(AUTHORIZATION)
        .ok_or_else(|| unauthorized("an API key is required; send it as `Authorization: Bearer <key>`"))?;
    let key = header.to_str().ok().and_then(|header| header.split_once(' ')).and_then(|(scheme, key)| {
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim()).filter(|key| key.len() <= MAX_KEY_BYTES)
    });
    let principal = match key {
        // Not logged, or unauthenticated requests could fill the log. The registry has logged the failure.
        Some(key) => server.registry.identify(&KeyHash::of(key)).await.map_err(|_| {
            let detail = "this server doesn't know the API key and can't reach the shared registry to look it up; \
                          try again after the Retry-After delay";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })?,
        None => None,
    };
    principal.ok_or_else(|| {
        unauthorized(
            "this server doesn't know the API key, or it was revoked; the provider's own key is in provider_key.txt in the \
             server's --data-dir, and `whk tenant api-key create` makes one for a tenant",
        )
    })
}

/// Refuses a request with an API key in its URL, because proxies log URLs.
///
/// # Errors
/// 400.
pub(super) fn refuse_key_in_url(parts: &Parts) -> Result<(), Problem> {
    if parts.uri.path_and_query().is_some_and(|url| api_key::contains_key(url.as_str())) {
        return Err(Problem::bad_request(
            "the URL contains an API key, and logs keep URLs; revoke it, and send another key as `Authorization: Bearer <key>`",
        ));
    }
    Ok(())
}

impl Caller {
    /// Checks that the caller is the provider.
    ///
    /// # Errors
    /// 403 for a tenant.
    pub(super) fn require_provider(&self) -> Result<(), Problem> {
        match self.0 {
            Principal::Provider => Ok(()),
            Principal::Tenant(_) => {
                let detail = "this route requires an API key of the provider; a tenant's key works below /tenants/me, on the \
                              command line with `--tenant me`";
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            }
        }
    }

    /// Returns the tenant with the id or name `named`. `me` stands for a tenant that calls.
    ///
    /// # Errors
    /// 404 if there is no such tenant, and also if the caller is another tenant, which must not learn that it exists.
    pub(super) fn tenant(&self, server: &Server, named: &str) -> Result<Arc<Tenant>, Problem> {
        let named = match self.0 {
            Principal::Tenant(id) if named == ME => TenantRef::Id(id),
            Principal::Provider if named == ME => {
                let detail = "`me` requires the tenant's own API key; with an API key of the provider, name the tenant";
                return Err(Problem::new(StatusCode::NOT_FOUND, detail));
            }
            _ => TenantRef::parse(named),
        };
        let found = server.registry.tenant(&named);
        let is_visible = |tenant: &Arc<Tenant>| match self.0 {
            Principal::Provider => true,
            Principal::Tenant(id) => tenant.id == id,
        };
        found.filter(is_visible).ok_or_else(|| response::no_such("tenant"))
    }

    /// Returns the reason that an endpoint disabled by this caller shows.
    pub(super) fn disabled_reason(&self) -> DisabledReason {
        match self.0 {
            Principal::Provider => DisabledReason::ByProvider,
            Principal::Tenant(_) => DisabledReason::ByTenant,
        }
    }
}
