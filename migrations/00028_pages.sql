-- +goose Up

-- The images of an index are found without its configs and layers, of which there are many more.
create index manifest_references_children on manifest_references (repository, manifest) where kind = 'manifest';

-- The board of an instant, and what came just before and after it.
create index promotions_at on promotions (at, id);

-- What pushes of a repository were denied lately.
create index verdicts_denied on verdicts (repository, decided_at desc) where outcome = 'deny';

-- What a push that was denied brought, so that whoever may look can see what it was denied for. It is no manifest of the
-- repository: nothing here can be pulled, tagged, signed or promoted, and it keeps no blob.
create table denied_manifests (
    repository text not null,
    digest     text not null,
    media_type text not null,
    is_image   boolean not null,
    platform   text not null default '',
    body       bytea not null,
    config     bytea,                  -- of an image
    at         timestamptz not null default now(), -- of the last push of it
    primary key (repository, digest)
);
create index denied_manifests_at on denied_manifests (repository, at desc, digest);

-- +goose Down
drop table denied_manifests;
drop index verdicts_denied;
drop index promotions_at;
drop index manifest_references_children;
