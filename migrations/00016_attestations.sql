-- +goose Up

-- Statements that the service signed about a digest, or is about to: of each predicate type one, or one for each name.
-- Cosign's signature stays in signatures.
create table attestations (
    repository  text not null,
    digest      text not null,
    predicate   text not null,
    name        text not null default '',  -- of a verification summary the environment
    key_id      text not null,
    policy_hash text not null,
    basis       text not null default '',  -- what the statement rests on; for another, it is made again
    intended_at timestamptz not null default now(),
    signed_at   timestamptz,
    manifest    text,                      -- of the artifact that refers to the digest and carries it
    envelope    text,                      -- the blob
    primary key (repository, digest, predicate, name),
    check ((signed_at is null) = (manifest is null) and (signed_at is null) = (envelope is null))
);
-- What a revoked key signed is found, to be signed again.
create index attestations_key on attestations (key_id, repository, digest, predicate);
-- What is to be looked at when scans change.
create index attestations_predicate on attestations (predicate, repository, digest);

-- Provenance was recorded beside signatures until now; rows there stay, for a release that still runs.
insert into attestations (repository, digest, predicate, key_id, policy_hash, intended_at)
    select repository, digest, predicate, key_id, policy_hash, intended_at from signatures where predicate <> '' and signed_at is not null;

-- How a digest was built.
create index builds_digest on builds (repository, digest) where state = 'done';

-- +goose Down
drop index builds_digest;
drop table attestations;
