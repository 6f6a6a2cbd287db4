//! Adding, updating, disabling and deleting endpoints, and rotating their signing secrets.

use std::sync::Arc;
use std::time::Duration;

use super::{check_limit, check_version, now, tenant_entry};
use crate::common::clock::after;
use crate::common::crypto::signature::Secret;
use crate::common::id::{EndpointId, TenantId};
use crate::registry::Registry;
use crate::registry::endpoint::{
    Disabled, DisabledReason, Endpoint, EndpointPatch, EndpointSettings, MAX_SECRETS, SigningSecret,
};
use crate::registry::error::RegistryError;
use crate::registry::state::Change;

const NO_ENDPOINT: RegistryError = RegistryError::NoSuch("endpoint");

impl Registry {
    /// Adds an endpoint whose deliveries are signed with `secret`.
    ///
    /// # Errors
    /// The tenant doesn't exist, has no public key or too many endpoints, or the change can't be written.
    pub async fn add_endpoint(
        &self,
        tenant: TenantId,
        settings: EndpointSettings,
        secret: Secret,
    ) -> Result<Arc<Endpoint>, RegistryError> {
        self.change(move |state| {
            let entry = tenant_entry(state, tenant)?;
            if entry.active_key().is_none() {
                return Err(RegistryError::Conflict(
                    "the tenant has no public key yet, and nothing is delivered unsealed: add one first",
                ));
            }
            let max = state.limits(entry.tenant.limits).endpoints;
            check_limit(
                "endpoints (delete one, or ask the provider for more)",
                entry.endpoints.len(),
                usize::try_from(max).unwrap_or(usize::MAX),
            )?;
            let endpoint = Arc::new(Endpoint {
                id: EndpointId::new(),
                tenant,
                settings,
                secrets: vec![SigningSecret { secret, expires_at: None }],
                disabled: None,
                created_at: now(),
                version: 1,
            });
            Ok((vec![Change::PutEndpoint(Arc::clone(&endpoint))], endpoint))
        })
        .await
    }

    /// Changes an endpoint. `by` is recorded as the reason if that disables it.
    ///
    /// # Errors
    /// The endpoint doesn't exist or isn't of the version `expected`, a tenant enables what the provider disabled, or the
    /// change can't be written.
    pub async fn update_endpoint(
        &self,
        tenant: TenantId,
        id: EndpointId,
        expected: Option<u64>,
        patch: EndpointPatch,
        by: DisabledReason,
    ) -> Result<Arc<Endpoint>, RegistryError> {
        self.change(move |state| {
            let old = state.endpoint(tenant, id).ok_or(NO_ENDPOINT)?;
            check_version(expected, old.version)?;
            let mut endpoint = next_version(old);
            let enabled = patch.enabled;
            patch.apply(&mut endpoint.settings);
            endpoint.disabled = disabled_after(old.disabled.as_ref(), enabled, by)?;
            if endpoint.settings == old.settings && endpoint.disabled == old.disabled {
                return Ok((Vec::new(), Arc::clone(old)));
            }
            Ok(put(endpoint))
        })
        .await
    }

    /// Disables an endpoint that answered 410 Gone, unless it was changed since. Returns whether it was disabled.
    ///
    /// # Errors
    /// The change can't be written.
    pub async fn disable_gone(&self, gone: Arc<Endpoint>) -> Result<bool, RegistryError> {
        self.change(move |state| {
            let is_unchanged = |known: &&Arc<Endpoint>| known.version == gone.version;
            let Some(old) = state.endpoint(gone.tenant, gone.id).filter(is_unchanged) else {
                return Ok((Vec::new(), false));
            };
            let mut endpoint = next_version(old);
            endpoint.disabled = Some(Disabled { reason: DisabledReason::Gone, since: now() });
            Ok((put(endpoint).0, true))
        })
        .await
    }

    /// Deletes an endpoint.
    ///
    /// # Errors
    /// The endpoint doesn't exist or isn't of the version `expected`, or the change can't be written.
    pub async fn delete_endpoint(
        &self,
        tenant: TenantId,
        id: EndpointId,
        expected: Option<u64>,
    ) -> Result<(), RegistryError> {
        self.change(move |state| {
            check_version(expected, state.endpoint(tenant, id).ok_or(NO_ENDPOINT)?.version)?;
            Ok((vec![Change::DeleteEndpoint(tenant, id)], ()))
        })
        .await
    }

    /// Gives an endpoint a new signing secret. Its earlier secrets keep signing for at most `overlap`.
    ///
    /// # Errors
    /// The endpoint doesn't exist or has too many live secrets, or the change can't be written.
    pub async fn rotate_secret(
        &self,
        tenant: TenantId,
        id: EndpointId,
        secret: Secret,
        overlap: Duration,
    ) -> Result<Arc<Endpoint>, RegistryError> {
        self.change(move |state| {
            let old = state.endpoint(tenant, id).ok_or(NO_ENDPOINT)?;
            let (now, mut endpoint) = (now(), next_version(old));
            let end = after(now, overlap);
            let ending = old.live_secrets(now).map(|live| SigningSecret {
                secret: live.secret.clone(),
                expires_at: Some(live.expires_at.map_or(end, |earlier| earlier.min(end))),
            });
            let ending: Vec<_> = ending.filter(|secret| secret.expires_at > Some(now)).collect();
            check_limit(
                "signing secrets at once (wait for old ones to end, or rotate with an overlap of 0)",
                ending.len(),
                MAX_SECRETS,
            )?;
            endpoint.secrets = vec![SigningSecret { secret, expires_at: None }];
            endpoint.secrets.extend(ending);
            Ok(put(endpoint))
        })
        .await
    }
}

/// Returns the disabled state after the provider or the tenant has changed `enabled`, or left it. Only the provider can
/// enable an endpoint that the provider disabled.
fn disabled_after(
    old: Option<&Disabled>,
    enabled: Option<bool>,
    by: DisabledReason,
) -> Result<Option<Disabled>, RegistryError> {
    let is_providers = |reason| reason == DisabledReason::ByProvider;
    match (enabled, old) {
        (Some(true), Some(old)) if is_providers(old.reason) && !is_providers(by) => {
            Err(RegistryError::Conflict(
                "the provider disabled this endpoint, and only the provider can enable it",
            ))
        }
        (Some(true), _) => Ok(None),
        (Some(false), Some(old)) if is_providers(old.reason) || !is_providers(by) => Ok(Some(old.clone())),
        (Some(false), _) => Ok(Some(Disabled { reason: by, since: now() })),
        (None, old) => Ok(old.cloned()),
    }
}

fn next_version(old: &Endpoint) -> Endpoint {
    Endpoint { version: old.version.saturating_add(1), ..old.clone() }
}

fn put(endpoint: Endpoint) -> (Vec<Change>, Arc<Endpoint>) {
    let endpoint = Arc::new(endpoint);
    (vec![Change::PutEndpoint(Arc::clone(&endpoint))], endpoint)
}
