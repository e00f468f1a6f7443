-- +goose Up

-- Referrers are listed page by page, in the order of their digests, whatever the database's own order is.
create index manifests_referrers on manifests (repository, subject, digest collate "C") where subject is not null;
drop index manifests_subject;

-- +goose Down
create index manifests_subject on manifests (repository, subject) where subject is not null;
drop index manifests_referrers;
