-- Sessions of the console, by the hash of the cookie, with the hash of what a request shows beside it. Each is good as long as the token or the access key that it was made from.
CREATE TABLE console_sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hash TEXT NOT NULL UNIQUE,
    page_hash TEXT NOT NULL,
    token_id BIGINT,
    key_id BIGINT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX console_sessions_end ON console_sessions (expires_at);
