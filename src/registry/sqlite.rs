//! The registry on disk: one SQLite database, written on each change, read once at the start.
//!
//! ```text
//! user_version   how many of MIGRATIONS have been applied
//! meta           'vault_check': a known text sealed with the secret key, to tell a wrong one at once
//! tenant         a row a tenant; its limits are null where they are the server's
//! api_key        SHA-256 of each live key; tenant is null for the provider's
//! public_key     SPKI as PEM, its state and since when
//! endpoint       a row an endpoint; `sealed` holds its URL, headers and signing secrets (see Sealed), since all
//!                three may be secret
//! ```
//!
//! Times are milliseconds since 1970. Rows of a tenant go with it.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::state::Change;
use super::tenant::{
    ApiKeyRecord, Disabled, DisabledReason, Endpoint, EndpointSettings, EnvelopeKind, KeyState,
    LimitOverrides, Name, SigningSecret, StaticHeaders, Tenant, TenantKey,
};
use crate::common::crypto::api_key::KeyHash;
use crate::common::crypto::signature::Secret;
use crate::common::crypto::vault::{Vault, VaultError};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::EventFilter;
use crate::common::id::{EndpointId, TenantId};
use crate::common::job::ContentType;

/// What brings a database from each version to the next. Never changed once released, only added to.
const MIGRATIONS: [&str; 1] = [include_str!("sqlite/v1.sql")];

/// Marks the file as whk's registry: "whkr".
const APPLICATION_ID: i64 = 0x7768_6b72;

const VAULT_CHECK: &str = "vault_check";
const VAULT_CHECK_TEXT: &[u8] = b"whk";

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be opened or brought up to date.
    #[error("open registry {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer whk wrote it.
    #[error(
        "registry {path} was written by a newer whk (schema {found}, this one knows up to {known}); upgrade, or use another --data-dir"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The newest that is known here.
        known: usize,
    },
    /// It is some other program's database.
    #[error("{0} is a database of another program; use another --data-dir")]
    NotOurs(PathBuf),
    /// The secret key doesn't fit.
    #[error("the secret key isn't the one that registry {path} was written with; see --secret-key-file")]
    WrongKey {
        /// The file.
        path: PathBuf,
        /// What the vault said.
        source: VaultError,
    },
    /// A row can't be understood.
    #[error("registry: {record} is damaged: {reason}")]
    Damaged {
        /// Which.
        record: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A change can't be written; nothing has changed.
    #[error("write registry")]
    Write(#[source] rusqlite::Error),
    /// A secret can't be sealed.
    #[error("seal a secret")]
    Seal(#[from] VaultError),
}

/// The database, open for this process alone.
pub(super) struct Store {
    connection: Connection,
    vault: Vault,
}

/// What is sealed of an endpoint.
#[derive(Serialize, Deserialize)]
struct Sealed {
    url: String,
    headers: Vec<(String, String)>,
    secrets: Vec<SealedSecret>,
}

#[derive(Serialize, Deserialize)]
struct SealedSecret {
    secret: String,
    expires_at: Option<i64>,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.url.zeroize();
        self.headers.iter_mut().for_each(|(_, value)| value.zeroize());
        self.secrets.iter_mut().for_each(|secret| secret.secret.zeroize());
    }
}

impl Store {
    /// Opens or makes the database and brings it up to date. `vault` gets whether a new secret key may be made.
    pub(super) fn open<E: From<StoreError>>(
        path: &Path,
        vault: impl FnOnce(bool) -> Result<Vault, E>,
    ) -> Result<Self, E> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(failed)?;
        prepare(&connection).map_err(failed)?;
        migrate(&mut connection, path)?;
        let check: Option<Vec<u8>> = connection
            .query_row("SELECT value FROM meta WHERE key = ?", [VAULT_CHECK], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        let vault = vault(check.is_none())?;
        match check {
            Some(sealed) => drop(
                vault
                    .open(VAULT_CHECK, &sealed)
                    .map_err(|source| StoreError::WrongKey { path: path.to_owned(), source })?,
            ),
            None => {
                let sealed = vault.seal(VAULT_CHECK, VAULT_CHECK_TEXT).map_err(StoreError::Seal)?;
                connection
                    .execute("INSERT INTO meta (key, value) VALUES (?, ?)", params![VAULT_CHECK, sealed])
                    .map_err(failed)?;
            }
        }
        Ok(Self { connection, vault })
    }

    /// Writes `changes` down, all or none. When it returns they survive a loss of power.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction().map_err(StoreError::Write)?;
        for change in changes {
            write(&transaction, &self.vault, change)?;
        }
        transaction.commit().map_err(StoreError::Write)
    }

    /// All that was written, in an order in which it can be applied.
    pub(super) fn load(&self) -> Result<Vec<Change>, StoreError> {
        let mut changes = self.read("SELECT * FROM tenant", "tenant", |row| {
            tenant(row).map(|tenant| Change::PutTenant(Arc::new(tenant)))
        })?;
        changes.extend(self.read("SELECT * FROM api_key", "API key", |row| {
            api_key(row).map(|key| Change::PutApiKey(Arc::new(key)))
        })?);
        changes.extend(self.read("SELECT * FROM public_key ORDER BY created_at", "public key", |row| {
            public_key(row).map(|(tenant, key)| Change::PutPublicKey(tenant, Arc::new(key)))
        })?);
        changes.extend(self.read("SELECT * FROM endpoint", "endpoint", |row| {
            endpoint(row, &self.vault).map(|endpoint| Change::PutEndpoint(Arc::new(endpoint)))
        })?);
        Ok(changes)
    }

    fn read<T>(
        &self,
        select: &str,
        what: &str,
        parse: impl Fn(&Row<'_>) -> Result<T, String>,
    ) -> Result<Vec<T>, StoreError> {
        let damaged = |record: String, reason| StoreError::Damaged { record, reason };
        let by_sqlite = |error: rusqlite::Error| damaged(format!("table of {what}s"), error.to_string());
        let mut statement = self.connection.prepare(select).map_err(by_sqlite)?;
        let mut rows = statement.query([]).map_err(by_sqlite)?;
        let mut parsed = Vec::new();
        while let Some(row) = rows.next().map_err(by_sqlite)? {
            let name = || row.get("id").or_else(|_| row.get("kid")).unwrap_or_else(|_| "?".to_owned());
            parsed.push(parse(row).map_err(|reason| damaged(format!("{what} {}", name()), reason))?);
        }
        Ok(parsed)
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    // The folder's lock keeps others out, so the write-ahead log needs no shared memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What is deleted is a secret more often than not.
    connection.pragma_update(None, "secure_delete", true)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Open { path: path.to_owned(), source };
    let pragma = |connection: &Connection, name| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed)
    };
    let (version, application) = (pragma(connection, "user_version")?, pragma(connection, "application_id")?);
    let is_empty = connection
        .query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get::<_, bool>(0))
        .map_err(failed)?;
    if application != APPLICATION_ID && !is_empty {
        return Err(StoreError::NotOurs(path.to_owned()));
    }
    let found = usize::try_from(version).unwrap_or(usize::MAX);
    if found > MIGRATIONS.len() {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() });
    }
    let transaction = connection.transaction().map_err(failed)?;
    for migration in MIGRATIONS.iter().skip(found) {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len()).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn write(transaction: &Transaction<'_>, vault: &Vault, change: &Change) -> Result<(), StoreError> {
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
        Change::DeletePublicKey(tenant, key) => transaction.execute(
            "DELETE FROM public_key WHERE tenant = ? AND kid = ?",
            params![tenant.to_string(), key.kid],
        ),
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
                    // No filter holds a space.
                    events.join(" "),
                    settings.content_type.as_str(),
                    to_name(&settings.envelope),
                    settings.ordered,
                    endpoint.disabled.as_ref().map(|disabled| disabled.reason.as_str()),
                    endpoint.disabled.as_ref().map(|disabled| disabled.since.as_millisecond()),
                    seal(endpoint, vault)?,
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

/// The name under which a blob is sealed: it opens for this endpoint of this tenant alone.
fn sealed_name(tenant: TenantId, id: EndpointId) -> String {
    format!("{tenant}/{id}")
}

fn seal(endpoint: &Endpoint, vault: &Vault) -> Result<Vec<u8>, StoreError> {
    let settings = &endpoint.settings;
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let secrets = endpoint.secrets.iter().map(|live| SealedSecret {
        secret: live.secret.reveal().to_string(),
        expires_at: live.expires_at.map(Timestamp::as_millisecond),
    });
    let sealed = Sealed {
        url: settings.url.uri().to_string(),
        headers: settings
            .headers
            .as_slice()
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        secrets: secrets.collect(),
    };
    let json = Zeroizing::new(serde_json::to_vec(&sealed).unwrap_or_default());
    Ok(vault.seal(&sealed_name(endpoint.tenant, endpoint.id), &json)?)
}

fn tenant(row: &Row<'_>) -> Result<Tenant, String> {
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

fn api_key(row: &Row<'_>) -> Result<ApiKeyRecord, String> {
    let hash: Vec<u8> = get(row, "hash")?;
    Ok(ApiKeyRecord {
        id: parsed(row, "id", str::parse)?,
        tenant: optional(row, "tenant", str::parse)?,
        hash: KeyHash::from_bytes(&hash).ok_or("hash isn't of 32 bytes")?,
        hint: get(row, "hint")?,
        description: optional(row, "description", Name::parse)?,
        created_at: time(row, "created_at")?,
    })
}

fn public_key(row: &Row<'_>) -> Result<(TenantId, TenantKey), String> {
    let (kid, pem): (String, String) = (get(row, "kid")?, get(row, "pem")?);
    let state: KeyState = parsed(row, "state", from_name)?;
    let times = [time(row, "created_at")?, time(row, "changed_at")?];
    let key = TenantKey::new(&kid, &pem, get(row, "bits")?, state, times);
    Ok((parsed(row, "tenant", str::parse)?, key))
}

fn endpoint(row: &Row<'_>, vault: &Vault) -> Result<Endpoint, String> {
    let (id, tenant) = (parsed(row, "id", str::parse)?, parsed(row, "tenant", str::parse)?);
    let opened = vault.open(&sealed_name(tenant, id), &get::<Vec<u8>>(row, "sealed")?);
    let json = opened.map_err(|error| error.to_string())?;
    let sealed: Sealed = serde_json::from_slice(&json).map_err(|_| "sealed part isn't JSON")?;
    let headers = sealed.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let events = parsed(row, "events", |text| text.split(' ').map(EventFilter::parse).collect())?;
    let disabled = optional(row, "disabled_reason", from_name::<DisabledReason>)?;
    let disabled = disabled.map(|reason| time(row, "disabled_since").map(|since| Disabled { reason, since }));
    Ok(Endpoint {
        id,
        tenant,
        settings: EndpointSettings {
            url: EndpointUrl::parse(&sealed.url).map_err(|error| format!("url {error}"))?,
            description: optional(row, "description", Name::parse)?,
            events,
            headers: StaticHeaders::parse(headers).map_err(|error| error.to_string())?,
            content_type: parsed(row, "content_type", |text| ContentType::parse(text).ok_or("isn't known"))?,
            envelope: parsed(row, "envelope", from_name::<EnvelopeKind>)?,
            ordered: get(row, "ordered")?,
        },
        secrets: sealed.secrets.iter().map(secret).collect::<Result<_, String>>()?,
        disabled: disabled.transpose()?,
        created_at: time(row, "created_at")?,
        version: get(row, "version")?,
    })
}

fn secret(sealed: &SealedSecret) -> Result<SigningSecret, String> {
    let expires_at = sealed.expires_at.map(Timestamp::from_millisecond).transpose();
    Ok(SigningSecret {
        secret: Secret::parse(&sealed.secret).map_err(|_| "signing secret isn't one")?,
        expires_at: expires_at.map_err(|_| "expiry isn't a time")?,
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

/// A value's name as serde has it, which is its name in the API as well.
fn to_name(value: &impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

fn from_name<T: for<'de> Deserialize<'de>>(name: &str) -> Result<T, &'static str> {
    T::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name))
        .map_err(|_| "isn't known")
}
