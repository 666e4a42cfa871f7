-- Version 3. Addresses of ours that had a mail and no certificate of their own.
-- sends: the mail was theirs; otherwise they got it.
CREATE TABLE joiner (
	address TEXT PRIMARY KEY,
	sends   INTEGER NOT NULL CHECK (sends IN (0, 1)),
	at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX joiner_by_time ON joiner (at);
