-- Version 4: orders at authorities that prove an address by a mail to it. Times
-- are Unix seconds; NULL: not told, or not yet.

CREATE TABLE certificate_order (
	url       TEXT PRIMARY KEY, -- of the order, at the authority
	authority TEXT NOT NULL,    -- its name in the plan
	address   TEXT NOT NULL,    -- that the certificate is to name, and the mail goes to
	key       BLOB NOT NULL CHECK (length(key) = 32),
	challenge TEXT NOT NULL,    -- URL; '' until the authority has told it
	token     TEXT NOT NULL,    -- its second half
	sender    TEXT NOT NULL,    -- who the mail is to come from
	made      INTEGER NOT NULL,
	expires   INTEGER,
	answered  INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX certificate_order_by_address ON certificate_order (address);
CREATE UNIQUE INDEX certificate_order_by_key ON certificate_order (authority, key);
