-- +goose Up

-- The newest state of each copy of a promoted digest to another registry; the job that makes it is River's.
create table replications (
    target      text not null,     -- the other registry's name in the configuration
    repository  text not null,
    digest      text not null,
    environment text not null,
    version     text not null default '',
    state       text not null check (state in ('waiting', 'copied', 'failed', 'dropped')),
    problem     text not null default '',
    attempts    int not null default 0,
    since       timestamptz not null default now(),
    primary key (target, repository, digest, environment),
    -- who asks why is answered
    check (state not in ('failed', 'dropped') or problem <> '')
);
create index replications_repository on replications (repository, since);

-- +goose Down
drop table replications;
