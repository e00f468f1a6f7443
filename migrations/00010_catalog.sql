-- +goose Up

-- The catalog is read page by page, in the order of bytes, whatever the database's own order is.
create index repositories_c on repositories (name collate "C");

-- +goose Down
drop index repositories_c;
