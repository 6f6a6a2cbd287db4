CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenant (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    queued_jobs INTEGER CHECK (queued_jobs > 0),
    publishes_per_second INTEGER CHECK (publishes_per_second > 0),
    endpoints INTEGER CHECK (endpoints > 0),
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    tenant TEXT REFERENCES tenant ON DELETE CASCADE,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    hint TEXT NOT NULL,
    description TEXT,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX api_key_by_tenant ON api_key (tenant);

CREATE TABLE public_key (
    tenant TEXT NOT NULL REFERENCES tenant ON DELETE CASCADE,
    kid TEXT NOT NULL,
    pem TEXT NOT NULL,
    bits INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'retiring', 'retired')),
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, kid)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_active_key ON public_key (tenant) WHERE state = 'active';

CREATE TABLE endpoint (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenant ON DELETE CASCADE,
    description TEXT,
    events TEXT NOT NULL,
    content_type TEXT NOT NULL,
    envelope TEXT NOT NULL,
    ordered INTEGER NOT NULL CHECK (ordered IN (0, 1)),
    disabled_reason TEXT,
    disabled_since INTEGER,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    CHECK ((disabled_reason IS NULL) = (disabled_since IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX endpoint_by_tenant ON endpoint (tenant);
