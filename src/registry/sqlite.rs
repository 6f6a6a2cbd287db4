//! The registry on disk: one SQLite database, written on each change, read once at the start.
//!
//! ```text
//! user_version   how many of MIGRATIONS have been applied
//! meta           'vault_check': a known text sealed with the secret key, to tell a wrong one at once
//! tenant         a row a tenant; its limits are null where they are the server's
//! api_key        SHA-256 of each live key; tenant is null for the provider's
//! public_key     SPKI as PEM, its state and since when
//! endpoint       a row an endpoint; `sealed` holds what may be secret (sealed.rs)
//! ```
//!
//! Times are milliseconds since 1970. Rows of a tenant go with it.

mod rows;

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::sealed;
use super::state::Change;
use super::store::StoreError;
use crate::common::crypto::vault::Vault;

/// What brings a database from each version to the next. Never changed once released, only added to.
const MIGRATIONS: [&str; 1] = [include_str!("sqlite/v1.sql")];

/// Marks the file as whk's registry: "whkr".
const APPLICATION_ID: i64 = 0x7768_6b72;

const VAULT_CHECK: &str = "vault_check";

/// The database, open for this process alone.
pub(super) struct SqliteStore {
    connection: Connection,
    vault: Vault,
}

impl SqliteStore {
    /// Opens or makes the database and brings it up to date. `vault` gets whether a new secret key may be made.
    pub(super) fn open<E: From<StoreError>>(
        path: &Path,
        vault: impl FnOnce(bool) -> Result<Vault, E>,
    ) -> Result<Self, E> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(failed)?;
        let version = version_of(&connection, path)?;
        prepare(&connection).map_err(failed)?;
        migrate(&mut connection, version).map_err(failed)?;
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

    /// Writes `changes` down, all or none. When it returns they survive a loss of power.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction().map_err(StoreError::Write)?;
        for change in changes {
            rows::write(&transaction, &self.vault, change)?;
        }
        transaction.commit().map_err(StoreError::Write)
    }

    /// All that was written, in an order in which it can be applied.
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
    // The folder's lock keeps others out, so the write-ahead log needs no shared memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What is deleted is a secret more often than not.
    connection.pragma_update(None, "secure_delete", true)
}

/// How many migrations a database has had. It is only looked at: another program's must stay as it is.
fn version_of(connection: &Connection, path: &Path) -> Result<usize, StoreError> {
    let failed = |source| StoreError::Open { path: path.to_owned(), source };
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
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
    Ok(found)
}

fn migrate(connection: &mut Connection, version: usize) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    transaction.commit()
}
