-- People: who they are, which teams they are in, and which keys are theirs. `password` is a PHC string
-- (argon2id). `epoch` is in every token that a user gets; raising it ends them all.

CREATE TABLE users (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    is_admin   BOOLEAN NOT NULL,
    password   TEXT    NOT NULL,
    epoch      BIGINT  NOT NULL,
    created_by TEXT    NOT NULL,
    created_at BIGINT  NOT NULL,
    updated_at BIGINT  NOT NULL
);

CREATE TABLE members (
    team_id    TEXT   NOT NULL REFERENCES teams (id),
    user_id    TEXT   NOT NULL REFERENCES users (id),
    role       TEXT   NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (team_id, user_id)
);

CREATE INDEX members_by_user ON members (user_id);

-- Whose a key is; absent: the platform's.
ALTER TABLE api_keys ADD COLUMN user_id TEXT REFERENCES users (id);
-- When it was last used, to the hour.
ALTER TABLE api_keys ADD COLUMN last_used_at BIGINT;

CREATE INDEX api_keys_by_user ON api_keys (user_id);
CREATE INDEX api_keys_by_team ON api_keys (team_id);

-- What came of it: what was done is 'done', an attempt that was turned away is 'refused'.
ALTER TABLE audit ADD COLUMN outcome TEXT NOT NULL DEFAULT 'done';
