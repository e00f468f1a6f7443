-- +goose Up

-- The public halves of the keys that ever signed here, by the order in which they came in force: the last one signs.
-- Both tables only grow, so that nobody makes a forged signature count by a row that was changed.
create table signing_keys (
    number       bigint generated always as identity primary key,
    id           text not null unique check (id ~ '^[0-9a-f]{64}$'), -- SHA-256 of the public key's DER
    algorithm    text not null,
    public_key   text not null,     -- PKIX in PEM
    reference    text not null,     -- where the private half is; never the key itself
    since        timestamptz not null,
    actor        text not null,
    reason       text not null default '',
    ledger_index bigint not null
);

create table signing_key_revocations (
    key            text primary key references signing_keys (id),
    at             timestamptz not null,
    actor          text not null,
    reason         text not null check (reason <> ''),
    trusted_before timestamptz,     -- signatures of which the ledger proves that they are older count still
    ledger_index   bigint not null
);

create trigger append_only before update or delete or truncate on signing_keys for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on signing_key_revocations for each statement execute function refuse_change();

-- Every replica signs with the same key, and forgets one that is revoked, at once (00002_changed.sql).
create trigger tell_insert after insert on signing_keys for each statement execute function tell_documents();
create trigger tell_insert after insert on signing_key_revocations for each statement execute function tell_documents();

-- What a revoked key signed is found, to be signed again.
create index signatures_key on signatures (key_id, repository, digest, predicate);

-- +goose Down
drop index signatures_key;
drop table signing_key_revocations, signing_keys;
