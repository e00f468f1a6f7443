-- +goose Up

-- Somebody's word that a digest may go to an environment.
create table approvals (
    id           bigint generated always as identity primary key,
    repository   text not null,
    digest       text not null,
    environment  text not null,
    version      text not null default '',
    actor        text not null,
    role         text not null,
    reason       text not null default '',
    at           timestamptz not null,
    ledger_index bigint not null,
    revoked_by   text,
    revoked_at   timestamptz,
    check ((revoked_at is null) = (revoked_by is null))
);
-- Nobody counts twice.
create unique index approvals_live on approvals (repository, digest, environment, actor) where revoked_at is null;

-- +goose StatementBegin
create function approval_only_ends() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' or old.revoked_at is not null
        or (old.id, old.repository, old.digest, old.environment, old.version, old.actor, old.role, old.reason, old.at, old.ledger_index)
            is distinct from (new.id, new.repository, new.digest, new.environment, new.version, new.actor, new.role, new.reason, new.at, new.ledger_index) then
        raise exception 'an approval only ends' using errcode = 'restrict_violation';
    end if;
    return new;
end $$;
-- +goose StatementEnd
create trigger approval_only_ends before update or delete on approvals for each row execute function approval_only_ends();

-- The gates that were not met when an override promoted it nevertheless; the release that it was promoted with.
alter table promotions add column overridden text[] not null default '{}';
alter table promotions add column release text not null default '';
-- A retired environment lets go of what could be pulled from it.
alter table promotions drop constraint promotions_action_check;
alter table promotions add constraint promotions_action_check check (action in ('promote', 'rollback', 'recall', 'retire'));
-- Where people read more about why.
alter table promotions add column advisory text not null default '';
alter table recalls add column advisory text not null default '';

-- Services that are promoted together, each as one digest.
create table releases (
    name         text primary key,
    actor        text not null,
    reason       text not null default '',
    at           timestamptz not null,
    ledger_index bigint not null
);
create index releases_at on releases (at, name);
create table release_services (
    release    text not null references releases (name),
    repository text not null,
    digest     text not null,
    version    text not null default '',
    primary key (release, repository)
);
create trigger append_only before update or delete or truncate on releases for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on release_services for each statement execute function refuse_change();

-- What was told, or is to be, to whom; the job that tells it is River's.
create table webhook_deliveries (
    id         text primary key,          -- of the message: the same however often it is sent
    webhook    text not null,             -- its name in the configuration
    type       text not null,
    subject    text not null default '',
    body       text not null,             -- as it is signed
    state      text not null default 'waiting' check (state in ('waiting', 'delivered', 'failed', 'dropped')),
    attempts   int not null default 0,
    status     int not null default 0,    -- the last answer's
    problem    text not null default '',
    created_at timestamptz not null default now(),
    since      timestamptz not null default now(),
    check (state not in ('failed', 'dropped') or problem <> '')
);
create index webhook_deliveries_created on webhook_deliveries (created_at, id);

-- How far the ledger was read for deliveries. What was decided before there were any is not told.
create table webhook_cursor (
    one  boolean primary key default true check (one),
    next bigint not null
);
insert into webhook_cursor (next) select coalesce(max(index) + 1, 0) from ledger_entries;

-- +goose Down
drop table webhook_cursor;
drop table webhook_deliveries, release_services, releases, approvals;
drop function approval_only_ends();
alter table recalls drop column advisory;
alter table promotions drop column advisory, drop column release, drop column overridden;
alter table promotions drop constraint promotions_action_check;
alter table promotions add constraint promotions_action_check check (action in ('promote', 'rollback', 'recall')) not valid;
