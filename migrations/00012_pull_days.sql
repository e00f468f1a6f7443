-- +goose Up

-- Who pulled what, and when: a row per token, digest and day (of UTC). It outlives the manifest that it is about, so that
-- what ran somewhere can be told after a retention rule removed it. Counts grow, so it is no append-only table; noted in
-- memory and written together as pulls are, a count may miss the last seconds before a kill.
create table pull_days (
    repository text not null,
    digest     text not null,
    day        date not null,
    principal  text not null,
    pulls      bigint not null check (pulls > 0),
    first_at   timestamptz not null,
    last_at    timestamptz not null,
    primary key (repository, digest, day, principal)
) with (fillfactor = 70);
create index pull_days_principal on pull_days (principal, day);
create index pull_days_day on pull_days (day, repository, digest, principal);

-- A period of the ledger, for an export. An entry's time is set before its index is, so the two do not order alike.
create index ledger_entries_at on ledger_entries (at);

-- +goose Down
drop index ledger_entries_at;
drop table pull_days;
