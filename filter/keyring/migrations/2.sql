-- Version 2: what a certificate's owner reads, authorities, and each source
-- with its times.

ALTER TABLE cert ADD COLUMN capabilities BLOB; -- SMIMECapabilities, DER
ALTER TABLE cert ADD COLUMN role TEXT NOT NULL DEFAULT '' CHECK (role IN ('', 'anchor', 'intermediate'));
CREATE INDEX cert_by_role ON cert (role) WHERE role <> '';
CREATE INDEX cert_by_last_seen ON cert (last_seen);

CREATE TABLE cert_source (
	fingerprint TEXT NOT NULL REFERENCES cert ON DELETE CASCADE,
	source      TEXT NOT NULL,
	first_seen  INTEGER NOT NULL,
	last_seen   INTEGER NOT NULL,
	PRIMARY KEY (fingerprint, source)
) STRICT;
INSERT INTO cert_source SELECT fingerprint, source, first_seen, last_seen FROM cert;
