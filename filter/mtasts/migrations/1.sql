CREATE TABLE policy (
	domain TEXT PRIMARY KEY, -- A-labels
	id TEXT NOT NULL,
	mode TEXT NOT NULL,
	mx TEXT NOT NULL, -- patterns, with spaces between them
	age INTEGER NOT NULL, -- seconds
	fetched INTEGER NOT NULL, -- Unix time
	expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX policy_expires ON policy (expires);
