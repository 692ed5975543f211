-- The audit trail as a chain: `hash` is over the line itself and the hash of the line before, and `seq`
-- has no gaps. What was written before there was a chain is put into it by the next server that
-- starts, because no statement that both databases know can hash.

ALTER TABLE audit RENAME TO audit_unchained;

CREATE TABLE audit (
    seq        BIGINT NOT NULL PRIMARY KEY,
    at         BIGINT NOT NULL,
    subject    TEXT   NOT NULL,
    action     TEXT   NOT NULL,
    object     TEXT   NOT NULL,
    request_id TEXT   NOT NULL,
    remote     TEXT,
    hash       TEXT   NOT NULL
);
