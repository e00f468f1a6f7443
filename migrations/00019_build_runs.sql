-- +goose Up

-- A request for a build, from when it is asked until long after it has ended. A replica that builds says so every few
-- seconds (beat_at); one that stopped saying so was killed, and the run is taken up again, or fails.
create table build_runs (
    id           text primary key,
    repository   text not null,
    key          text not null,
    request      jsonb not null,               -- builder.Request: no secret is in it
    principal    jsonb not null,               -- as whom it pushes
    context      text not null default '',     -- digest of the stored context; '' when it is built where it was asked for
    state        text not null check (state in ('queued', 'running', 'done', 'failed', 'cancelled')),
    owner        text not null default '',     -- the process that builds
    attempts     int not null default 0,
    cancelled_by text not null default '',
    digest       text,
    built        boolean not null default false, -- false: it was built before
    failure      text not null default '',
    asked_at     timestamptz not null default now(),
    started_at   timestamptz,
    beat_at      timestamptz,
    ended_at     timestamptz,
    check (state <> 'done' or digest is not null)
);
create index build_runs_asked on build_runs (asked_at desc, id);
create index build_runs_repository on build_runs (repository, asked_at desc);
create index build_runs_context on build_runs (context) where state in ('queued', 'running');
create index build_runs_running on build_runs (beat_at) where state = 'running';
create index build_runs_ended on build_runs (ended_at) where ended_at is not null;
-- However many ask for the same inputs, one build of them waits or runs.
create unique index build_runs_live on build_runs (repository, key) where state in ('queued', 'running') and context <> '';

-- What a build said, in pieces: lines of JSON, each a builder.Event.
create table build_logs (
    run  text not null references build_runs (id) on delete cascade,
    seq  bigint not null,
    body bytea not null,
    primary key (run, seq)
);

-- What images were built on.
create table build_bases (
    repository      text not null,
    digest          text not null,
    base_repository text not null,
    base_digest     text not null,             -- of the image for the platform
    base_tag        text not null default '',  -- as the Dockerfile had it; '' when that had a digest
    at              timestamptz not null default now(),
    primary key (repository, digest, base_repository, base_digest)
);
create index build_bases_base on build_bases (base_repository, base_digest);

-- +goose Down
drop table build_bases, build_logs, build_runs;
