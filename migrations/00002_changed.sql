-- +goose Up

-- Servers remember what pulls ask for (postgres/hot.go) until the database says that it changed. Triggers say so: no
-- statement can forget to. The payload is the repository; '' means policies and pipelines. What is only added needs no
-- telling, since nobody remembers that something was not there.

-- +goose StatementBegin
create function tell_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('changed', repository) from (select distinct repository from changed) as repositories;
    return null;
end $$;
-- +goose StatementEnd
-- +goose StatementBegin
create function tell_documents() returns trigger language plpgsql as $$
begin
    perform pg_notify('changed', '');
    return null;
end $$;
-- +goose StatementEnd

create trigger tell_update after update on tags referencing old table as changed for each statement execute function tell_changed();
create trigger tell_delete after delete on tags referencing old table as changed for each statement execute function tell_changed();
create trigger tell_insert after insert on deployments referencing new table as changed for each statement execute function tell_changed();
create trigger tell_update after update on deployments referencing old table as changed for each statement execute function tell_changed();
create trigger tell_delete after delete on deployments referencing old table as changed for each statement execute function tell_changed();
create trigger tell_delete after delete on manifests referencing old table as changed for each statement execute function tell_changed();
create trigger tell_delete after delete on repository_blobs referencing old table as changed for each statement execute function tell_changed();
create trigger tell_delete after delete on grants referencing old table as changed for each statement execute function tell_changed();
create trigger tell_insert after insert on documents for each statement execute function tell_documents();

-- +goose Down
drop trigger tell_update on tags;
drop trigger tell_delete on tags;
drop trigger tell_insert on deployments;
drop trigger tell_update on deployments;
drop trigger tell_delete on deployments;
drop trigger tell_delete on manifests;
drop trigger tell_delete on repository_blobs;
drop trigger tell_delete on grants;
drop trigger tell_insert on documents;
drop function tell_changed();
drop function tell_documents();
