-- +goose Up

-- Of the analyses that several versions of the analysers made of a layer, the newest counts.
alter table layer_analyses add column made_at timestamptz not null default now();

-- What another advisory database needs to match an image again: no layer is read for it, and no analysis.
alter table scans add column contents bytea;        -- as the scanner gave it, opaque here
alter table scans add column vulnerabilities bytea; -- hashes of those found, so that only what changes is written
-- Licences are hundreds in an image and nobody asks which images have one: beside the packages, not in rows.
alter table scans add column licenses bytea;        -- zstd of []artifact.Finding as JSON
create index scans_database on scans (state, database_digest, digest);

-- Since when a finding is known of an image.
alter table findings add column found_at timestamptz not null default now();
-- What a finding says, as a number (artifact.Finding.Hash): what another match finds again is not written again. Rows of
-- before get any; their next scan replaces them. A replica of the version before goes on with positions.
alter table findings add column hash bigint not null default (random() * 9e18)::bigint;
alter table findings drop constraint findings_pkey, add primary key (digest, hash);
alter table findings alter column position set default 0;
-- "Which images have CVE-2024-24790?", in pages.
drop index findings_id;
create index findings_id on findings (id, digest);

-- The newest attempt to pull the advisory database.
create table advisory_pulls (
    one       boolean primary key default true check (one),
    source    text not null,
    at        timestamptz not null,
    problem   text not null default '',
    actor     text not null
);

-- +goose Down
drop table advisory_pulls;
drop index findings_id;
create index findings_id on findings (id);
alter table findings drop column found_at;
update findings f set position = n from (select digest, hash, row_number() over (partition by digest order by hash) as n from findings) as numbered
    where f.digest = numbered.digest and f.hash = numbered.hash;
alter table findings drop constraint findings_pkey, drop column hash, add primary key (digest, position), alter column position drop default;
drop index scans_database;
alter table scans drop column licenses, drop column vulnerabilities, drop column contents;
alter table layer_analyses drop column made_at;
