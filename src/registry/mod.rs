//! The registry: tenants, their API keys, public keys and endpoints. [`open`] is the only place that picks a backend.
//!
//! Look-ups are answered from memory ([`state`]); a change is written down first ([`sqlite`]) and then followed in
//! memory, before it is answered, so a publish that comes after it sees it.

pub mod data_dir;
mod sqlite;
mod state;
mod subscriptions;
pub mod tenant;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use governor::DefaultDirectRateLimiter;
use jiff::Timestamp;

use self::data_dir::{DataDir, DataDirError};
use self::sqlite::Store;
pub use self::sqlite::StoreError;
pub use self::state::Recipient;
use self::state::{Change, Entry, State};
use self::tenant::{
    ApiKeyRecord, Disabled, DisabledReason, Endpoint, EndpointPatch, EndpointSettings, KeyState,
    LimitOverrides, MOST_SECRETS, Name, SigningSecret, Tenant, TenantKey,
};
use crate::common::clock::after;
use crate::common::crypto::api_key::{ApiKey, KeyHash, KeyKind};
use crate::common::crypto::keys::{KeyError, PublicKey};
use crate::common::crypto::signature::Secret;
use crate::common::event_type::EventType;
use crate::common::id::{ApiKeyId, EndpointId, TenantId};

/// Public keys of one tenant that are remembered; the longest retired is forgotten for a new one.
const MOST_PUBLIC_KEYS: usize = 32;
/// API keys of one tenant, or of the provider.
const MOST_API_KEYS: usize = 64;

/// What each tenant may use, unless it has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Jobs in the queue at once.
    pub queued_jobs: u32,
    /// Events published to it by name, or by itself, a second.
    pub publishes_per_second: u32,
    /// Endpoints.
    pub endpoints: u32,
}

impl Limits {
    fn with(self, overrides: LimitOverrides) -> Self {
        let or = |own: Option<std::num::NonZeroU32>, default| own.map_or(default, std::num::NonZeroU32::get);
        Self {
            queued_jobs: or(overrides.queued_jobs, self.queued_jobs),
            publishes_per_second: or(overrides.publishes_per_second, self.publishes_per_second),
            endpoints: or(overrides.endpoints, self.endpoints),
        }
    }
}

/// How a tenant is named by those who ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRef {
    /// By its id.
    Id(TenantId),
    /// By its name.
    Name(String),
}

impl TenantRef {
    /// Reads an id, or else takes the text for a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}

impl From<TenantId> for TenantRef {
    fn from(id: TenantId) -> Self {
        Self::Id(id)
    }
}

/// Who makes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The provider.
    Provider,
    /// One tenant.
    Tenant(TenantId),
}

/// Why the registry can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or the secret key.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the registry didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It isn't there, or isn't the asker's.
    #[error("no such {0}")]
    NoSuch(&'static str),
    /// Another change came first.
    #[error("it was changed since it was read: read it again, and change that")]
    Changed,
    /// It can't be done in the state that things are in.
    #[error("{0}")]
    Conflict(&'static str),
    /// A limit is reached.
    #[error("the limit of {most} {what} is reached")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        most: u64,
    },
    /// It couldn't be written down; nothing has changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system's random generator failed.
    #[error("read the system's random generator")]
    Random(#[from] rand::rngs::SysError),
    /// A public key can't be written as PEM.
    #[error("public key")]
    Key(#[from] KeyError),
    /// The process is ending.
    #[error("the registry has stopped")]
    Stopped,
}

const NO_TENANT: RegistryError = RegistryError::NoSuch("tenant");
const NO_ENDPOINT: RegistryError = RegistryError::NoSuch("endpoint");
const NO_PUBLIC_KEY: RegistryError = RegistryError::NoSuch("public key");

/// See the module's page. Cloning it shares it.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    /// Held by the one change that is being made, also while it is followed in memory.
    store: Mutex<Store>,
    state: RwLock<State>,
}

/// Opens the registry in `dir`, and makes it where there is none. Secrets are sealed with the key in
/// `secret_key_file`, or one in `dir`.
///
/// # Errors
/// The database or the key can't be read, don't belong together, or are of a newer version.
pub fn open(dir: &DataDir, secret_key_file: Option<&Path>, limits: Limits) -> Result<Registry, OpenError> {
    let store = Store::open(&dir.registry()?, |may_make| {
        dir.vault(secret_key_file, may_make).map_err(OpenError::DataDir)
    })?;
    let mut state = State::new(limits);
    store.load()?.into_iter().for_each(|change| state.apply(change));
    Ok(Registry(Arc::new(Shared { store: Mutex::new(store), state: RwLock::new(state) })))
}

/// A page of a list.
pub struct Page<T> {
    /// In the order in which they were made.
    pub items: Vec<T>,
    /// Whether there are more after them.
    pub more: bool,
}

fn page<'a, T: Clone + 'a>(items: impl Iterator<Item = &'a T>, limit: usize) -> Page<T> {
    let mut items = items.cloned();
    Page { items: items.by_ref().take(limit).collect(), more: items.next().is_some() }
}

/// Look-ups: from memory, at once.
impl Registry {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who presents a key of that hash.
    #[must_use]
    pub fn authenticate(&self, hash: &KeyHash) -> Option<Principal> {
        let state = self.state();
        state.api_key(hash).map(|key| key.tenant.map_or(Principal::Provider, Principal::Tenant))
    }

    /// A tenant.
    #[must_use]
    pub fn tenant(&self, tenant: &TenantRef) -> Option<Arc<Tenant>> {
        self.state().entry(tenant).map(|entry| Arc::clone(&entry.tenant))
    }

    /// A tenant's limits, its own and the server's.
    #[must_use]
    pub fn limits(&self, tenant: &Tenant) -> Limits {
        self.state().limits(tenant.limits)
    }

    /// What a tenant may still publish now.
    #[must_use]
    pub fn publish_rate(&self, tenant: TenantId) -> Option<Arc<DefaultDirectRateLimiter>> {
        self.state().entry_of(tenant).map(|entry| Arc::clone(&entry.rate))
    }

    /// Tenants, from the one after `after` on.
    #[must_use]
    pub fn tenants(&self, after: Option<TenantId>, limit: usize) -> Page<Arc<Tenant>> {
        page(self.state().tenants_after(after), limit)
    }

    /// The API keys of a tenant, or of the provider, from the one after `after` on.
    #[must_use]
    pub fn api_keys(
        &self,
        owner: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: usize,
    ) -> Page<Arc<ApiKeyRecord>> {
        let state = self.state();
        let keys = state.api_keys_of(owner).into_iter().flatten();
        page(keys.filter(|(id, _)| after.is_none_or(|after| **id > after)).map(|(_, key)| key), limit)
    }

    /// The public keys of a tenant, in the order in which they were added.
    #[must_use]
    pub fn public_keys(&self, tenant: TenantId) -> Vec<Arc<TenantKey>> {
        self.state().entry_of(tenant).map(|entry| entry.public_keys.clone()).unwrap_or_default()
    }

    /// The endpoints of a tenant, from the one after `after` on.
    #[must_use]
    pub fn endpoints(
        &self,
        tenant: TenantId,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Page<Arc<Endpoint>> {
        let state = self.state();
        let after = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let endpoints = state.entry_of(tenant).into_iter();
        let endpoints =
            endpoints.flat_map(|entry| entry.endpoints.range((after, std::ops::Bound::Unbounded)));
        page(endpoints.map(|(_, endpoint)| endpoint), limit)
    }

    /// An endpoint of a tenant.
    #[must_use]
    pub fn endpoint(&self, tenant: TenantId, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.state().endpoint(tenant, id).cloned()
    }

    /// The ids of a tenant's endpoints.
    #[must_use]
    pub fn endpoint_ids(&self, tenant: TenantId) -> Vec<EndpointId> {
        self.state()
            .entry_of(tenant)
            .map(|entry| entry.endpoints.keys().copied().collect())
            .unwrap_or_default()
    }

    /// The enabled endpoints that want events of that type, of one tenant or all, by tenant.
    #[must_use]
    pub fn recipients(&self, kind: &EventType, of: Option<TenantId>) -> Vec<Recipient> {
        self.state().recipients(kind, of)
    }

    /// One endpoint, whatever it wants, with what its events are sealed to.
    #[must_use]
    pub fn recipient(&self, tenant: TenantId, id: EndpointId) -> Option<Recipient> {
        let state = self.state();
        let entry = state.entry_of(tenant)?;
        Some(Recipient {
            tenant: Arc::clone(&entry.tenant),
            key: Arc::clone(entry.active_key()?),
            endpoints: vec![Arc::clone(entry.endpoints.get(&id)?)],
        })
    }

    /// How many tenants and endpoints there are.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        self.state().count()
    }
}

/// Changes: each is durable, and in force, when it returns. Dropping the future doesn't undo one that was begun.
impl Registry {
    /// Decides on changes by what there is, writes them down and follows them in memory, one caller at a time.
    async fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let shared = Arc::clone(&self.0);
        let changed = tokio::task::spawn_blocking(move || {
            let mut store = shared.store.lock().unwrap_or_else(PoisonError::into_inner);
            let (changes, result) = decide(&shared.state.read().unwrap_or_else(PoisonError::into_inner))?;
            store.apply(&changes)?;
            let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
            changes.into_iter().for_each(|change| state.apply(change));
            Ok(result)
        });
        changed.await.unwrap_or(Err(RegistryError::Stopped))
    }

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
        limits: Option<LimitOverrides>,
    ) -> Result<Arc<Tenant>, RegistryError> {
        self.change(move |state| {
            let old = &entry(state, id)?.tenant;
            check_version(expected, old.version)?;
            if let Some(name) = name.as_ref().filter(|name| **name != old.name) {
                refuse_taken(state, name)?;
            }
            let tenant = Arc::new(Tenant {
                name: name.unwrap_or_else(|| old.name.clone()),
                limits: limits.unwrap_or(old.limits),
                version: old.version.saturating_add(1),
                ..Tenant::clone(old)
            });
            Ok((vec![Change::PutTenant(Arc::clone(&tenant))], tenant))
        })
        .await
    }

    /// Deletes a tenant with all that is its own.
    ///
    /// # Errors
    /// It isn't there, or isn't of the version `expected`.
    pub async fn delete_tenant(&self, id: TenantId, expected: Option<u64>) -> Result<(), RegistryError> {
        self.change(move |state| {
            check_version(expected, entry(state, id)?.tenant.version)?;
            Ok((vec![Change::DeleteTenant(id)], ()))
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
            check_limit("API keys", keys.len(), MOST_API_KEYS)?;
            let key = ApiKey::generate(if owner.is_some() { KeyKind::Tenant } else { KeyKind::Provider })?;
            let record = Arc::new(ApiKeyRecord {
                id: ApiKeyId::new(),
                tenant: owner,
                hash: key.hash(),
                hint: key.hint(),
                description,
                created_at: now(),
            });
            Ok((vec![Change::PutApiKey(Arc::clone(&record))], (record, key)))
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
                changes.push(Change::DeletePublicKey(tenant, Arc::clone(oldest)));
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
            check_limit("endpoints", entry.endpoints.len(), usize::try_from(most).unwrap_or(usize::MAX))?;
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
            match enabled {
                Some(true) => endpoint.disabled = None,
                Some(false) if endpoint.disabled.is_none() => {
                    endpoint.disabled = Some(Disabled { reason: by, since: now() });
                }
                _ => {}
            }
            Ok(put(endpoint))
        })
        .await
    }

    /// Disables an endpoint that answered 410 at that URL, unless it has another by now. Says whether it did.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn disable_gone(&self, gone: Arc<Endpoint>) -> Result<bool, RegistryError> {
        self.change(move |state| {
            let same =
                |known: &&Arc<Endpoint>| known.settings.url == gone.settings.url && known.disabled.is_none();
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
            check_limit("signing secrets at once", ending.len(), MOST_SECRETS)?;
            endpoint.secrets = vec![SigningSecret { secret, expires_at: None }];
            endpoint.secrets.extend(ending);
            Ok(put(endpoint))
        })
        .await
    }
}

fn entry(state: &State, id: TenantId) -> Result<&Entry, RegistryError> {
    state.entry_of(id).ok_or(NO_TENANT)
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
