//! Writing and reading the rows of each table.

use std::num::NonZeroU32;

use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::common::crypto::api_key::KeyHash;
use crate::common::crypto::vault::Vault;
use crate::common::event_type::EventFilter;
use crate::common::id::TenantId;
use crate::common::job::ContentType;
use crate::registry::endpoint::{Disabled, DisabledReason, Endpoint, EndpointSettings, EnvelopeKind};
use crate::registry::error::StoreError;
use crate::registry::limits::LimitOverrides;
use crate::registry::name::Name;
use crate::registry::sealed;
use crate::registry::state::Change;
use crate::registry::tenant::{ApiKeyRecord, KeyState, Tenant, TenantKey};

/// Writes one change.
pub(super) fn write(transaction: &Transaction<'_>, vault: &Vault, change: &Change) -> Result<(), StoreError> {
    let written = match change {
        Change::PutTenant(tenant) => {
            let limit = |limit: Option<NonZeroU32>| limit.map(NonZeroU32::get);
            transaction.execute(
                "INSERT INTO tenant (id, name, queued_jobs, publishes_per_second, endpoints, created_at, version)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET name = ?2, queued_jobs = ?3, publishes_per_second = ?4,
                 endpoints = ?5, version = ?7",
                params![
                    tenant.id.to_string(),
                    tenant.name.as_str(),
                    limit(tenant.limits.queued_jobs),
                    limit(tenant.limits.publishes_per_second),
                    limit(tenant.limits.endpoints),
                    tenant.created_at.as_millisecond(),
                    tenant.version,
                ],
            )
        }
        Change::DeleteTenant(id) => transaction.execute("DELETE FROM tenant WHERE id = ?", [id.to_string()]),
        Change::PutApiKey(key) => transaction.execute(
            "INSERT INTO api_key (id, tenant, hash, hint, description, created_at)
             VALUES (?, ?, ?, ?, ?, ?)",
            params![
                key.id.to_string(),
                key.tenant.map(|id| id.to_string()),
                key.hash.as_bytes(),
                key.hint,
                key.description.as_ref().map(Name::as_str),
                key.created_at.as_millisecond(),
            ],
        ),
        Change::DeleteApiKey(_, id) => {
            transaction.execute("DELETE FROM api_key WHERE id = ?", [id.to_string()])
        }
        Change::PutPublicKey(tenant, key) => transaction.execute(
            "INSERT INTO public_key (tenant, kid, pem, bits, state, created_at, changed_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (tenant, kid) DO UPDATE SET state = ?5, changed_at = ?7",
            params![
                tenant.to_string(),
                key.kid,
                key.pem,
                key.bits,
                to_name(&key.state),
                key.created_at.as_millisecond(),
                key.changed_at.as_millisecond(),
            ],
        ),
        Change::DeletePublicKey(tenant, kid) => transaction
            .execute("DELETE FROM public_key WHERE tenant = ? AND kid = ?", params![tenant.to_string(), kid]),
        Change::PutEndpoint(endpoint) => {
            let settings = &endpoint.settings;
            let events: Vec<String> = settings.events.iter().map(EventFilter::to_string).collect();
            transaction.execute(
                "INSERT INTO endpoint (id, tenant, description, events, content_type, envelope, ordered,
                 disabled_reason, disabled_since, sealed, created_at, version)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                 ON CONFLICT (id) DO UPDATE SET description = ?3, events = ?4, content_type = ?5, envelope = ?6,
                 ordered = ?7, disabled_reason = ?8, disabled_since = ?9, sealed = ?10, version = ?12",
                params![
                    endpoint.id.to_string(),
                    endpoint.tenant.to_string(),
                    settings.description.as_ref().map(Name::as_str),
                    // A filter can't contain a space.
                    events.join(" "),
                    settings.content_type.as_str(),
                    to_name(&settings.envelope),
                    settings.ordered,
                    endpoint.disabled.as_ref().map(|disabled| to_name(&disabled.reason)),
                    endpoint.disabled.as_ref().map(|disabled| disabled.since.as_millisecond()),
                    sealed::seal(endpoint, vault)?,
                    endpoint.created_at.as_millisecond(),
                    endpoint.version,
                ],
            )
        }
        Change::DeleteEndpoint(_, id) => {
            transaction.execute("DELETE FROM endpoint WHERE id = ?", [id.to_string()])
        }
    };
    written.map(drop).map_err(StoreError::Write)
}

pub(super) fn tenant(row: &Row<'_>) -> Result<Tenant, String> {
    let limit = |column| -> Result<Option<NonZeroU32>, String> {
        Ok(get::<Option<u32>>(row, column)?.and_then(NonZeroU32::new))
    };
    Ok(Tenant {
        id: parsed(row, "id", str::parse)?,
        name: parsed(row, "name", Name::of_tenant)?,
        limits: LimitOverrides {
            queued_jobs: limit("queued_jobs")?,
            publishes_per_second: limit("publishes_per_second")?,
            endpoints: limit("endpoints")?,
        },
        created_at: time(row, "created_at")?,
        version: get(row, "version")?,
    })
}

pub(super) fn api_key(row: &Row<'_>) -> Result<ApiKeyRecord, String> {
    let hash: Vec<u8> = get(row, "hash")?;
    Ok(ApiKeyRecord {
        id: parsed(row, "id", str::parse)?,
        tenant: optional(row, "tenant", str::parse)?,
        hash: KeyHash::from_bytes(&hash).ok_or("hash isn't 32 bytes long")?,
        hint: get(row, "hint")?,
        description: optional(row, "description", Name::parse)?,
        created_at: time(row, "created_at")?,
    })
}

pub(super) fn public_key(row: &Row<'_>) -> Result<(TenantId, TenantKey), String> {
    let (kid, pem): (String, String) = (get(row, "kid")?, get(row, "pem")?);
    let state: KeyState = parsed(row, "state", from_name)?;
    let times = [time(row, "created_at")?, time(row, "changed_at")?];
    let key = TenantKey::new(&kid, &pem, get(row, "bits")?, state, times);
    Ok((parsed(row, "tenant", str::parse)?, key))
}

pub(super) fn endpoint(row: &Row<'_>, vault: &Vault) -> Result<Endpoint, String> {
    let (id, tenant) = (parsed(row, "id", str::parse)?, parsed(row, "tenant", str::parse)?);
    let sealed = sealed::open(tenant, id, &get::<Vec<u8>>(row, "sealed")?, vault)?;
    let events = parsed(row, "events", |text| text.split(' ').map(EventFilter::parse).collect())?;
    let disabled = optional(row, "disabled_reason", from_name::<DisabledReason>)?;
    let disabled = disabled.map(|reason| time(row, "disabled_since").map(|since| Disabled { reason, since }));
    Ok(Endpoint {
        id,
        tenant,
        settings: EndpointSettings {
            url: sealed.url,
            description: optional(row, "description", Name::parse)?,
            events,
            headers: sealed.headers,
            content_type: parsed(row, "content_type", |text| ContentType::parse(text).ok_or("isn't known"))?,
            envelope: parsed(row, "envelope", from_name::<EnvelopeKind>)?,
            ordered: get(row, "ordered")?,
        },
        secrets: sealed.secrets,
        disabled: disabled.transpose()?,
        created_at: time(row, "created_at")?,
        version: get(row, "version")?,
    })
}

fn get<T: FromSql>(row: &Row<'_>, column: &str) -> Result<T, String> {
    row.get(column).map_err(|error| error.to_string())
}

fn parsed<T, E: ToString>(
    row: &Row<'_>,
    column: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, String> {
    parse(&get::<String>(row, column)?).map_err(|error| format!("{column} {}", error.to_string()))
}

fn optional<T, E: ToString>(
    row: &Row<'_>,
    column: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, String> {
    let text: Option<String> = get(row, column)?;
    text.map(|text| parse(&text)).transpose().map_err(|error| format!("{column} {}", error.to_string()))
}

fn time(row: &Row<'_>, column: &str) -> Result<Timestamp, String> {
    Timestamp::from_millisecond(get(row, column)?).map_err(|_| format!("{column} isn't a time"))
}

/// Returns the name that serde gives a value, which is its name in the API as well.
fn to_name(value: &impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

fn from_name<T: for<'de> Deserialize<'de>>(name: &str) -> Result<T, &'static str> {
    T::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name))
        .map_err(|_| "isn't known")
}
