-- +goose Up

-- Content ---------------------------------------------------------------------------------------------------

create table repositories (
    name       text primary key,
    created_at timestamptz not null default now()
);

-- A row here means that the bytes are on disk and fsynced: it is written after them, never before.
create table blobs (
    digest     text primary key check (digest ~ '^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$'),
    size       bigint not null check (size >= 0),
    created_at timestamptz not null default now()
);

-- Which repository may serve which blob: a blob that a repository was never given is unknown there, whoever else has it.
create table repository_blobs (
    repository text not null references repositories (name) on delete cascade,
    digest     text not null references blobs (digest),
    linked_at  timestamptz not null default now(),
    primary key (repository, digest)
);
create index repository_blobs_digest on repository_blobs (digest);

-- Upload state lives here so that any replica continues any upload.
create table uploads (
    id         uuid primary key,
    repository text not null references repositories (name) on delete cascade,
    offset_    bigint not null default 0 check (offset_ >= 0),
    hash_state bytea,
    created_by text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table manifests (
    repository    text not null references repositories (name) on delete cascade,
    digest        text not null,
    media_type    text not null,
    artifact_type text not null default '',
    is_image      boolean not null,
    is_index      boolean not null,
    config        text,            -- digest of the config blob
    subject       text,            -- digest that this one refers to; the subject may not be here yet
    platform      text not null default '',
    annotations   jsonb not null default '{}',
    body          bytea not null,
    pushed_by     text not null,
    pushed_at     timestamptz not null default now(),
    primary key (repository, digest)
);
create index manifests_subject on manifests (repository, subject) where subject is not null;
create index manifests_digest on manifests (digest);

-- What a manifest needs: its config, layers and children. Garbage collection and the closure of a promotion read it.
create table manifest_references (
    repository text not null,
    manifest   text not null,
    position   int not null,
    digest     text not null,
    kind       text not null check (kind in ('config', 'layer', 'manifest')),
    primary key (repository, manifest, position),
    foreign key (repository, manifest) references manifests (repository, digest) on delete cascade
);
create index manifest_references_digest on manifest_references (repository, digest);

create table tags (
    repository text not null,
    name       text not null,
    digest     text not null,
    updated_by text not null,
    updated_at timestamptz not null default now(),
    primary key (repository, name),
    foreign key (repository, digest) references manifests (repository, digest) on delete cascade
);
create index tags_digest on tags (repository, digest);

create table tag_history (
    id         bigint generated always as identity primary key,
    repository text not null,
    name       text not null,
    digest     text,               -- null: the tag was deleted
    actor      text not null,
    at         timestamptz not null default now()
);
create index tag_history_name on tag_history (repository, name, id);

-- Facts and scans --------------------------------------------------------------------------------------------

-- One row per layer blob, for ever; "failure" says why a layer cannot be inspected, which denies it everywhere.
create table layer_facts (
    digest      text primary key,
    format      int not null,
    diff_id     text,
    facts       bytea,             -- zstd of artifact.LayerFacts as JSON
    failure     text not null default '',
    inspected_at timestamptz not null default now(),
    check ((facts is null) = (failure <> ''))
);

-- The scanner's own analysis of a layer, by analyser version: matching reads these, never the layer again.
create table layer_analyses (
    digest     text not null,
    analyser   text not null,
    analysis   bytea not null,     -- as the scanner gave it, opaque here
    primary key (digest, analyser)
);

create table advisory_databases (
    id          bigint generated always as identity primary key,
    digest      text not null unique,
    schema      int not null,
    updated_at  timestamptz not null,
    imported_at timestamptz not null default now(),
    imported_by text not null
);

-- The newest scan of each image, whatever repositories it is in.
create table scans (
    digest          text primary key,
    state           text not null check (state in ('pending', 'scanned', 'failed')),
    reason          text not null default '',
    scanned_at      timestamptz,
    database_digest text,
    database_updated_at timestamptz,
    packages        bytea,         -- zstd of []artifact.Package as JSON
    counts          jsonb not null default '{}',
    -- "clean" can only be said by a scan that had a database
    check (state <> 'scanned' or (scanned_at is not null and database_digest is not null))
);

create table findings (
    digest    text not null references scans (digest) on delete cascade,
    position  int not null,
    id        text not null,
    class     text not null,
    severity  text not null check (severity in ('unknown', 'low', 'medium', 'high', 'critical')),
    finding   jsonb not null,
    primary key (digest, position)
);
create index findings_id on findings (id);

-- Policy ----------------------------------------------------------------------------------------------------

-- Policies and pipelines, every version ever applied; the highest one of a name is in force.
create table documents (
    kind       text not null check (kind in ('Policy', 'Pipeline')),
    name       text not null,
    version    int not null check (version > 0),
    hash       text not null,      -- of the canonical form
    body       text not null,      -- as it was applied
    applied_by text not null,
    applied_at timestamptz not null default now(),
    primary key (kind, name, version)
);

-- The newest verdict of each digest in each repository, and of pushes that were refused (which have no manifest).
create table verdicts (
    repository  text not null,
    digest      text not null,
    outcome     text not null check (outcome in ('allow', 'deny', 'pending')),
    reasons     jsonb not null,
    policy_hash text not null,
    policies    text[] not null,
    reference   text not null default '', -- what the pusher called it
    actor       text not null,
    decided_at  timestamptz not null default now(),
    primary key (repository, digest)
);

-- Signing: an intent is committed before the key is used, the outcome after the artifact is stored.
create table signatures (
    repository  text not null,
    digest      text not null,
    predicate   text not null,     -- '' for the cosign signature, else the attestation's predicate type
    key_id      text not null,
    policy_hash text not null,
    intended_at timestamptz not null default now(),
    signed_at   timestamptz,
    manifest    text,              -- of the artifact that carries it
    primary key (repository, digest, predicate),
    check ((signed_at is null) = (manifest is null))
);

-- Promotion -------------------------------------------------------------------------------------------------

create table promotions (
    id           bigint generated always as identity primary key,
    action       text not null check (action in ('promote', 'rollback', 'recall')),
    repository   text not null,
    environment  text not null,
    digest       text not null,
    version      text not null default '',
    previous     text,
    actor        text not null,
    reason       text not null default '',
    policy_hash  text,
    ledger_index bigint not null,
    at           timestamptz not null default now()
);
create index promotions_environment on promotions (repository, environment, id);
create index promotions_digest on promotions (repository, digest);

create table deployments (
    repository  text not null,
    environment text not null,
    digest      text not null,
    version     text not null default '',
    promotion   bigint not null references promotions (id),
    since       timestamptz not null default now(),
    primary key (repository, environment),
    foreign key (repository, digest) references manifests (repository, digest)
);

create table recalls (
    repository text not null,
    digest     text not null,
    actor      text not null,
    reason     text not null,
    at         timestamptz not null default now(),
    primary key (repository, digest)
);

-- The pull gate's one indexed read. "root" is the promoted digest whose closure a row belongs to, so that a recall
-- takes away what it gave and nothing that another promotion gives too.
create table grants (
    environment text not null,
    repository  text not null,
    digest      text not null,     -- a manifest or a blob
    root        text not null,
    primary key (environment, repository, digest, root)
);
create index grants_root on grants (repository, root);

-- Identity --------------------------------------------------------------------------------------------------

create table tokens (
    id           text primary key, -- public, the part of the token before the secret
    hash         bytea not null unique check (length(hash) = 32), -- SHA-256 of the token
    name         text not null,
    role         text not null,
    repositories text[] not null default '{}',
    environments text[] not null default '{}',
    created_by   text not null,
    created_at   timestamptz not null default now(),
    expires_at   timestamptz not null,
    revoked_at   timestamptz,
    last_used_at timestamptz
);

-- Builds ----------------------------------------------------------------------------------------------------

create table builds (
    key         text not null,     -- builder.Plan.Key: context, Dockerfile, arguments, bases, platform, engine
    repository  text not null,
    digest      text,
    state       text not null check (state in ('running', 'done', 'failed')),
    failure     text not null default '',
    started_by  text not null,
    started_at  timestamptz not null default now(),
    ended_at    timestamptz,
    provenance  jsonb,
    primary key (repository, key),
    check (state <> 'done' or digest is not null)
);

-- Ledger ----------------------------------------------------------------------------------------------------

create table ledger_entries (
    index       bigint primary key check (index >= 0),
    body        bytea not null,    -- the canonical JSON whose RFC 6962 leaf hash the tree holds
    kind        text not null,
    actor       text not null,
    repository  text,
    digest      text,
    environment text,
    at          timestamptz not null
);
create index ledger_entries_digest on ledger_entries (digest, index) where digest is not null;
create index ledger_entries_repository on ledger_entries (repository, index) where repository is not null;

-- Hashes at their golang.org/x/mod/sumdb/tlog.StoredHashIndex.
create table ledger_hashes (
    index bigint primary key check (index >= 0),
    hash  bytea not null check (length(hash) = 32)
);

create table ledger_checkpoints (
    size bigint primary key check (size >= 0),
    note text not null,            -- a signed C2SP checkpoint
    at   timestamptz not null default now()
);

-- What was decided is append-only: not even a bug in the service rewrites it. (An owner of the tables can drop the
-- trigger; the Merkle tree is what catches that.)
-- +goose StatementBegin
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $$;
-- +goose StatementEnd

create trigger append_only before update or delete or truncate on ledger_entries for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on ledger_hashes for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on ledger_checkpoints for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on promotions for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on documents for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on tag_history for each statement execute function refuse_change();

-- +goose Down
drop table ledger_checkpoints, ledger_hashes, ledger_entries, builds, tokens, grants, recalls, deployments, promotions,
    signatures, verdicts, documents, findings, scans, advisory_databases, layer_analyses, layer_facts, tag_history, tags,
    manifest_references, manifests, uploads, repository_blobs, blobs, repositories;
drop function refuse_change();
