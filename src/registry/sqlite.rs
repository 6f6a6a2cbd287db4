//! The registry in the data dir: one SQLite database, read once at the start and written on each change.
//!
//! ```text
//! user_version   number of migrations that have been applied
//! meta           'vault_check': a known text sealed with the secret key, which reveals a wrong key at once
//! tenant         one row per tenant. A null limit means the server's default
//! api_key        SHA-256 of each live key. The tenant is null for the provider's keys
//! public_key     SPKI as PEM, its state, and the time of its last change
//! endpoint       one row per endpoint. `sealed` holds what may be secret (sealed.rs)
//! ```
//!
//! Times are milliseconds since 1970. Deleting a tenant deletes its rows in all tables.

mod rows;

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::error::StoreError;
use super::sealed;
use super::state::Change;
use crate::common::crypto::vault::Vault;
use crate::common::sqlite::Schema;

/// The registry's database. Its application id spells "whkr".
const SCHEMA: Schema =
    Schema { name: "registry", application_id: 0x7768_6b72, migrations: &[include_str!("sqlite/v1.sql")] };

const VAULT_CHECK: &str = "vault_check";

/// The database, opened for this process alone.
pub(super) struct SqliteStore {
    connection: Connection,
    vault: Vault,
}

impl SqliteStore {
    /// Opens or creates the database and migrates it. `vault` gets whether it may create a secret key.
    pub(super) fn open<E: From<StoreError>>(
        path: &Path,
        vault: impl FnOnce(bool) -> Result<Vault, E>,
    ) -> Result<Self, E> {
        let failed = |source| StoreError::Sqlite(SCHEMA.open_error(path, source));
        let connection =
            SCHEMA.open(path, |connection, _| prepare(connection)).map_err(StoreError::Sqlite)?;
        let check: Option<Vec<u8>> = connection
            .query_row("SELECT value FROM meta WHERE key = ?", [VAULT_CHECK], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        let vault = vault(check.is_none())?;
        match check {
            Some(sealed) => sealed::check(&vault, &sealed)
                .map_err(|source| StoreError::WrongKey { path: path.to_owned(), source })?,
            None => {
                let sealed = sealed::check_value(&vault).map_err(StoreError::Seal)?;
                connection
                    .execute("INSERT INTO meta (key, value) VALUES (?, ?)", params![VAULT_CHECK, sealed])
                    .map_err(failed)?;
            }
        }
        Ok(Self { connection, vault })
    }

    /// Writes all of `changes` or none. When it returns, they survive a power failure.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction().map_err(StoreError::Write)?;
        for change in changes {
            rows::write(&transaction, &self.vault, change)?;
        }
        transaction.commit().map_err(StoreError::Write)
    }

    /// Reads everything, as changes in an order in which they can be applied.
    pub(super) fn load(&self) -> Result<Vec<Change>, StoreError> {
        let mut changes = self.read("SELECT * FROM tenant", "tenant", |row| {
            rows::tenant(row).map(|tenant| Change::PutTenant(Arc::new(tenant)))
        })?;
        changes.extend(self.read("SELECT * FROM api_key", "API key", |row| {
            rows::api_key(row).map(|key| Change::PutApiKey(Arc::new(key)))
        })?);
        changes.extend(self.read(
            "SELECT * FROM public_key ORDER BY created_at, state DESC",
            "public key",
            |row| rows::public_key(row).map(|(tenant, key)| Change::PutPublicKey(tenant, Arc::new(key))),
        )?);
        changes.extend(self.read("SELECT * FROM endpoint", "endpoint", |row| {
            rows::endpoint(row, &self.vault).map(|endpoint| Change::PutEndpoint(Arc::new(endpoint)))
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
    // The data dir's lock keeps other processes out, so the write-ahead log needs no shared memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Most deleted values are secrets.
    connection.pragma_update(None, "secure_delete", true)
}
