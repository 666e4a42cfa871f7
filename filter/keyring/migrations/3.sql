-- Version 3: what the key of an identity does where its certificate allows more.

ALTER TABLE identity ADD COLUMN use TEXT NOT NULL DEFAULT '' CHECK (use IN ('', 'sign', 'unwrap'));
