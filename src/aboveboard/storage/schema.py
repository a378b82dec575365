"""The tables of the database, and what brings those of an older release up to date."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

VERSION = sa.Table("schema_version", METADATA, sa.Column("version", sa.Integer, nullable=False))

OPERATORS = sa.Table(
    "operators",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("unit", sa.String, nullable=False, server_default=""),
)
CASES = sa.Table(
    "cases",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    # The agency's own number. The ledger has the handle, and a commitment of the number under `key`.
    sa.Column("number", sa.String, nullable=False, unique=True),
    sa.Column("handle", sa.String, nullable=False, unique=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("purpose", sa.String, nullable=False),
    sa.Column("offence", sa.String, nullable=False),
    sa.Column("documents", sa.JSON, nullable=False),
    sa.Column("operator", sa.ForeignKey("operators.name"), nullable=False),
    sa.Column("opened_at", sa.String, nullable=False),
    sa.Column("expires_at", sa.String, nullable=False),
    sa.Column("emergency_at", sa.String),
    sa.Column("closed_at", sa.String),
    # Faces that were compared one to one: a thousand of them are a search of a thousand.
    sa.Column("comparisons", sa.Integer, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)
CASE_LOOKS = sa.Table(
    "case_looks",
    METADATA,
    sa.Column("case", sa.ForeignKey("cases.n"), primary_key=True),
    sa.Column("intent", sa.Integer, primary_key=True),
    sa.Column("audit_id", sa.String, nullable=False, unique=True),
    # The entry of its outcome; null until there is one.
    sa.Column("outcome", sa.Integer),
    # Candidates between the pack's floor for leads and the threshold, sealed until they are asked for; null where there is none.
    sa.Column("leads", sa.LargeBinary),
    sqlite_with_rowid=False,
)
CASE_REASONS = sa.Table(
    "case_reasons",
    METADATA,
    # What somebody gave as a reason, in his words. The ledger has the commitment alone.
    sa.Column("case", sa.ForeignKey("cases.n"), primary_key=True),
    sa.Column("commitment", sa.String, primary_key=True),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sqlite_with_rowid=False,
)
CERTIFICATES = sa.Table(
    "certificates",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("operator", sa.ForeignKey("operators.name"), nullable=False, index=True),
    sa.Column("examiner", sa.String, nullable=False),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("made_at", sa.String, nullable=False),
    sa.Column("until", sa.String, nullable=False),
    sa.Column("revoked_at", sa.String),
)
SUSPENSIONS = sa.Table(
    "suspensions",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("scope", sa.String, nullable=False),
    sa.Column("target", sa.String, nullable=False),
    sa.Column("because", sa.String, nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("made_at", sa.String, nullable=False),
    # Two people lift it: the one who asks, and another one who agrees.
    sa.Column("lift_asked_by", sa.String),
    sa.Column("lifted_by", sa.String),
    sa.Column("lifted_at", sa.String),
    sa.Index("suspensions_in_force", "lifted_at"),
    sqlite_autoincrement=True,
)
VIOLATIONS = sa.Table(
    "violations",
    METADATA,
    # Refused looks that count towards a suspension.
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("operator", sa.String, nullable=False),
    sa.Column("unit", sa.String, nullable=False),
    sa.Column("rule", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Index("violations_of_operator", "operator", "at"),
    sa.Index("violations_of_unit", "unit", "at"),
)
PACKS = sa.Table(
    "policy_packs",
    METADATA,
    # Every pack that was ever in force here, so that its decisions can be made again.
    sa.Column("sha256", sa.String, primary_key=True),
    sa.Column("id", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("text", sa.LargeBinary, nullable=False),
    # The signed note of the authority; null for a pack that none has signed.
    sa.Column("signature", sa.LargeBinary),
    sa.Column("first_at", sa.String, nullable=False),
    sqlite_with_rowid=False,
)
ACCESS_KEYS = sa.Table(
    "access_keys",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("operator", sa.ForeignKey("operators.name"), nullable=False),
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    # Names of the buckets that this key may have read for it; "*" stands for all.
    sa.Column("buckets", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("revoked_at", sa.String),
    # A key of a case works inside it, until it expires; `declared` is what its looks declare: probe, edits, reason.
    sa.Column("case", sa.ForeignKey("cases.n")),
    sa.Column("expires_at", sa.String),
    sa.Column("declared", sa.JSON),
    sa.Index("keys_of_operator", "operator"),
    sa.Index("keys_of_cases", "case", "expires_at"),
)
COLLECTIONS = sa.Table(
    "collections",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    # Counted up with each write, so that every process notices the writes of the others.
    sa.Column("generation", sa.Integer, nullable=False, default=0),
    sa.Column("face_count", sa.Integer, nullable=False, default=0),
    sa.Column("subject_count", sa.Integer, nullable=False, server_default="0"),
    # The last number that TOUCHED gave: how often a face was removed or became another subject's.
    sa.Column("touches", sa.Integer, nullable=False, server_default="0"),
    # The logs of its face ids, which intents commit to: how many, and their full subtrees' roots. Null: an older release committed to none.
    sa.Column("enrolled", sa.Integer, nullable=False, server_default="0"),
    sa.Column("enrolled_subtrees", sa.LargeBinary),
    sa.Column("removed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("removed_subtrees", sa.LargeBinary, nullable=False, server_default=sa.text("x''")),
    # Since then its rows are being erased; `id` is no collection's any more.
    sa.Column("deleted_at", sa.String),
    sqlite_autoincrement=True,
)
TAGS = sa.Table(
    "tags",
    METADATA,
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
SUBJECTS = sa.Table(
    "subjects",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), nullable=False),
    sa.Column("subject_id", sa.String, nullable=False),
    # What the ledger calls this subject: the caller's own id may be a name, and an entry cannot be taken back.
    sa.Column("handle", sa.String, nullable=False, unique=True),
    sa.Column("created_at", sa.String, nullable=False),
    sa.UniqueConstraint("collection", "subject_id"),
    sa.Index("subjects_in_order", "collection", "n"),
    sqlite_autoincrement=True,
)
FACES = sa.Table(
    "faces",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), nullable=False),
    sa.Column("face_id", sa.String, nullable=False),
    sa.Column("image_id", sa.String, nullable=False),
    sa.Column("external_image_id", sa.String),
    sa.Column("box", sa.JSON, nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("subject", sa.ForeignKey("subjects.n", ondelete="SET NULL")),
    sa.UniqueConstraint("collection", "face_id"),
    sa.Index("faces_in_order", "collection", "n"),
    sa.Index("faces_of_image", "collection", "image_id"),
    sa.Index("faces_of_subject", "subject", "n"),
    sqlite_autoincrement=True,
)
TEMPLATES = sa.Table(
    "templates",
    METADATA,
    sa.Column("face", sa.ForeignKey("faces.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
TOUCHED = sa.Table(
    "touched_faces",
    METADATA,
    # What a reader that knows a collection as of one touch must look at again: faces that were removed or became another subject's.
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("touch", sa.Integer, primary_key=True),
    sa.Column("face", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)
IMAGES = sa.Table(
    "indexed_images",
    METADATA,
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("image_id", sa.String, primary_key=True),
    sqlite_with_rowid=False,
)
RECORDS = sa.Table(
    "enrolment_records",
    METADATA,
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("image_id", sa.String, primary_key=True),
    # Where the original is kept: a path or s3://bucket/name. It is read again to make templates of another model.
    sa.Column("source", sa.String),
    sa.Column("taken_on", sa.String),
    sa.Column("legal_basis", sa.String),
    sa.Column("disposition", sa.String),
    sa.Column("expires_on", sa.String),
    sa.Index("records_by_expiry", "expires_on"),
    sqlite_with_rowid=False,
)
REINDEXINGS = sa.Table(
    "reindexings",
    METADATA,
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("started_at", sa.String, nullable=False),
)
SHADOW_TEMPLATES = sa.Table(
    "shadow_templates",
    METADATA,
    sa.Column("face", sa.ForeignKey("faces.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
REQUESTS = sa.Table(
    "idempotent_requests",
    METADATA,
    sa.Column("token", sa.LargeBinary, primary_key=True),
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("answer", sa.JSON, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Index("requests_by_age", "created_at"),
    sqlite_with_rowid=False,
)
LEDGER = sa.Table(
    "ledger",
    METADATA,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("entry", sa.LargeBinary, nullable=False),
)
LEDGER_STATE = sa.Table(
    "ledger_state",
    METADATA,
    sa.Column("one", sa.Integer, primary_key=True),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("subtrees", sa.LargeBinary, nullable=False),
)
LEDGER_BLOCKS = sa.Table(
    "ledger_blocks",
    METADATA,
    # The root over each full block of entries: what a proof reads instead of the entries.
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("root", sa.LargeBinary, nullable=False),
)
COMMITMENT_KEYS = sa.Table(
    "commitment_keys",
    METADATA,
    sa.Column("audit_id", sa.String, primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
)

SCHEMA = 4
MIGRATIONS = {
    2: (
        "ALTER TABLE access_keys ADD COLUMN buckets JSON NOT NULL DEFAULT '[]'",
        "ALTER TABLE access_keys ADD COLUMN revoked_at VARCHAR",
        "ALTER TABLE collections ADD COLUMN associations INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE collections ADD COLUMN subject_count INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE faces ADD COLUMN subject INTEGER REFERENCES subjects (n) ON DELETE SET NULL",
        "CREATE INDEX faces_of_image ON faces (collection, image_id)",
        "CREATE INDEX faces_of_subject ON faces (subject, n)",
    ),
    3: (
        "ALTER TABLE collections DROP COLUMN removals",
        "ALTER TABLE collections DROP COLUMN associations",
        "ALTER TABLE collections ADD COLUMN touches INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE collections ADD COLUMN deleted_at VARCHAR",
    ),
    4: (
        "ALTER TABLE operators ADD COLUMN unit VARCHAR NOT NULL DEFAULT ''",
        'ALTER TABLE access_keys ADD COLUMN "case" INTEGER REFERENCES cases (n)',
        "ALTER TABLE access_keys ADD COLUMN expires_at VARCHAR",
        "ALTER TABLE access_keys ADD COLUMN declared JSON",
        "CREATE INDEX keys_of_operator ON access_keys (operator)",
        'CREATE INDEX keys_of_cases ON access_keys ("case", expires_at)',
        "ALTER TABLE collections ADD COLUMN enrolled INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE collections ADD COLUMN enrolled_subtrees BLOB",
        "ALTER TABLE collections ADD COLUMN removed INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE collections ADD COLUMN removed_subtrees BLOB NOT NULL DEFAULT x''",
    ),
}
"""Schema version -> what makes it of the one before; new tables make themselves."""
