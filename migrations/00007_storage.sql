-- +goose Up

-- A third kind of document says what repositories may hold, and for how long.
alter table documents drop constraint documents_kind_check;
alter table documents add constraint documents_kind_check check (kind in ('Policy', 'Pipeline', 'Repositories'));

-- When a manifest was last pulled, to the minute or so: pulls are noted in memory and written together, and what a kill
-- loses is the last seconds of them.
create table pulls (
    repository     text not null,
    digest         text not null,
    last_pulled_at timestamptz not null,
    primary key (repository, digest),
    foreign key (repository, digest) references manifests (repository, digest) on delete cascade
) with (fillfactor = 70);

-- +goose Down
drop table pulls;
-- Documents are append-only: while there are some of the new kind, the old constraint is for new rows only.
alter table documents drop constraint documents_kind_check;
alter table documents add constraint documents_kind_check check (kind in ('Policy', 'Pipeline')) not valid;
