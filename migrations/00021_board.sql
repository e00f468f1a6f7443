-- +goose Up

-- Pages that stay open are told that something changed (postgres/changes.go), and then ask again, as their reader. Every
-- decision is in the ledger; signatures and scans come later, and by themselves.

-- +goose StatementBegin
create function tell_board() returns trigger language plpgsql as $$
begin
    perform pg_notify('board', '');
    return null;
end $$;
-- +goose StatementEnd

create trigger tell_board after insert on ledger_entries for each statement execute function tell_board();
create trigger tell_board after insert or update on signatures for each statement execute function tell_board();
create trigger tell_board after insert or update on scans for each statement execute function tell_board();

-- The environments that anything was ever promoted to are found without reading all promotions.
create index promotions_of on promotions (environment, repository);

-- +goose Down
drop index promotions_of;
drop trigger tell_board on ledger_entries;
drop trigger tell_board on signatures;
drop trigger tell_board on scans;
drop function tell_board();
