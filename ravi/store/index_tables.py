"""The tables of the index. A change here, or of the fields of a noun that is kept in them, raises FORMAT."""

FORMAT = 2
TABLES = """
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), at TEXT NOT NULL, tree TEXT NOT NULL);
INSERT INTO state VALUES (1, '', '');
CREATE TABLE commits (oid BLOB PRIMARY KEY, made INTEGER NOT NULL, merge INTEGER NOT NULL, event TEXT, run TEXT)
    WITHOUT ROWID;
CREATE TABLE tasks (
    key INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, id TEXT NOT NULL,
    owner INTEGER NOT NULL DEFAULT 0,   -- of all files with this id, the one that it belongs to
    guessed INTEGER NOT NULL,           -- the file cannot be read, its id is a guess
    status TEXT NOT NULL,               -- as written
    state TEXT NOT NULL,                -- or `waiting`, where that follows from other tasks
    closed INTEGER NOT NULL, priority INTEGER NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL,
    due TEXT NOT NULL, title TEXT NOT NULL, assignee TEXT NOT NULL, parent TEXT NOT NULL, labels TEXT NOT NULL,
    upstream TEXT NOT NULL,             -- on_upstream_failure
    retry_at TEXT NOT NULL DEFAULT '',  -- of its last run, when that one failed
    fault TEXT NOT NULL,                -- what is wrong in the file itself
    problem TEXT NOT NULL,              -- that, or what is wrong between files
    runs TEXT NOT NULL DEFAULT '[]');
CREATE TABLE cards (key INTEGER PRIMARY KEY, card TEXT NOT NULL);
CREATE TABLE texts (key INTEGER PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL, front TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5
    (title, body, content = 'texts', content_rowid = 'key', tokenize = 'unicode61 remove_diacritics 2');
CREATE TABLE edges (key INTEGER NOT NULL, kind INTEGER NOT NULL, target TEXT NOT NULL,
    PRIMARY KEY (key, kind, target)) WITHOUT ROWID;
CREATE TABLE runs (
    key INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, folder TEXT NOT NULL, id TEXT NOT NULL, task TEXT NOT NULL,
    number INTEGER NOT NULL, agent TEXT NOT NULL, status TEXT NOT NULL, started TEXT NOT NULL, retry_at TEXT NOT NULL,
    front TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE comments (path TEXT PRIMARY KEY, folder TEXT NOT NULL, author TEXT NOT NULL, created TEXT NOT NULL,
    kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE agents (name TEXT PRIMARY KEY, front TEXT NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE contacts (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE problems (
    path TEXT NOT NULL,
    scope INTEGER NOT NULL,             -- 0: in the file; 1: between it and others; 2: it is in a circle
    line INTEGER NOT NULL, key TEXT NOT NULL, message TEXT NOT NULL, severity TEXT NOT NULL);
"""
# Apart, because an index that is made from nothing gets them when its rows are there, in half the time.
INDEXES = """
CREATE INDEX commits_event ON commits (event) WHERE event IS NOT NULL;
CREATE INDEX commits_run ON commits (run) WHERE run IS NOT NULL;
CREATE INDEX tasks_id ON tasks (id);
CREATE INDEX tasks_parent ON tasks (parent) WHERE parent != '';
CREATE INDEX tasks_assignee ON tasks (assignee) WHERE assignee != '' AND closed = 0;
CREATE INDEX tasks_urgent ON tasks (priority DESC, created, id, closed, owner, state, retry_at, title, assignee)
    WHERE closed = 0;
CREATE INDEX tasks_all ON tasks (priority DESC, created, id);
CREATE INDEX edges_target ON edges (target, kind, key);
CREATE INDEX runs_folder ON runs (folder, number);
CREATE INDEX runs_id ON runs (id);
CREATE INDEX runs_started ON runs (started DESC, id);
CREATE INDEX runs_agent ON runs (agent, started DESC, id);
CREATE INDEX runs_status ON runs (status, started DESC, id);
CREATE INDEX comments_folder ON comments (folder, created, path);
CREATE INDEX problems_path ON problems (path, scope);
CREATE INDEX problems_scope ON problems (scope, key) WHERE scope;
"""
