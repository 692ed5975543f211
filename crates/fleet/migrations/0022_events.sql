-- What happened to hosts and VMs, in order and without gaps. The oldest are given up in time.

CREATE TABLE events (
    seq      BIGINT NOT NULL PRIMARY KEY,
    at       BIGINT NOT NULL,
    kind     TEXT   NOT NULL CHECK (kind IN ('host', 'vm')),
    change   TEXT   NOT NULL,
    team_id  TEXT,
    document TEXT   NOT NULL
);
