-- Version 1. Times are Unix seconds; NULL is "never" or "not known".

CREATE TABLE cert (
	fingerprint TEXT PRIMARY KEY CHECK (length(fingerprint) IN (40, 64)),
	format      TEXT NOT NULL CHECK (format IN ('openpgp', 'smime')),
	raw         BLOB NOT NULL,
	created     INTEGER,
	expires     INTEGER,
	trust       TEXT NOT NULL CHECK (trust IN ('seen', 'trusted', 'distrusted')),
	source      TEXT NOT NULL,
	first_seen  INTEGER NOT NULL,
	last_seen   INTEGER NOT NULL,
	partner     INTEGER NOT NULL CHECK (partner IN (0, 1)) -- 0: here only because an identity needs it
) STRICT;

-- Addresses that the certificate itself names.
CREATE TABLE cert_address (
	fingerprint TEXT NOT NULL REFERENCES cert ON DELETE CASCADE,
	position    INTEGER NOT NULL,
	address     TEXT NOT NULL, -- canonical, what look-ups compare
	local       TEXT NOT NULL,
	domain      TEXT NOT NULL,
	PRIMARY KEY (fingerprint, position)
) STRICT;
CREATE INDEX cert_by_address ON cert_address (address);

-- Domains that an operator said it serves.
CREATE TABLE cert_domain (
	fingerprint TEXT NOT NULL REFERENCES cert ON DELETE CASCADE,
	domain      TEXT NOT NULL,
	PRIMARY KEY (fingerprint, domain)
) STRICT;
CREATE INDEX cert_by_domain ON cert_domain (domain);

CREATE TABLE cert_key (
	fingerprint TEXT NOT NULL REFERENCES cert ON DELETE CASCADE,
	position    INTEGER NOT NULL,
	key_id      BLOB NOT NULL CHECK (length(key_id) = 32),
	PRIMARY KEY (fingerprint, position)
) STRICT;

-- Our own: whom a certificate speaks for. Either address or owner_domain is empty.
CREATE TABLE identity (
	fingerprint  TEXT NOT NULL REFERENCES cert ON DELETE RESTRICT,
	address      TEXT NOT NULL,
	local        TEXT NOT NULL,
	domain       TEXT NOT NULL,
	owner_domain TEXT NOT NULL,
	PRIMARY KEY (fingerprint, address, owner_domain),
	CHECK ((address = '') <> (owner_domain = ''))
) STRICT;
CREATE INDEX identity_by_address ON identity (address) WHERE address <> '';
CREATE INDEX identity_by_domain ON identity (owner_domain) WHERE owner_domain <> '';
