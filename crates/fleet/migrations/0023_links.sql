-- Which server holds the connection of a host that cannot be dialled, and where other servers reach
-- that server. A row that a server left behind when it died is replaced when the host has connected
-- anew. Such a host has the empty text for its address.

CREATE TABLE links (
    host_id TEXT NOT NULL PRIMARY KEY REFERENCES hosts (id) ON DELETE CASCADE,
    link    TEXT NOT NULL,
    url     TEXT NOT NULL
);
