-- +goose Up

-- Whether an artifact may be pulled wherever its subject is promoted: what speaks for an image does, what is itself something to run or
-- install, such as a chart, does not.
alter table manifests add column follows boolean not null default true;

-- +goose Down
alter table manifests drop column follows;
