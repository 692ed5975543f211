-- What several servers on one database need beside the books themselves.

-- Who does what only one may do, and until when, by the database's clock.
CREATE TABLE leases (
    name       TEXT   NOT NULL PRIMARY KEY,
    holder     TEXT   NOT NULL,
    expires_at BIGINT NOT NULL
);

-- How often something has changed of which servers keep a picture in their memory.
CREATE TABLE revisions (
    topic    TEXT   NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL
);

-- Keys that all servers have: the authority's, and the people's door's. Each replacement names the
-- revision that it replaces.
CREATE TABLE shared_state (
    name     TEXT   NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL,
    document TEXT   NOT NULL
);
