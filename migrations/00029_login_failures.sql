-- +goose Up

-- How much of its allowance of failed logins an address, or the id of a token, has spent, as of all replicas. What is spent comes
-- back within a minute, so that nothing here is worth more than that, nor a write of the log: a crash of the database
-- forgets it.
create unlogged table login_failures (
    key   text primary key,
    spent double precision not null check (spent >= 0),
    at    timestamptz not null default now()
);
create index login_failures_at on login_failures (at);

-- Copies to other registries are listed newest first, in pages.
create index replications_since on replications (since desc, target, repository, digest, environment);

-- +goose Down
drop index replications_since;
drop table login_failures;
