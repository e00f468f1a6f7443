-- +goose Up

-- Who follows a build, on whichever replica, is told that it said something or that its state is another; and who builds it,
-- that it is to end (postgres/build_changes.go).

-- +goose StatementBegin
create function tell_build_log() returns trigger language plpgsql as $$
begin
    perform pg_notify('builds', new.run);
    return null;
end $$;

create function tell_build_run() returns trigger language plpgsql as $$
begin
    perform pg_notify('builds', new.id);
    if new.cancelled_by <> old.cancelled_by then
        perform pg_notify('builds', new.id || '/cancelled');
    end if;
    return null;
end $$;
-- +goose StatementEnd

create trigger tell_build after insert on build_logs for each row execute function tell_build_log();
create trigger tell_build after update on build_runs for each row
    when (old.state <> new.state or old.cancelled_by <> new.cancelled_by) execute function tell_build_run();

-- +goose Down
drop trigger tell_build on build_logs;
drop trigger tell_build on build_runs;
drop function tell_build_log();
drop function tell_build_run();
