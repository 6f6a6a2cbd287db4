//! Opening a SQLite database of whk: refuses foreign and newer files, sets the pragmas, and applies the migrations.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// Identity and versions of one kind of database.
#[derive(Debug)]
pub struct Schema {
    /// Name of the database in error messages, such as `queue`.
    pub name: &'static str,
    /// Value of `PRAGMA application_id` that marks the file as this kind of database.
    pub application_id: i64,
    /// SQL that brings the database from each version to the next. Version `n` has the first `n` of them applied. A
    /// released migration never changes; new ones are appended.
    pub migrations: &'static [&'static str],
}

/// A database that can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// The file can't be opened, read, or migrated.
    #[error("open {name} {path}")]
    Open {
        /// Name of the database.
        name: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The error that SQLite reported.
        source: rusqlite::Error,
    },
    /// The file was written by a newer whk.
    #[error(
        "{name} {path} was written by a newer whk (schema {found}, this one knows up to {known}); upgrade, or use another --data-dir"
    )]
    Newer {
        /// Name of the database.
        name: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Version of the file.
        found: usize,
        /// Newest version that this build reads.
        known: usize,
    },
    /// The file is another program's database.
    #[error("{0} is a database of another program; use another --data-dir")]
    NotOurs(PathBuf),
}

impl Schema {
    /// Opens or creates the database, in write-ahead mode with a sync at each commit, and migrates it to the newest
    /// version in one transaction. A foreign or newer file is left as it is.
    ///
    /// `prepare` sets the pragmas that the caller needs besides. It runs before the write-ahead log is opened and learns
    /// whether the database is new, because some pragmas take effect only then.
    ///
    /// # Errors
    /// The file can't be opened or migrated, belongs to another program, or was written by a newer whk.
    pub fn open(
        &self,
        path: &Path,
        prepare: impl FnOnce(&Connection, bool) -> rusqlite::Result<()>,
    ) -> Result<Connection, SqliteError> {
        let failed = |source| self.open_error(path, source);
        let mut connection = Connection::open(path).map_err(failed)?;
        let version = self.version_of(&connection, path)?;
        prepare(&connection, version == 0).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        self.migrate(&mut connection, version).map_err(failed)?;
        Ok(connection)
    }

    /// Returns the error for a database of this kind at `path` that SQLite can't open.
    #[must_use]
    pub fn open_error(&self, path: &Path, source: rusqlite::Error) -> SqliteError {
        SqliteError::Open { name: self.name, path: path.to_owned(), source }
    }

    /// Returns the number of migrations that the database has had. Writes nothing, so that another program's file stays
    /// as it is.
    fn version_of(&self, connection: &Connection, path: &Path) -> Result<usize, SqliteError> {
        let failed = |source| self.open_error(path, source);
        let pragma =
            |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
        let (version, application) = (pragma("user_version")?, pragma("application_id")?);
        let is_empty = connection
            .query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get::<_, bool>(0))
            .map_err(failed)?;
        if application != self.application_id && !is_empty {
            return Err(SqliteError::NotOurs(path.to_owned()));
        }
        let (found, known) = (usize::try_from(version).unwrap_or(usize::MAX), self.migrations.len());
        if found > known {
            return Err(SqliteError::Newer { name: self.name, path: path.to_owned(), found, known });
        }
        Ok(found)
    }

    fn migrate(&self, connection: &mut Connection, version: usize) -> rusqlite::Result<()> {
        if version == self.migrations.len() {
            return Ok(());
        }
        let transaction = connection.transaction()?;
        for migration in self.migrations.iter().skip(version) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "application_id", self.application_id)?;
        transaction.pragma_update(None, "user_version", self.migrations.len())?;
        transaction.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: &str = "CREATE TABLE item (name TEXT)";
    const WIDEN: &str = "ALTER TABLE item ADD COLUMN size INTEGER";

    fn schema(migrations: &'static [&'static str]) -> Schema {
        Schema { name: "test", application_id: 7, migrations }
    }

    fn open(path: &Path, migrations: &'static [&'static str]) -> Result<Connection, SqliteError> {
        schema(migrations).open(path, |_, _| Ok(()))
    }

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn each_migration_is_applied_once_and_keeps_the_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let first = open(&path, &[CREATE]).unwrap();
        first.execute("INSERT INTO item VALUES ('a')", []).unwrap();
        assert_eq!(version(&first), 1);
        drop(first);
        for _ in 0..2 {
            let second = open(&path, &[CREATE, WIDEN]).unwrap();
            let row: (String, Option<i64>) = second
                .query_row("SELECT name, size FROM item", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap();
            assert_eq!((version(&second), row), (2, ("a".into(), None)));
        }
        assert!(matches!(
            open(&path, &[CREATE]),
            Err(SqliteError::Newer { name: "test", found: 2, known: 1, .. })
        ));
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        drop(open(&path, &[CREATE]).unwrap());
        assert!(matches!(open(&path, &[CREATE, WIDEN, "not SQL"]), Err(SqliteError::Open { .. })));
        let reopened = open(&path, &[CREATE]).unwrap();
        assert_eq!(version(&reopened), 1);
        assert!(reopened.prepare("SELECT size FROM item").is_err(), "the second migration was rolled back");
    }

    #[test]
    fn another_programs_database_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path, &[CREATE]), Err(SqliteError::NotOurs(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn prepare_learns_whether_the_database_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        for expected in [true, false] {
            let prepare = |_: &Connection, is_new| {
                assert_eq!(is_new, expected);
                Ok(())
            };
            schema(&[CREATE]).open(&path, prepare).unwrap();
        }
    }
}
