-- Version 2: mails that prove an address to an authority, where an operator
-- awaits one. message is a hash of the Message-ID: each mail counts once.
CREATE TABLE proof (
	message    BLOB PRIMARY KEY CHECK (length(message) = 32),
	order_name BLOB NOT NULL CHECK (length(order_name) = 32), -- a hash of the order's URL
	facts      TEXT NOT NULL, -- JSON
	at         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX proof_by_order ON proof (order_name);
CREATE INDEX proof_by_time ON proof (at);
