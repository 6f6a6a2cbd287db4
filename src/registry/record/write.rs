//! Writing changes as records.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::format::{
    ApiKeyJson, DisabledJson, EndpointJson, PROVIDER, PublicKeyJson, TenantJson, VERSION, Write,
};
use crate::common::crypto::vault::{Vault, VaultError};
use crate::common::event_type::EventFilter;
use crate::common::id::{ApiKeyId, EndpointId, TenantId};
use crate::registry::endpoint::Endpoint;
use crate::registry::name::Name;
use crate::registry::sealed;
use crate::registry::state::{Change, State};
use crate::registry::tenant::{ApiKeyRecord, Tenant, TenantKey};

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

/// Returns the records of `changes`, which were decided by `state`.
pub(in crate::registry) fn writes(
    changes: &[Change],
    state: &State,
    vault: &Vault,
) -> Result<Vec<Write>, VaultError> {
    let mut writes = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::PutTenant(tenant) => writes.push((tenant_key(tenant.id), Some(tenant_json(tenant)))),
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
            Change::PutApiKey(key) => writes.push((api_key_key(key.tenant, key.id), Some(api_key_json(key)))),
            Change::DeleteApiKey(owner, id) => writes.push((api_key_key(*owner, *id), None)),
            Change::PutPublicKey(tenant, key) => {
                writes.push((public_key_key(*tenant, &key.kid), Some(public_key_json(key))));
            }
            Change::DeletePublicKey(tenant, kid) => writes.push((public_key_key(*tenant, kid), None)),
            Change::PutEndpoint(endpoint) => {
                let key = endpoint_key(endpoint.tenant, endpoint.id);
                writes.push((key, Some(endpoint_json(endpoint, vault)?)));
            }
            Change::DeleteEndpoint(tenant, id) => writes.push((endpoint_key(*tenant, *id), None)),
        }
    }
    Ok(writes)
}

/// Serializes a record. Strings, numbers and lists of them can't fail.
fn json(record: &impl Serialize) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

fn tenant_json(tenant: &Tenant) -> String {
    json(&TenantJson {
        v: VERSION,
        name: tenant.name.to_string(),
        queued_jobs: tenant.limits.queued_jobs,
        publishes_per_second: tenant.limits.publishes_per_second,
        endpoints: tenant.limits.endpoints,
        created_at: tenant.created_at.as_millisecond(),
        version: tenant.version,
    })
}

fn api_key_json(key: &ApiKeyRecord) -> String {
    json(&ApiKeyJson {
        v: VERSION,
        hash: key.hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
        hint: key.hint.clone(),
        description: key.description.as_ref().map(Name::to_string),
        created_at: key.created_at.as_millisecond(),
    })
}

fn public_key_json(key: &TenantKey) -> String {
    json(&PublicKeyJson {
        v: VERSION,
        pem: key.pem.to_string(),
        bits: key.bits,
        state: key.state,
        created_at: key.created_at.as_millisecond(),
        changed_at: key.changed_at.as_millisecond(),
    })
}

fn endpoint_json(endpoint: &Endpoint, vault: &Vault) -> Result<String, VaultError> {
    let settings = &endpoint.settings;
    let disabled = endpoint.disabled.as_ref();
    Ok(json(&EndpointJson {
        v: VERSION,
        description: settings.description.as_ref().map(Name::to_string),
        events: settings.events.iter().map(EventFilter::to_string).collect(),
        content_type: settings.content_type,
        envelope: settings.envelope,
        ordered: settings.ordered,
        disabled: disabled
            .map(|disabled| DisabledJson { reason: disabled.reason, since: disabled.since.as_millisecond() }),
        sealed: STANDARD.encode(sealed::seal(endpoint, vault)?),
        created_at: endpoint.created_at.as_millisecond(),
        version: endpoint.version,
    }))
}
