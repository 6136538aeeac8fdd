"""The tables of the catalog, and the version of their layout.

Every passage row carries a revision `rev` of its own, and revisions grow in commit order because
they, and the ids, are dealt out of the `head` row that each writer holds until it commits. A
sequence would not do: its numbers can commit out of order, and a reader that asks for "greater
than the last I saw" would skip rows for ever. Ids out of the head are never used twice, so a point
that an index still holds can never come to mean another passage.

There are no foreign keys: a tombstone outlives its document, and a large collection is deleted in
many small transactions after its name is gone.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

VERSION = 3

Key = BigInteger().with_variant(Integer, "sqlite")
"""64 bits on both: SQLite's INTEGER has them, and only under that name is the row id itself."""

metadata = MetaData()

layout = Table("layout", metadata, Column("version", Integer, nullable=False))

head = Table(
    "head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("rev", Key, nullable=False),
    Column("document", Key, nullable=False),
    Column("passage", Key, nullable=False),
    Column("collection", Key, nullable=False),
    Column("generation", Key, nullable=False),
)

collections = Table(
    "collections",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("name", String(64), nullable=False, unique=True),
    Column("fields", JSON, nullable=False),
    Column("created", String(32), nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("collection", Key, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", LargeBinary(16), nullable=False),
    Column("language", String(64), nullable=False),
    Column("title", Text, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("text", Text, nullable=False),  # last: reads of the others stop before its pages
    Index("documents_key", "collection", "key", unique=True),
    Index("documents_order", "collection", "id"),
)

passages = Table(
    "passages",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("collection", Key, nullable=False),
    Column("document", Key, nullable=False),
    Column("number", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("language", String(64), nullable=False),
    Column("rev", Key, nullable=False),
    Column("dead", Boolean, nullable=False),
    Index("passages_rev", "collection", "rev", unique=True),
    Index("passages_order", "collection", "id"),
    Index("passages_number", "document", "number", unique=True),
    Index("passages_language", "collection", "dead", "language"),
)
Index(
    "passages_dead",
    passages.c.collection,
    passages.c.rev,
    sqlite_where=text("dead = 1"),  # as SQLAlchemy writes the condition in a query
    postgresql_where=passages.c.dead,
)

generations = Table(
    "generations",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("bundle", String(128), nullable=False),
    Column("version", String(64), nullable=False),
    Column("space", String(128), nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("state", String(32), nullable=False),
    Column("created", String(32), nullable=False),
    Column("precision", String(16), nullable=False, server_default=""),
    Column("indexes", Key, nullable=False, server_default="0"),
    Column("changed", String(32), nullable=False, server_default=""),
    Column("paused", Boolean, nullable=False, server_default=false()),
    Column("error", Text, nullable=False, server_default=""),
    Column("options", JSON, nullable=False, server_default="{}"),
    Column("report", JSON(none_as_null=True)),
    Column("request", String(200), unique=True),
    Column("requested", JSON(none_as_null=True)),
)

cursors = Table(
    "cursors",
    metadata,
    Column("generation", Key, primary_key=True, autoincrement=False),
    Column("collection", Key, primary_key=True, autoincrement=False),
    Column("applied_rev", Key, nullable=False),
    Column("verified", Boolean, nullable=False, server_default=false()),
)

failures = Table(
    "failures",
    metadata,
    Column("generation", Key, primary_key=True, autoincrement=False),
    Column("passage", Key, primary_key=True, autoincrement=False),
    Column("collection", Key, nullable=False),
    Column("rev", Key, nullable=False),
    Column("reason", Text, nullable=False),
)

route = Table(
    "route",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Key, nullable=False),
    Column("active", Key),
    Column("previous", Key),
    Column("asking", Key),
    Column("soak_until", Float),
    Column("gate_until", Float),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("fence", Key, nullable=False),
    Column("expires", Float, nullable=False),
)

pods = Table(
    "pods",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("seen", Float, nullable=False),
    Column("epoch", Key, nullable=False),
    Column("loaded", JSON, nullable=False),
    Column("refused", JSON, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("at", String(32), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("generation", Key),
    Column("detail", JSON, nullable=False),
)

UPGRADES: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE generations ADD COLUMN precision VARCHAR(16) NOT NULL DEFAULT ''",
        "ALTER TABLE generations ADD COLUMN indexes BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE generations ADD COLUMN changed VARCHAR(32) NOT NULL DEFAULT ''",
        "ALTER TABLE generations ADD COLUMN paused BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE generations ADD COLUMN error TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE generations ADD COLUMN options JSON NOT NULL DEFAULT '{}'",
        "ALTER TABLE generations ADD COLUMN report JSON",
        "ALTER TABLE generations ADD COLUMN request VARCHAR(200)",
        "ALTER TABLE generations ADD COLUMN requested JSON",
        "CREATE UNIQUE INDEX generations_request ON generations (request)",
        "UPDATE generations SET indexes = id, changed = created",
        "ALTER TABLE cursors ADD COLUMN verified BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE route ADD COLUMN soak_until DOUBLE PRECISION",
        "ALTER TABLE route ADD COLUMN gate_until DOUBLE PRECISION",
    ),
    2: ("ALTER TABLE route ADD COLUMN asking BIGINT",),
}
"""What turns a layout into the next one, beside the tables that are new."""
