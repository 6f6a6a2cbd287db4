//! Who asks, and what is theirs.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::problem::Problem;
use super::{Server, answer};
use crate::common::crypto::api_key::{self, KeyHash};
use crate::registry::endpoint::DisabledReason;
use crate::registry::name::ME;
use crate::registry::tenant::Tenant;
use crate::registry::{Principal, TenantRef};

/// Longer texts aren't keys, and aren't hashed.
const MOST_KEY_BYTES: usize = 128;

/// Who makes the request, by the API key in its `Authorization` header.
pub(super) struct Caller(pub(super) Principal);

impl FromRequestParts<Arc<Server>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Problem> {
        authenticate(server, parts).await?;
        // What was changed at another server a moment ago holds here as well; without Redis, what is known does.
        drop(server.registry.refreshed().await);
        authenticate(server, parts).await.map(Self)
    }
}

/// Who makes the request.
pub(super) async fn authenticate(server: &Server, parts: &Parts) -> Result<Principal, Problem> {
    refuse_key_in_url(parts)?;
    let unauthorized = |detail| Problem::new(StatusCode::UNAUTHORIZED, detail);
    let header = parts
        .headers
        .get(AUTHORIZATION)
        .ok_or_else(|| unauthorized("an API key is needed: `Authorization: Bearer <key>`"))?;
    let key = header.to_str().ok().and_then(|header| header.split_once(' ')).and_then(|(scheme, key)| {
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim()).filter(|key| key.len() <= MOST_KEY_BYTES)
    });
    let principal = match key {
        // Not for the log, which strangers would fill; what is wrong stands there already.
        Some(key) => server.registry.identify(&KeyHash::of(key)).await.map_err(|_| {
            let detail =
                "this API key isn't known here, and other servers' can't be asked for now: try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })?,
        None => None,
    };
    principal.ok_or_else(|| unauthorized("this API key isn't known: it may have been revoked"))
}

/// Logs keep URLs, whoever makes the request.
pub(super) fn refuse_key_in_url(parts: &Parts) -> Result<(), Problem> {
    if parts.uri.path_and_query().is_some_and(|url| api_key::contains_key(url.as_str())) {
        return Err(Problem::bad_request(
            "an API key doesn't belong into a URL, which logs keep: revoke it, and send another as `Authorization: Bearer <key>`",
        ));
    }
    Ok(())
}

impl Caller {
    /// Only the provider may.
    pub(super) fn require_provider(&self) -> Result<(), Problem> {
        match self.0 {
            Principal::Provider => Ok(()),
            Principal::Tenant(_) => {
                Err(Problem::new(StatusCode::FORBIDDEN, "this needs an API key of the provider"))
            }
        }
    }

    /// The tenant that `named` is the id or name of, where it is the caller's to see: whether another tenant's is
    /// there, an answer never tells.
    pub(super) fn tenant(&self, server: &Server, named: &str) -> Result<Arc<Tenant>, Problem> {
        let named = match self.0 {
            Principal::Tenant(id) if named == ME => TenantRef::Id(id),
            Principal::Provider if named == ME => {
                let detail = "`me` is for a tenant's own API key; the provider names the tenant";
                return Err(Problem::new(StatusCode::NOT_FOUND, detail));
            }
            _ => TenantRef::parse(named),
        };
        let found = server.registry.tenant(&named);
        let theirs = |tenant: &Arc<Tenant>| match self.0 {
            Principal::Provider => true,
            Principal::Tenant(id) => tenant.id == id,
        };
        found.filter(theirs).ok_or_else(|| answer::no_such("tenant"))
    }

    /// What the caller disables an endpoint as.
    pub(super) fn disables_as(&self) -> DisabledReason {
        match self.0 {
            Principal::Provider => DisabledReason::ByProvider,
            Principal::Tenant(_) => DisabledReason::ByTenant,
        }
    }
}
