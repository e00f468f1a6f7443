-- +goose Up

-- A blob whose bytes were found damaged or gone: nobody is served it, and its next push makes it whole in every
-- repository that has it.
alter table blobs add column quarantined_at timestamptz;

-- When the blob was last given to the repository, or a pusher was told that it is here, or it lost a manifest that needed
-- it: the grace period of garbage collection counts from then.
comment on column repository_blobs.linked_at is 'start of the grace period';

-- Servers remember which blobs there are (00002_changed.sql).
-- +goose StatementBegin
create function tell_quarantined() returns trigger language plpgsql as $$
begin
    perform pg_notify('changed', repository) from repository_blobs where digest = new.digest;
    return null;
end $$;
-- +goose StatementEnd
create trigger tell_quarantined after update on blobs for each row
    when (new.quarantined_at is distinct from old.quarantined_at) execute function tell_quarantined();

-- +goose Down
drop trigger tell_quarantined on blobs;
drop function tell_quarantined();
comment on column repository_blobs.linked_at is null;
alter table blobs drop column quarantined_at;
