-- +goose Up

-- What each repository's blobs come to, as it was when it was counted last (postgres/usage.go): counting reads every link,
-- and a page does not wait for that. "own" is of blobs that no other repository has.
create table repository_usage (
    repository text primary key,
    blobs      bigint not null,
    bytes      bigint not null,
    own_bytes  bigint not null check (own_bytes <= bytes)
);

-- The same of all blobs, each once. "loose" is of blobs that no repository has, which garbage collection takes.
create table store_usage (
    one          boolean primary key default true check (one),
    counted_at   timestamptz not null,
    took         interval not null,
    blobs        bigint not null,
    bytes        bigint not null,
    shared_bytes bigint not null,
    loose_bytes  bigint not null,
    upload_bytes bigint not null
);

-- What garbage collections, checks of the blobs and runs of retention came to; the newest of each kind are kept.
create table upkeep_runs (
    id       bigint generated always as identity primary key,
    kind     text not null check (kind in ('gc', 'fsck', 'retention')),
    actor    text not null,
    began_at timestamptz not null,
    ended_at timestamptz not null,
    outcome  jsonb not null,
    problem  text not null default '' -- why it did not come to its end
);
create index upkeep_runs_kind on upkeep_runs (kind, id);

-- +goose Down
drop table upkeep_runs, store_usage, repository_usage;
