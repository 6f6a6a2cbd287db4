CREATE TABLE lane (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    tenant TEXT,
    ordered INTEGER NOT NULL CHECK (ordered IN (0, 1))
) STRICT;

CREATE TABLE content (
    seq INTEGER PRIMARY KEY,
    record TEXT NOT NULL,
    body BLOB NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE job (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    lane INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    held_until INTEGER,
    failures INTEGER NOT NULL,
    retried INTEGER NOT NULL DEFAULT 0 CHECK (retried IN (0, 1)),
    first_attempt_at INTEGER,
    bytes INTEGER NOT NULL,
    attempts TEXT
) STRICT;
CREATE INDEX job_by_turn ON job (lane, due_at, seq, bytes);
CREATE INDEX job_delayed ON job (due_at) WHERE retried = 1;
CREATE INDEX job_held ON job (lane) WHERE held_until IS NOT NULL;

CREATE TABLE dead (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    lane INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    endpoint TEXT,
    url TEXT,
    cause TEXT NOT NULL,
    detail TEXT NOT NULL,
    failures INTEGER NOT NULL,
    published_at INTEGER NOT NULL,
    died_at INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    attempts TEXT,
    CHECK ((endpoint IS NULL) <> (url IS NULL))
) STRICT;
CREATE INDEX dead_by_time ON dead (died_at, id);
CREATE INDEX dead_by_tenant ON dead (tenant, died_at, id) WHERE endpoint IS NOT NULL;
CREATE INDEX dead_by_endpoint ON dead (endpoint, died_at, id) WHERE endpoint IS NOT NULL;

CREATE TABLE delivered (
    n INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    tenant TEXT NOT NULL,
    endpoint TEXT,
    url TEXT,
    published_at INTEGER NOT NULL,
    attempts TEXT,
    CHECK ((endpoint IS NULL) <> (url IS NULL))
) STRICT;
