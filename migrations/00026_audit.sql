-- +goose Up
-- What auditors look for, newest first: what somebody did, what was done to a repository, and all of one kind. The order is that
-- of time, since an entry's time is set before its index is.
create index ledger_entries_actor on ledger_entries (actor, at);
create index ledger_entries_kind on ledger_entries (kind, at);
create index ledger_entries_repository_at on ledger_entries (repository, at) where repository is not null;

-- +goose Down
drop index ledger_entries_repository_at;
drop index ledger_entries_kind;
drop index ledger_entries_actor;
