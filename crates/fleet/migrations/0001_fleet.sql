-- The fleet's tables. Written for SQLite and PostgreSQL alike: times are milliseconds since 1970
-- (UTC), hashes are lower-case hex, documents are JSON text. Ids sort by the time of their making,
-- so a list in the order of its ids is a list in the order of creation.

CREATE TABLE teams (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    is_byoc    BOOLEAN NOT NULL,
    created_at BIGINT  NOT NULL
);

CREATE TABLE hosts (
    id                TEXT    NOT NULL PRIMARY KEY,
    kind              TEXT    NOT NULL CHECK (kind IN ('regular', 'byoc')),
    team_id           TEXT    REFERENCES teams (id),
    provider          TEXT,
    availability_zone TEXT,
    arch              TEXT,
    cpu_cores         BIGINT,
    memory_mb         BIGINT,
    disk_gb           BIGINT,
    address           TEXT,
    status            TEXT    NOT NULL
        CHECK (status IN ('pending', 'online', 'unreachable', 'draining', 'offline')),
    cordoned          BOOLEAN NOT NULL DEFAULT FALSE,
    last_heartbeat_at BIGINT,
    created_by        TEXT    NOT NULL,
    created_at        BIGINT  NOT NULL,
    updated_at        BIGINT  NOT NULL,
    CHECK ((kind = 'byoc') = (team_id IS NOT NULL)),
    CHECK (status = 'pending' OR address IS NOT NULL)
);

-- The monitor's question, every 15 s: who is online and has been silent for too long.
CREATE INDEX hosts_by_status ON hosts (status, last_heartbeat_at);

CREATE TABLE host_tags (
    host_id TEXT NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    tag     TEXT NOT NULL,
    PRIMARY KEY (host_id, tag)
);

CREATE TABLE registration_tokens (
    hash       TEXT   NOT NULL PRIMARY KEY,
    host_id    TEXT   NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    cidr       TEXT,
    arch       TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX registration_tokens_by_host ON registration_tokens (host_id);

CREATE TABLE api_keys (
    id         TEXT   NOT NULL PRIMARY KEY,
    hash       TEXT   NOT NULL UNIQUE,
    name       TEXT   NOT NULL,
    scopes     TEXT   NOT NULL,
    team_id    TEXT   REFERENCES teams (id),
    created_by TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

CREATE TABLE signing_keys (
    kid        TEXT   NOT NULL PRIMARY KEY,
    algorithm  TEXT   NOT NULL,
    pkcs8      TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- A VM holds its reservation (cpus, memory, disk) from the moment its row exists. `placed` is false
-- while its host has not yet said that it made it; such a row is nobody's VM yet.
CREATE TABLE vms (
    id               TEXT    NOT NULL PRIMARY KEY,
    team_id          TEXT    REFERENCES teams (id),
    name             TEXT    NOT NULL,
    host_id          TEXT    NOT NULL REFERENCES hosts (id),
    cpus             BIGINT  NOT NULL,
    memory_mb        BIGINT  NOT NULL,
    disk_size_mb     BIGINT  NOT NULL,
    spec             TEXT    NOT NULL,
    placed           BOOLEAN NOT NULL,
    state            TEXT    NOT NULL,
    state_reason     TEXT,
    observed         TEXT,
    idempotency_key  TEXT,
    request_hash     TEXT    NOT NULL,
    created_by       TEXT    NOT NULL,
    created_at       BIGINT  NOT NULL,
    updated_at       BIGINT  NOT NULL
);

CREATE UNIQUE INDEX vms_by_name ON vms (COALESCE(team_id, ''), name);
CREATE UNIQUE INDEX vms_by_idempotency_key ON vms (COALESCE(team_id, ''), idempotency_key);
CREATE INDEX vms_by_host ON vms (host_id);

-- Who changed what, when and from where. Rows are only ever added.
CREATE TABLE audit (
    id         TEXT   NOT NULL PRIMARY KEY,
    at         BIGINT NOT NULL,
    subject    TEXT   NOT NULL,
    action     TEXT   NOT NULL,
    object     TEXT   NOT NULL,
    request_id TEXT   NOT NULL,
    remote     TEXT
);
