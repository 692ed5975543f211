-- Registration entries: which process on which hosts has which SPIFFE ID. `selectors` is a JSON
-- array, sorted. An entry is for one host, for the hosts with a tag, or (neither) for all.

CREATE TABLE entries (
    id         TEXT   NOT NULL PRIMARY KEY,
    spiffe_id  TEXT   NOT NULL,
    selectors  TEXT   NOT NULL,
    host_id    TEXT   REFERENCES hosts (id),
    tag        TEXT,
    hint       TEXT,
    ttl_secs   BIGINT,
    created_by TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    CHECK (host_id IS NULL OR tag IS NULL)
);

CREATE UNIQUE INDEX entries_once
    ON entries (spiffe_id, selectors, COALESCE(host_id, ''), COALESCE(tag, ''));
CREATE INDEX entries_by_host ON entries (host_id);
