-- +goose Up

-- Trivy's Java databases: what jars are called, by their checksums. Apart from advisory_databases, of which a replica of
-- the version before takes the newest for advisories.
create table java_databases (
    id          bigint generated always as identity primary key,
    digest      text not null unique,
    schema      int not null,
    updated_at  timestamptz not null,
    imported_at timestamptz not null default now(),
    imported_by text not null
);

-- The newest attempt to pull one.
create table java_pulls (
    one       boolean primary key default true check (one),
    source    text not null,
    at        timestamptz not null,
    problem   text not null default '',
    actor     text not null
);

-- By which Java database the jars of an image have their names that do not name themselves: null where there are none
-- such, and empty where there was no database.
alter table scans add column java_digest text;

-- +goose Down
alter table scans drop column java_digest;
drop table java_pulls;
drop table java_databases;
