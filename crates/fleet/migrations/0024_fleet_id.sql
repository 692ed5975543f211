-- What these books are called among others that share a Redis with them.

CREATE TABLE fleet_id (
    id TEXT NOT NULL PRIMARY KEY
);
