//! How each part of the registry is written where it isn't a row of a table: a key, and a line of JSON.
//!
//! ```text
//! tenant/ten_…              {"v":1,"name":"Acme","queued_jobs":500,"created_at":…,"version":1}
//! api_key/provider/key_…    {"v":1,"hash":"<SHA-256 in hex>","hint":"whk_provider_…","created_at":…}
//! api_key/ten_…/key_…       the same, of a tenant
//! public_key/ten_…/<kid>    {"v":1,"pem":"…","bits":4096,"state":"active","created_at":…,"changed_at":…}
//! endpoint/ten_…/ep_…       {"v":1,"events":["invoice.*"],"content_type":"application/jose+json","envelope":"jwe",
//!                            "ordered":false,"sealed":"<base64; see sealed.rs>","created_at":…,"version":1}
//! ```
//!
//! Times are milliseconds since 1970; what isn't set is left out. What is deleted is written as its key without a
//! value. A tenant that goes takes the keys of all that is its own with it.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::endpoint::{Disabled, DisabledReason, Endpoint, EndpointSettings, EnvelopeKind};
use super::error::StoreError;
use super::limits::LimitOverrides;
use super::name::Name;
use super::sealed;
use super::state::{Change, State};
use super::tenant::{ApiKeyRecord, KeyState, Tenant, TenantKey};
use crate::common::crypto::api_key::KeyHash;
use crate::common::crypto::vault::{Vault, VaultError};
use crate::common::event_type::EventFilter;
use crate::common::id::{ApiKeyId, EndpointId, TenantId};
use crate::common::job::ContentType;

/// The version that is written.
const VERSION: u32 = 1;

/// Whose the provider's API keys are.
const PROVIDER: &str = "provider";

/// A record's key and JSON; no JSON where it is deleted.
pub(super) type Write = (String, Option<String>);

#[derive(Serialize, Deserialize)]
struct TenantRecord {
    v: u32,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queued_jobs: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    publishes_per_second: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoints: Option<NonZeroU32>,
    created_at: i64,
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct KeyRecord {
    v: u32,
    hash: String,
    hint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    created_at: i64,
}

#[derive(Serialize, Deserialize)]
struct PublicKeyRecord {
    v: u32,
    pem: String,
    bits: u32,
    state: KeyState,
    created_at: i64,
    changed_at: i64,
}

#[derive(Serialize, Deserialize)]
struct EndpointRecord {
    v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    events: Vec<String>,
    content_type: ContentType,
    envelope: EnvelopeKind,
    ordered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disabled: Option<DisabledRecord>,
    sealed: String,
    created_at: i64,
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct DisabledRecord {
    reason: DisabledReason,
    since: i64,
}

fn tenant_key(id: TenantId) -> String {
    format!("tenant/{id}")
}

fn api_key_key(owner: Option<TenantId>, id: ApiKeyId) -> String {
    let owner = owner.map_or_else(|| PROVIDER.to_owned(), |owner| owner.to_string());
    format!("api_key/{owner}/{id}")
}

fn public_key_key(tenant: TenantId, kid: &str) -> String {
    format!("public_key/{tenant}/{kid}")
}

fn endpoint_key(tenant: TenantId, id: EndpointId) -> String {
    format!("endpoint/{tenant}/{id}")
}

/// What `changes`, which were decided on by `state`, write.
pub(super) fn writes(changes: &[Change], state: &State, vault: &Vault) -> Result<Vec<Write>, VaultError> {
    let mut writes = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::PutTenant(tenant) => writes.push((tenant_key(tenant.id), Some(of_tenant(tenant)))),
            Change::DeleteTenant(id) => {
                let entry = state.tenant(*id).into_iter();
                writes.extend(entry.flat_map(|entry| {
                    let api_keys = entry.api_keys.keys().map(|key| api_key_key(Some(*id), *key));
                    let public_keys = entry.public_keys.iter().map(|key| public_key_key(*id, &key.kid));
                    let endpoints = entry.endpoints.keys().map(|endpoint| endpoint_key(*id, *endpoint));
                    api_keys.chain(public_keys).chain(endpoints).map(|key| (key, None))
                }));
                writes.push((tenant_key(*id), None));
            }
            Change::PutApiKey(key) => writes.push((api_key_key(key.tenant, key.id), Some(of_api_key(key)))),
            Change::DeleteApiKey(owner, id) => writes.push((api_key_key(*owner, *id), None)),
            Change::PutPublicKey(tenant, key) => {
                writes.push((public_key_key(*tenant, &key.kid), Some(of_public_key(key))));
            }
            Change::DeletePublicKey(tenant, kid) => writes.push((public_key_key(*tenant, kid), None)),
            Change::PutEndpoint(endpoint) => {
                let key = endpoint_key(endpoint.tenant, endpoint.id);
                writes.push((key, Some(of_endpoint(endpoint, vault)?)));
            }
            Change::DeleteEndpoint(tenant, id) => writes.push((endpoint_key(*tenant, *id), None)),
        }
    }
    Ok(writes)
}

/// Strings, numbers and lists of them: nothing that can't be written.
fn json(record: &impl Serialize) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

fn of_tenant(tenant: &Tenant) -> String {
    json(&TenantRecord {
        v: VERSION,
        name: tenant.name.to_string(),
        queued_jobs: tenant.limits.queued_jobs,
        publishes_per_second: tenant.limits.publishes_per_second,
        endpoints: tenant.limits.endpoints,
        created_at: tenant.created_at.as_millisecond(),
        version: tenant.version,
    })
}

fn of_api_key(key: &ApiKeyRecord) -> String {
    json(&KeyRecord {
        v: VERSION,
        hash: key.hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
        hint: key.hint.clone(),
        description: key.description.as_ref().map(Name::to_string),
        created_at: key.created_at.as_millisecond(),
    })
}

fn of_public_key(key: &TenantKey) -> String {
    json(&PublicKeyRecord {
        v: VERSION,
        pem: key.pem.to_string(),
        bits: key.bits,
        state: key.state,
        created_at: key.created_at.as_millisecond(),
        changed_at: key.changed_at.as_millisecond(),
    })
}

fn of_endpoint(endpoint: &Endpoint, vault: &Vault) -> Result<String, VaultError> {
    let settings = &endpoint.settings;
    let disabled = endpoint.disabled.as_ref();
    Ok(json(&EndpointRecord {
        v: VERSION,
        description: settings.description.as_ref().map(Name::to_string),
        events: settings.events.iter().map(EventFilter::to_string).collect(),
        content_type: settings.content_type,
        envelope: settings.envelope,
        ordered: settings.ordered,
        disabled: disabled.map(|disabled| DisabledRecord {
            reason: disabled.reason,
            since: disabled.since.as_millisecond(),
        }),
        sealed: STANDARD.encode(sealed::seal(endpoint, vault)?),
        created_at: endpoint.created_at.as_millisecond(),
        version: endpoint.version,
    }))
}

/// The change that was written.
pub(super) fn read((key, value): &Write, vault: &Vault) -> Result<Change, StoreError> {
    let damaged = |reason| StoreError::Damaged { record: key.clone(), reason };
    let parts: Vec<&str> = key.splitn(3, '/').collect();
    let change = match (parts.as_slice(), value.as_deref()) {
        (["tenant", id], Some(value)) => tenant(id, value),
        (["tenant", id], None) => parse("key", id).map(Change::DeleteTenant),
        (["api_key", owner, id], Some(value)) => api_key(owner, id, value),
        (["api_key", owner, id], None) => {
            owner_of(owner).and_then(|owner| Ok(Change::DeleteApiKey(owner, parse("key", id)?)))
        }
        (["public_key", tenant, kid], Some(value)) => public_key(tenant, kid, value),
        (["public_key", tenant, kid], None) => {
            parse("key", tenant).map(|tenant| Change::DeletePublicKey(tenant, (*kid).into()))
        }
        (["endpoint", tenant, id], Some(value)) => endpoint(tenant, id, value, vault),
        (["endpoint", tenant, id], None) => {
            parse("key", tenant).and_then(|tenant| Ok(Change::DeleteEndpoint(tenant, parse("key", id)?)))
        }
        _ => Err("its key isn't known".to_owned()),
    };
    change.map_err(damaged)
}

/// The changes that were written in `records`, in an order in which they can be applied.
pub(super) fn read_all(
    records: impl IntoIterator<Item = Write>,
    vault: &Vault,
) -> Result<Vec<Change>, StoreError> {
    let changes = records.into_iter().map(|record| read(&record, vault));
    let mut changes = changes.collect::<Result<Vec<_>, _>>()?;
    put_in_order(&mut changes);
    Ok(changes)
}

/// Merges the writes of a change into all records.
pub(super) fn merge(records: &mut HashMap<String, String>, writes: Vec<Write>) {
    for (key, value) in writes {
        match value {
            Some(value) => drop(records.insert(key, value)),
            None => drop(records.remove(&key)),
        }
    }
}

/// Puts changes of all there is in an order in which they can be applied.
pub(super) fn put_in_order(changes: &mut [Change]) {
    // Public keys in the order in which they were added; of two of one moment the active one is the later.
    changes.sort_by_cached_key(|change| match change {
        Change::PutTenant(_) => (0, Timestamp::MIN, false),
        Change::PutPublicKey(_, key) => (1, key.created_at, key.state == KeyState::Active),
        _ => (2, Timestamp::MIN, false),
    });
}

fn tenant(id: &str, value: &str) -> Result<Change, String> {
    let record: TenantRecord = record(value)?;
    Ok(Change::PutTenant(Arc::new(Tenant {
        id: parse("key", id)?,
        name: Name::of_tenant(&record.name).map_err(|error| format!("name {error}"))?,
        limits: LimitOverrides {
            queued_jobs: record.queued_jobs,
            publishes_per_second: record.publishes_per_second,
            endpoints: record.endpoints,
        },
        created_at: time("created_at", record.created_at)?,
        version: record.version,
    })))
}

fn api_key(owner: &str, id: &str, value: &str) -> Result<Change, String> {
    let record: KeyRecord = record(value)?;
    Ok(Change::PutApiKey(Arc::new(ApiKeyRecord {
        id: parse("key", id)?,
        tenant: owner_of(owner)?,
        hash: from_hex(&record.hash).and_then(|hash| KeyHash::from_bytes(&hash)).ok_or("hash isn't one")?,
        hint: record.hint,
        description: note(record.description)?,
        created_at: time("created_at", record.created_at)?,
    })))
}

fn public_key(tenant: &str, kid: &str, value: &str) -> Result<Change, String> {
    let record: PublicKeyRecord = record(value)?;
    let times = [time("created_at", record.created_at)?, time("changed_at", record.changed_at)?];
    let key = TenantKey::new(kid, &record.pem, record.bits, record.state, times);
    Ok(Change::PutPublicKey(parse("key", tenant)?, Arc::new(key)))
}

fn endpoint(tenant: &str, id: &str, value: &str, vault: &Vault) -> Result<Change, String> {
    let record: EndpointRecord = record(value)?;
    let (tenant, id) = (parse("key", tenant)?, parse("key", id)?);
    let sealed = STANDARD.decode(&record.sealed).map_err(|_| "sealed part isn't base64")?;
    let opened = sealed::open(tenant, id, &sealed, vault)?;
    let events = record.events.iter().map(|filter| EventFilter::parse(filter));
    let disabled = record.disabled.map(|disabled| {
        time("since", disabled.since).map(|since| Disabled { reason: disabled.reason, since })
    });
    Ok(Change::PutEndpoint(Arc::new(Endpoint {
        id,
        tenant,
        settings: EndpointSettings {
            url: opened.url,
            description: note(record.description)?,
            events: events.collect::<Result<_, _>>().map_err(|error| format!("events {error}"))?,
            headers: opened.headers,
            content_type: record.content_type,
            envelope: record.envelope,
            ordered: record.ordered,
        },
        secrets: opened.secrets,
        disabled: disabled.transpose()?,
        created_at: time("created_at", record.created_at)?,
        version: record.version,
    })))
}

fn record<T: for<'de> Deserialize<'de>>(value: &str) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Version { v } = serde_json::from_str(value).map_err(|_| "it isn't JSON of ours")?;
    if v > VERSION {
        return Err(format!("it is of version {v}, which a newer whk wrote"));
    }
    // The message may repeat what is there.
    serde_json::from_str(value).map_err(|_| "it lacks something, or holds what isn't known".to_owned())
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{what} {error}"))
}

fn owner_of(text: &str) -> Result<Option<TenantId>, String> {
    if text == PROVIDER { Ok(None) } else { parse("key", text).map(Some) }
}

fn note(text: Option<String>) -> Result<Option<Name>, String> {
    text.map(|text| Name::parse(&text)).transpose().map_err(|error| format!("description {error}"))
}

fn time(what: &str, milliseconds: i64) -> Result<Timestamp, String> {
    Timestamp::from_millisecond(milliseconds).map_err(|_| format!("{what} isn't a time"))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(digits).collect()
}
