"""Every statement, on one page. Revs order everything; a NULL body is a tombstone.

`runs` holds what the queue needs to find in columns and the whole Run in `body`. `ended` is 0 while a run is live.
`uniques` outlives the runs it names: a redelivery three days later is still the same delivery.
"""

from __future__ import annotations

MIGRATIONS = (
    # 1
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE purged (kind TEXT PRIMARY KEY, rev INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE objects (
        kind TEXT NOT NULL, key TEXT NOT NULL, rev INTEGER NOT NULL, at INTEGER NOT NULL, cause TEXT NOT NULL, body BLOB
    );
    CREATE UNIQUE INDEX objects_key ON objects (kind, key);
    CREATE INDEX objects_rev ON objects (kind, rev);
    CREATE INDEX objects_gone ON objects (at) WHERE body IS NULL;
    CREATE TABLE runs (
        id TEXT NOT NULL, rev INTEGER NOT NULL, task TEXT NOT NULL, status TEXT NOT NULL, ended INTEGER NOT NULL,
        due INTEGER NOT NULL, slots INTEGER NOT NULL, class TEXT NOT NULL, uniq TEXT NOT NULL,
        token TEXT NOT NULL, lease INTEGER NOT NULL, cause TEXT NOT NULL, body BLOB NOT NULL
    );
    CREATE UNIQUE INDEX runs_id ON runs (id);
    CREATE UNIQUE INDEX runs_rev ON runs (rev);
    CREATE INDEX runs_task ON runs (task, ended);
    CREATE INDEX runs_waiting ON runs (due, rev, class, task, slots) WHERE status = 'queued';
    CREATE TABLE uniques (key TEXT PRIMARY KEY, run TEXT NOT NULL, at INTEGER NOT NULL, status TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX uniques_at ON uniques (at);
    CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, fence INTEGER NOT NULL, ttl INTEGER NOT NULL) WITHOUT ROWID;
    """,
)

# the counter
READ_META = "SELECT value FROM meta WHERE name = ?"
SAVE_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
READ_HEADS = "SELECT kind, max(rev) FROM objects GROUP BY kind UNION ALL SELECT 'Run', max(rev) FROM runs"
READ_PURGED = "SELECT kind, rev FROM purged"
SAVE_PURGED = "INSERT INTO purged VALUES (?, ?) ON CONFLICT (kind) DO UPDATE SET rev = max(rev, excluded.rev)"

# objects
GET_OBJECT = "SELECT rev, body FROM objects WHERE kind = ? AND key = ?"
PUT_OBJECT = """
    INSERT INTO objects (kind, key, rev, at, cause, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (kind, key) DO UPDATE SET rev = ?3, at = ?4, cause = ?5, body = ?6"""
LIST_OBJECTS = "SELECT key, rev, body, cause FROM objects WHERE kind = ? AND rev > ? ORDER BY rev"
LIST_RUNS = """
    SELECT id, rev, body, cause FROM runs WHERE rev > ?1
    UNION ALL SELECT key, rev, NULL, cause FROM objects WHERE kind = 'Run' AND rev > ?1 ORDER BY 2"""

# the queue
GET_RUN = "SELECT rev, body FROM runs WHERE id = ?"
GET_STATUS = "SELECT id, status FROM runs WHERE id = ?"
GET_UNIQUE = "SELECT uniques.run, coalesce(runs.status, uniques.status) FROM uniques LEFT JOIN runs ON runs.id = uniques.run WHERE uniques.key = ?"
ADD_UNIQUE = "INSERT INTO uniques VALUES (?, ?, ?, '')"
ADD_RUN = """
    INSERT INTO runs (id, rev, task, status, ended, due, slots, class, uniq, token, lease, cause, body)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0, ?, ?)"""
SET_RUN = "UPDATE runs SET rev = ?2, status = ?3, ended = ?4, due = ?5, token = ?6, lease = ?7, body = ?8 WHERE id = ?1"
LIVE_RUNS = "SELECT id, status FROM runs WHERE task = ? AND ended = 0 ORDER BY rowid"
WAITING_CLASSES = "SELECT class, count(*) FROM runs WHERE status = 'queued' GROUP BY class"
RUNNING = "SELECT token, lease, body FROM runs WHERE ended = 0 AND status = 'running'"
DUE = """
    WITH busy (task, n) AS MATERIALIZED (SELECT key, value FROM json_each(?3))
    SELECT rev, runs.task, slots, coalesce(n, 0) FROM runs INDEXED BY runs_waiting LEFT JOIN busy ON busy.task = runs.task
    WHERE status = 'queued' AND due <= ?1 AND class IN (SELECT value FROM json_each(?2)) AND (slots = 0 OR slots > coalesce(n, 0))
    ORDER BY due, rev"""
BY_REV = "SELECT body FROM runs WHERE rev = ?"

# leases
READ_LEASES = "SELECT name, holder, fence, ttl FROM leases"
SAVE_LEASE = "INSERT INTO leases VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET holder = ?2, fence = ?3, ttl = ?4"
DROP_LEASE = "DELETE FROM leases WHERE name = ?"

# people looking
ALL_OBJECTS = "SELECT key, body FROM objects WHERE kind = ? AND body IS NOT NULL ORDER BY rev"
ALL_RUNS = "SELECT id, body FROM runs ORDER BY rev"
SOME_RUNS = "SELECT body FROM runs WHERE (?1 IS NULL OR task = ?1) AND (?2 IS NULL OR status = ?2) ORDER BY rowid DESC LIMIT ?3"
EVENTS_BACKWARDS = "SELECT body FROM objects WHERE kind = 'Event' AND body IS NOT NULL ORDER BY rev DESC"
OBJECTS_HEAD = "SELECT max(rev) FROM objects WHERE kind = ?"
RUNS_HEAD = "SELECT max(rev) FROM (SELECT max(rev) AS rev FROM runs UNION ALL SELECT max(rev) FROM objects WHERE kind = 'Run')"

# a copy that is put back: what was under way then is not gone on with
FORGET_UNDER_WAY = "DELETE FROM objects WHERE kind IN ('Schedule', 'Request'); DELETE FROM leases"
LIVE_BODIES = "SELECT body FROM runs WHERE ended = 0"
END_RUN = "UPDATE runs SET status = 'lost', ended = ?2, token = '', lease = 0, body = ?3 WHERE id = ?1"

# tidying, in small steps
OLD_TOMBSTONES = "SELECT rowid, kind, rev FROM objects WHERE body IS NULL AND at < ? ORDER BY at LIMIT ?"
MANY_TOMBSTONES = "SELECT rowid, kind, rev FROM objects WHERE body IS NULL ORDER BY at DESC LIMIT ? OFFSET ?"
MANY_OF_KIND = "SELECT rowid, kind, rev FROM objects WHERE kind = ? ORDER BY rev DESC LIMIT ? OFFSET ?"
OLDEST_OF_KIND = "SELECT rowid, kind, rev, at FROM objects WHERE kind = ? ORDER BY rev LIMIT ?"
GONE_HISTORIES = """
    SELECT key FROM objects AS history WHERE kind = 'History' AND at < ? AND body IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM objects WHERE kind = 'Task' AND key = history.key) LIMIT ?"""
OLD_OF_KIND = "SELECT rev, key, body FROM objects WHERE kind = ? AND rev > ? AND at < ? AND body IS NOT NULL ORDER BY rev LIMIT ?"
DROP_OBJECT = "DELETE FROM objects WHERE rowid = ?"
NEXT_TASK = "SELECT task FROM runs WHERE task > ? ORDER BY task LIMIT 1"
OLD_RUNS = "SELECT id, status, uniq FROM runs WHERE task = ? AND ended BETWEEN 1 AND ? ORDER BY ended LIMIT ?"
MANY_RUNS = "SELECT id, status, uniq FROM runs WHERE task = ? AND ended > 0 ORDER BY ended DESC LIMIT ? OFFSET ?"
DROP_RUN = "DELETE FROM runs WHERE id = ?"
KEEP_STATUS = "UPDATE uniques SET status = ? WHERE key = ?"
OLD_UNIQUES = "SELECT key, run FROM uniques WHERE at < ? ORDER BY at LIMIT ?"
MANY_UNIQUES = "SELECT key, run FROM uniques ORDER BY at DESC LIMIT ? OFFSET ?"
DROP_UNIQUE = "DELETE FROM uniques WHERE key = ?"

SYNC_EACH = "PRAGMA synchronous = FULL"  # a commit waits for the disk, and so does all that was committed before it
SYNC_LATER = "PRAGMA synchronous = NORMAL"  # a commit survives our end, not yet a power cut
