"""The schema of the SQLite store as steps; PRAGMA user_version counts those applied.

Steps are never edited once released: a change is a new step at the end.
"""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE devices (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            created_at REAL NOT NULL,
            is_blocked INTEGER NOT NULL DEFAULT 0,
            last_seen_at REAL
        ) STRICT
        """,
        """
        CREATE TABLE tokens (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL CHECK (kind IN ('admin', 'device')),
            digest BLOB NOT NULL UNIQUE,
            device_id INTEGER REFERENCES devices (id) ON DELETE CASCADE,
            created_at REAL NOT NULL,
            expires_at REAL,
            revoked_at REAL,
            last_used_at REAL,
            CHECK ((kind = 'device') = (device_id IS NOT NULL))
        ) STRICT
        """,
        """
        CREATE TABLE tunnels (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            device_id INTEGER NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
            created_at REAL NOT NULL
        ) STRICT
        """,
        # Appended to thousands of times a second, so no index but the row id.
        """
        CREATE TABLE requests (
            id INTEGER PRIMARY KEY,
            time_us INTEGER NOT NULL,
            tunnel_id INTEGER NOT NULL,
            device_id INTEGER NOT NULL,
            request_id TEXT NOT NULL,
            visitor TEXT NOT NULL,
            method TEXT NOT NULL,
            host TEXT NOT NULL,
            path TEXT NOT NULL,
            status INTEGER NOT NULL,
            reason TEXT NOT NULL,
            flags INTEGER NOT NULL,
            bytes_in INTEGER NOT NULL,
            bytes_out INTEGER NOT NULL,
            total_us INTEGER NOT NULL,
            first_byte_us INTEGER NOT NULL,
            target_us INTEGER NOT NULL
        ) STRICT
        """,
    ),
    (
        # docs/adr/0009. `requests` was never in a release.
        "DROP TABLE requests",
        """
        CREATE TABLE request_batches (
            id INTEGER PRIMARY KEY,  -- of its last request; those before it count down
            size INTEGER NOT NULL,   -- requests in it
            records BLOB NOT NULL    -- proxy_engine_core.log_batch
        ) STRICT
        """,
    ),
    (
        # For retention by age and size. Batches from before count as made now and as nothing.
        "ALTER TABLE request_batches ADD COLUMN time_us INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE request_batches ADD COLUMN bytes_total INTEGER NOT NULL DEFAULT 0",
        "UPDATE request_batches SET time_us = CAST(strftime('%s', 'now') AS INTEGER) * 1000000",
    ),
    (
        # Tokens for many devices, scopes, limits, rotation: the table anew for its last CHECK.
        "ALTER TABLE devices ADD COLUMN owner_token_id INTEGER",
        "ALTER TABLE tokens RENAME TO tokens_before",
        """
        CREATE TABLE tokens (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL CHECK (kind IN ('admin', 'device')),
            digest BLOB NOT NULL UNIQUE,
            old_digest BLOB UNIQUE,
            old_expires_at REAL,
            device_id INTEGER REFERENCES devices (id) ON DELETE CASCADE,
            created_at REAL NOT NULL,
            expires_at REAL,
            revoked_at REAL,
            last_used_at REAL,
            scopes TEXT NOT NULL DEFAULT '{}',  -- grants.Scopes
            limits TEXT NOT NULL DEFAULT '{}',  -- grants.Limits
            CHECK (kind = 'device' OR device_id IS NULL)
        ) STRICT
        """,
        """
        INSERT INTO tokens
            (id, name, kind, digest, device_id, created_at, expires_at, revoked_at, last_used_at)
        SELECT id, name, kind, digest, device_id, created_at, expires_at, revoked_at, last_used_at
        FROM tokens_before
        """,
        "DROP TABLE tokens_before",
    ),
    (
        # Public ports of TCP tunnels.
        "ALTER TABLE tunnels ADD COLUMN port INTEGER",
        "CREATE UNIQUE INDEX tunnels_port ON tunnels (port)",
    ),
    (
        """
        CREATE TABLE metrics (
            type TEXT NOT NULL,
            time_ms INTEGER NOT NULL,
            data TEXT NOT NULL,  -- values by name, JSON
            PRIMARY KEY (type, time_ms)
        ) STRICT, WITHOUT ROWID
        """,
    ),
    (
        # What is known of devices, when they came and went, and what admins did.
        "ALTER TABLE devices ADD COLUMN first_seen_at REAL",
        "ALTER TABLE devices ADD COLUMN kicked_at REAL",
        "ALTER TABLE devices ADD COLUMN labels TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE devices ADD COLUMN address TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE devices ADD COLUMN agent TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE devices ADD COLUMN platform TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE devices ADD COLUMN links INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE devices ADD COLUMN requests INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE devices ADD COLUMN bytes_in INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE devices ADD COLUMN bytes_out INTEGER NOT NULL DEFAULT 0",
        """
        CREATE TABLE device_events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            device_id INTEGER NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
            at REAL NOT NULL,
            kind TEXT NOT NULL,
            address TEXT NOT NULL,
            reason TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX device_events_by_device ON device_events (device_id, id)",
        """
        CREATE TABLE audit (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            actor TEXT NOT NULL,
            address TEXT NOT NULL,
            action TEXT NOT NULL,
            subject TEXT NOT NULL,
            detail TEXT NOT NULL,
            outcome TEXT NOT NULL
        ) STRICT
        """,
    ),
    (
        # For searching. Batches from before have no keys, and were never in a release.
        "DELETE FROM request_batches",
        """
        CREATE TABLE request_keys (
            id INTEGER PRIMARY KEY,     -- of the batch
            first_us INTEGER NOT NULL,  -- earliest and latest time of its requests
            last_us INTEGER NOT NULL,
            format INTEGER NOT NULL,    -- log_batch.FORMAT of the records and of the keys
            keys BLOB NOT NULL          -- proxy_engine_core.log_index
        ) STRICT
        """,
        "CREATE INDEX request_keys_time ON request_keys (last_us, first_us)",
    ),
    (
        # What caches elsewhere are checked with (storage/shared.py). Triggers, so that no write
        # can forget it; not for what only says when somebody was seen.
        """
        CREATE TABLE shared (
            name TEXT PRIMARY KEY,
            value BLOB NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        "INSERT INTO shared (name, value) VALUES ('access_generation', randomblob(16))",
        *(
            f"""
            CREATE TRIGGER access_{number} AFTER {event} BEGIN
                UPDATE shared SET value = randomblob(16) WHERE name = 'access_generation';
            END
            """
            for number, event in enumerate(
                (
                    "INSERT ON tokens",
                    "DELETE ON tokens",
                    "UPDATE OF name, kind, digest, device_id, expires_at, revoked_at, old_digest,"
                    " old_expires_at, scopes, limits ON tokens",
                    "DELETE ON devices",
                    "UPDATE OF name, is_blocked, kicked_at ON devices",
                )
            )
        ),
    ),
    (
        # What operators want of tunnels.
        "ALTER TABLE tunnels ADD COLUMN version INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE tunnels ADD COLUMN updated_at REAL",
        "ALTER TABLE tunnels ADD COLUMN is_enabled INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE tunnels ADD COLUMN target TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE tunnels ADD COLUMN maintenance TEXT",  # tunnels.options.Maintenance
        "ALTER TABLE tunnels ADD COLUMN options TEXT NOT NULL DEFAULT '{}'",  # ... Options
        """
        CREATE TABLE tunnel_domains (
            name TEXT PRIMARY KEY,
            tunnel_id INTEGER NOT NULL REFERENCES tunnels (id) ON DELETE CASCADE,
            is_agents INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX tunnel_domains_by_tunnel ON tunnel_domains (tunnel_id)",
    ),
    (
        # A port of TCP and the same one of UDP are two.
        "DROP INDEX tunnels_port",
        "CREATE UNIQUE INDEX tunnels_kind_port ON tunnels (kind, port)",
    ),
    (
        # Names that the certificates of devices have, as JSON. Caches elsewhere hold them too.
        "ALTER TABLE devices ADD COLUMN certificate_names TEXT NOT NULL DEFAULT '[]'",
        """
        CREATE TRIGGER access_certificates AFTER UPDATE OF certificate_names ON devices BEGIN
            UPDATE shared SET value = randomblob(16) WHERE name = 'access_generation';
        END
        """,
    ),
    # Nothing to change: records have a trace behind their texts from now on, and those from before
    # are read as they are (log_batch.FORMAT 2). But older versions can not read the new ones.
    (),
)
