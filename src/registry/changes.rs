//! Changes: each is durable, and in force, when it returns. Dropping the future doesn't undo one that was begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::endpoint::{
    Disabled, DisabledReason, Endpoint, EndpointPatch, EndpointSettings, MOST_SECRETS, SigningSecret,
};
use super::limits::{LimitOverrides, LimitUpdate};
use super::name::Name;
use super::state::{Change, Entry, State};
use super::tenant::{ApiKeyRecord, KeyState, Tenant, TenantKey};
use super::{Registry, RegistryError, TenantRef};
use crate::common::clock::after;
use crate::common::crypto::api_key::{ApiKey, KeyHash, KeyKind};
use crate::common::crypto::keys::PublicKey;
use crate::common::crypto::signature::Secret;
use crate::common::id::{ApiKeyId, EndpointId, TenantId};

/// Public keys of one tenant that are remembered; the longest retired is forgotten for a new one.
const MOST_PUBLIC_KEYS: usize = 32;
/// API keys of one tenant, or of the provider.
const MOST_API_KEYS: usize = 64;

const NO_TENANT: RegistryError = RegistryError::NoSuch("tenant");
const NO_ENDPOINT: RegistryError = RegistryError::NoSuch("endpoint");
const NO_PUBLIC_KEY: RegistryError = RegistryError::NoSuch("public key");

impl Registry {
    /// Makes a tenant.
    ///
    /// # Errors
    /// Its name is another's, or it can't be written.
    pub async fn create_tenant(
        &self,
        name: Name,
        limits: LimitOverrides,
    ) -> Result<Arc<Tenant>, RegistryError> {
        self.change(move |state| {
            refuse_taken(state, &name)?;
            let tenant =
                Arc::new(Tenant { id: TenantId::new(), name, limits, created_at: now(), version: 1 });
            Ok((vec![Change::PutTenant(Arc::clone(&tenant))], tenant))
        })
        .await
    }

    /// Changes a tenant's name or limits.
    ///
    /// # Errors
    /// It isn't there, isn't of the version `expected`, or the name is another's.
    pub async fn update_tenant(
        &self,
        id: TenantId,
        expected: Option<u64>,
        name: Option<Name>,
        limits: Option<LimitUpdate>,
    ) -> Result<Arc<Tenant>, RegistryError> {
        self.change(move |state| {
            let old = &entry(state, id)?.tenant;
            check_version(expected, old.version)?;
            if let Some(name) = name.as_ref().filter(|name| **name != old.name) {
                refuse_taken(state, name)?;
            }
            let name = name.unwrap_or_else(|| old.name.clone());
            let limits = limits.map_or(old.limits, |update| update.applied_to(old.limits));
            if (&name, limits) == (&old.name, old.limits) {
                return Ok((Vec::new(), Arc::clone(old)));
            }
            let version = old.version.saturating_add(1);
            let tenant = Arc::new(Tenant { name, limits, version, ..Tenant::clone(old) });
            Ok((vec![Change::PutTenant(Arc::clone(&tenant))], tenant))
        })
        .await
    }

    /// Deletes a tenant with all that is its own; gives the endpoints that it had.
    ///
    /// # Errors
    /// It isn't there, or isn't of the version `expected`.
    pub async fn delete_tenant(
        &self,
        id: TenantId,
        expected: Option<u64>,
    ) -> Result<Vec<EndpointId>, RegistryError> {
        self.change(move |state| {
            let entry = entry(state, id)?;
            check_version(expected, entry.tenant.version)?;
            Ok((vec![Change::DeleteTenant(id)], entry.endpoints.keys().copied().collect()))
        })
        .await
    }

    /// Makes an API key for a tenant, or for the provider. Only its hash is kept.
    ///
    /// # Errors
    /// The tenant isn't there, or has too many keys.
    pub async fn create_api_key(
        &self,
        owner: Option<TenantId>,
        description: Option<Name>,
    ) -> Result<(Arc<ApiKeyRecord>, ApiKey), RegistryError> {
        self.change(move |state| {
            let keys = state.api_keys_of(owner).ok_or(NO_TENANT)?;
            check_limit("API keys (revoke one)", keys.len(), MOST_API_KEYS)?;
            let key = ApiKey::generate(if owner.is_some() { KeyKind::Tenant } else { KeyKind::Provider })?;
            let record = record_of(&key, owner, description);
            Ok((vec![Change::PutApiKey(Arc::clone(&record))], (record, key)))
        })
        .await
    }

    /// Puts a key of the provider's into force, unless there is one already. Says whether it did.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn first_provider_key(&self, key: &ApiKey) -> Result<bool, RegistryError> {
        let made = record_of(key, None, None);
        self.change(move |state| {
            let none = state.api_keys_of(None).is_none_or(BTreeMap::is_empty);
            Ok((none.then_some(Change::PutApiKey(made)).into_iter().collect(), none))
        })
        .await
    }

    /// Puts a key of the provider's into force, and revokes the one of hash `old`, if there is one.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn replace_provider_key(
        &self,
        key: &ApiKey,
        old: Option<KeyHash>,
    ) -> Result<(), RegistryError> {
        let made = record_of(key, None, None);
        self.change(move |state| {
            let old = old.and_then(|hash| state.api_key(&hash)).filter(|old| old.tenant.is_none());
            let revoked = old.map(|old| Change::DeleteApiKey(None, old.id));
            Ok(([Some(Change::PutApiKey(made)), revoked].into_iter().flatten().collect(), ()))
        })
        .await
    }

    /// Revokes an API key, at once.
    ///
    /// # Errors
    /// It isn't there, or is the provider's last.
    pub async fn revoke_api_key(&self, owner: Option<TenantId>, id: ApiKeyId) -> Result<(), RegistryError> {
        self.change(move |state| {
            let keys = state.api_keys_of(owner).ok_or(NO_TENANT)?;
            if !keys.contains_key(&id) {
                return Err(RegistryError::NoSuch("API key"));
            }
            if owner.is_none() && keys.len() == 1 {
                return Err(RegistryError::Conflict(
                    "this is the provider's last API key: make another first",
                ));
            }
            Ok((vec![Change::DeleteApiKey(owner, id)], ()))
        })
        .await
    }

    /// Adds a public key, which new events are sealed to from now on; the one before it is retiring. A key that the
    /// tenant had before comes back. Says whether it is new.
    ///
    /// # Errors
    /// The tenant isn't there.
    pub async fn add_public_key(
        &self,
        tenant: TenantId,
        key: PublicKey,
    ) -> Result<(Arc<TenantKey>, bool), RegistryError> {
        self.change(move |state| {
            let entry = entry(state, tenant)?;
            let (now, kid) = (now(), key.kid());
            let known = entry.public_keys.iter().find(|known| *known.kid == *kid);
            if let Some(active) = known.filter(|known| known.state == KeyState::Active) {
                return Ok((Vec::new(), (Arc::clone(active), false)));
            }
            let mut changes = Vec::new();
            if known.is_none() && entry.public_keys.len() >= MOST_PUBLIC_KEYS {
                let retired = entry.public_keys.iter().filter(|key| key.state == KeyState::Retired);
                let oldest = retired.min_by_key(|key| key.changed_at).ok_or(RegistryError::Limit {
                    what: "public keys that aren't retired",
                    most: u64::try_from(MOST_PUBLIC_KEYS).unwrap_or(u64::MAX),
                })?;
                changes.push(Change::DeletePublicKey(tenant, oldest.kid.clone()));
            }
            // First, since a tenant has one active key at most, at any time.
            changes.extend(entry.active_key().map(|active| {
                Change::PutPublicKey(tenant, Arc::new(active.in_state(KeyState::Retiring, now)))
            }));
            let added = match known {
                Some(known) => known.in_state(KeyState::Active, now),
                None => TenantKey::new(kid, &key.to_pem()?, key.bits(), KeyState::Active, [now, now]),
            };
            let added = Arc::new(added);
            changes.push(Change::PutPublicKey(tenant, Arc::clone(&added)));
            Ok((changes, (added, known.is_none())))
        })
        .await
    }

    /// Retires a public key that another has taken the place of.
    ///
    /// # Errors
    /// It isn't there, or is the active one.
    pub async fn retire_public_key(
        &self,
        tenant: TenantId,
        kid: String,
    ) -> Result<Arc<TenantKey>, RegistryError> {
        self.change(move |state| {
            let keys = &entry(state, tenant)?.public_keys;
            let key = keys.iter().find(|key| *key.kid == *kid).ok_or(NO_PUBLIC_KEY)?;
            match key.state {
                KeyState::Active => Err(RegistryError::Conflict(
                    "events are sealed to this key: add the one that takes its place first",
                )),
                KeyState::Retired => Ok((Vec::new(), Arc::clone(key))),
                KeyState::Retiring => {
                    let retired = Arc::new(key.in_state(KeyState::Retired, now()));
                    Ok((vec![Change::PutPublicKey(tenant, Arc::clone(&retired))], retired))
                }
            }
        })
        .await
    }

    /// Adds an endpoint that signs with `secret`.
    ///
    /// # Errors
    /// The tenant isn't there, has no public key yet, or has as many endpoints as it may.
    pub async fn add_endpoint(
        &self,
        tenant: TenantId,
        settings: EndpointSettings,
        secret: Secret,
    ) -> Result<Arc<Endpoint>, RegistryError> {
        self.change(move |state| {
            let entry = entry(state, tenant)?;
            if entry.active_key().is_none() {
                return Err(RegistryError::Conflict(
                    "the tenant has no public key yet, and nothing is delivered unsealed: add one first",
                ));
            }
            let most = state.limits(entry.tenant.limits).endpoints;
            check_limit(
                "endpoints (delete one, or ask the provider for more)",
                entry.endpoints.len(),
                usize::try_from(most).unwrap_or(usize::MAX),
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

    /// Changes an endpoint; `by` says who does, where that disables it.
    ///
    /// # Errors
    /// It isn't there, or isn't of the version `expected`.
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

    /// Disables an endpoint that answered 410, unless it was changed since. Says whether it did.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn disable_gone(&self, gone: Arc<Endpoint>) -> Result<bool, RegistryError> {
        self.change(move |state| {
            let same = |known: &&Arc<Endpoint>| known.version == gone.version;
            let Some(old) = state.endpoint(gone.tenant, gone.id).filter(same) else {
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
    /// It isn't there, or isn't of the version `expected`.
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

    /// Gives an endpoint a new signing secret; the ones before it go on signing for `overlap`.
    ///
    /// # Errors
    /// It isn't there, or has as many live secrets as it may.
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
                MOST_SECRETS,
            )?;
            endpoint.secrets = vec![SigningSecret { secret, expires_at: None }];
            endpoint.secrets.extend(ending);
            Ok(put(endpoint))
        })
        .await
    }
}

fn record_of(key: &ApiKey, owner: Option<TenantId>, description: Option<Name>) -> Arc<ApiKeyRecord> {
    Arc::new(ApiKeyRecord {
        id: ApiKeyId::new(),
        tenant: owner,
        hash: key.hash(),
        hint: key.hint(),
        description,
        created_at: now(),
    })
}

fn entry(state: &State, id: TenantId) -> Result<&Entry, RegistryError> {
    state.entry_of(id).ok_or(NO_TENANT)
}

/// Whether an endpoint is disabled once it was switched, or not, by the provider or its tenant. What the provider
/// disables, it alone enables again.
fn disabled_after(
    old: Option<&Disabled>,
    enabled: Option<bool>,
    by: DisabledReason,
) -> Result<Option<Disabled>, RegistryError> {
    let is_providers = |reason| reason == DisabledReason::ByProvider;
    match (enabled, old) {
        (Some(true), Some(old)) if is_providers(old.reason) && !is_providers(by) => {
            Err(RegistryError::Conflict("the provider disabled this endpoint, and alone enables it again"))
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

fn refuse_taken(state: &State, name: &Name) -> Result<(), RegistryError> {
    match state.entry(&TenantRef::Name(name.as_str().to_owned())) {
        Some(_) => Err(RegistryError::Conflict("another tenant has this name")),
        None => Ok(()),
    }
}

fn check_version(expected: Option<u64>, found: u64) -> Result<(), RegistryError> {
    if expected.is_none_or(|expected| expected == found) { Ok(()) } else { Err(RegistryError::Changed) }
}

fn check_limit(what: &'static str, have: usize, most: usize) -> Result<(), RegistryError> {
    if have < most {
        return Ok(());
    }
    Err(RegistryError::Limit { what, most: u64::try_from(most).unwrap_or(u64::MAX) })
}

/// The time in whole milliseconds, which is what stores keep.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
