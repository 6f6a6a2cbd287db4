//! Parsing records into changes.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;

use super::format::{ApiKeyJson, EndpointJson, PROVIDER, PublicKeyJson, TenantJson, VERSION, Write};
use crate::common::crypto::api_key::KeyHash;
use crate::common::crypto::vault::Vault;
use crate::common::event_type::EventFilter;
use crate::common::id::TenantId;
use crate::registry::endpoint::{Disabled, Endpoint, EndpointSettings};
use crate::registry::error::StoreError;
use crate::registry::limits::LimitOverrides;
use crate::registry::name::Name;
use crate::registry::sealed;
use crate::registry::state::Change;
use crate::registry::tenant::{ApiKeyRecord, KeyState, Tenant, TenantKey};

/// Parses a record into the change that wrote it.
///
/// # Errors
/// [`StoreError::Damaged`].
pub(in crate::registry) fn read((key, value): &Write, vault: &Vault) -> Result<Change, StoreError> {
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
        _ => Err("its key has an unknown form".to_owned()),
    };
    change.map_err(damaged)
}

/// Parses all records into changes, in an order in which they can be applied.
///
/// # Errors
/// [`StoreError::Damaged`] for the first record that can't be parsed.
pub(in crate::registry) fn read_all(
    records: impl IntoIterator<Item = Write>,
    vault: &Vault,
) -> Result<Vec<Change>, StoreError> {
    let changes = records.into_iter().map(|record| read(&record, vault));
    let mut changes = changes.collect::<Result<Vec<_>, _>>()?;
    put_in_order(&mut changes);
    Ok(changes)
}

/// Sorts the changes of a whole registry into an order in which they can be applied.
pub(in crate::registry) fn put_in_order(changes: &mut [Change]) {
    // Public keys are in the order in which they were added. Of two with the same time, the active one is the later.
    changes.sort_by_cached_key(|change| match change {
        Change::PutTenant(_) => (0, Timestamp::MIN, false),
        Change::PutPublicKey(_, key) => (1, key.created_at, key.state == KeyState::Active),
        _ => (2, Timestamp::MIN, false),
    });
}

fn tenant(id: &str, value: &str) -> Result<Change, String> {
    let record: TenantJson = record(value)?;
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
    let record: ApiKeyJson = record(value)?;
    Ok(Change::PutApiKey(Arc::new(ApiKeyRecord {
        id: parse("key", id)?,
        tenant: owner_of(owner)?,
        hash: from_hex(&record.hash)
            .and_then(|hash| KeyHash::from_bytes(&hash))
            .ok_or("hash is malformed")?,
        hint: record.hint,
        description: note(record.description)?,
        created_at: time("created_at", record.created_at)?,
    })))
}

fn public_key(tenant: &str, kid: &str, value: &str) -> Result<Change, String> {
    let record: PublicKeyJson = record(value)?;
    let times = [time("created_at", record.created_at)?, time("changed_at", record.changed_at)?];
    let key = TenantKey::new(kid, &record.pem, record.bits, record.state, times);
    Ok(Change::PutPublicKey(parse("key", tenant)?, Arc::new(key)))
}

fn endpoint(tenant: &str, id: &str, value: &str, vault: &Vault) -> Result<Change, String> {
    let record: EndpointJson = record(value)?;
    let (tenant, id) = (parse("key", tenant)?, parse("key", id)?);
    let sealed = STANDARD.decode(&record.sealed).map_err(|_| "the sealed part isn't base64")?;
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
    let Version { v } = serde_json::from_str(value).map_err(|_| "it isn't JSON of whk's")?;
    if v > VERSION {
        return Err(format!("it is of version {v}, which a newer whk wrote"));
    }
    // The parser's message is dropped, because it may quote the content.
    serde_json::from_str(value).map_err(|_| "a field is missing or has an unknown value".to_owned())
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
