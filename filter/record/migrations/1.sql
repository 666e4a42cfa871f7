-- Version 1. Times are Unix seconds.

-- Whether the file can be written is tried here.
CREATE TABLE probe (
	id INTEGER PRIMARY KEY CHECK (id = 1),
	at INTEGER NOT NULL
) STRICT;

-- Who has his copy of a mail that its sender will bring again. mark names the
-- mail, recipient the address in it; both are hashes. refused is the reply that
-- the next hop gave for good, as JSON; NULL: delivered.
CREATE TABLE part (
	mark      BLOB NOT NULL CHECK (length(mark) = 32),
	recipient BLOB NOT NULL CHECK (length(recipient) = 32),
	refused   TEXT,
	at        INTEGER NOT NULL,
	PRIMARY KEY (mark, recipient)
) STRICT, WITHOUT ROWID;
CREATE INDEX part_by_time ON part (at);

-- What a recipient is answered when the mail comes again.
CREATE TABLE refusal (
	envelope BLOB PRIMARY KEY CHECK (length(envelope) = 32),
	reply    TEXT NOT NULL, -- JSON
	at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX refusal_by_time ON refusal (at);

-- With whom protection was once used.
CREATE TABLE protected (
	address TEXT PRIMARY KEY,
	since   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Mails that were opened, by a hash of their Message-ID.
CREATE TABLE opened (
	message BLOB PRIMARY KEY CHECK (length(message) = 32),
	at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX opened_by_time ON opened (at);

-- One row for each mail. Nothing of what it says.
CREATE TABLE mail (
	id         INTEGER PRIMARY KEY AUTOINCREMENT,
	trace      TEXT NOT NULL,
	at         INTEGER NOT NULL,
	message_id TEXT NOT NULL,
	facts      TEXT NOT NULL -- JSON
) STRICT;
CREATE INDEX mail_by_trace ON mail (trace);
CREATE INDEX mail_by_time ON mail (at);
CREATE INDEX mail_by_message_id ON mail (message_id) WHERE message_id <> '';
