-- +goose Up

-- A waiver makes warnings of what one rule finds, for a while. The clock ends it; expired_at only says that this was
-- recorded.
create table waivers (
    id           bigint generated always as identity primary key,
    rule         text not null check (rule <> ''),
    finding      text not null default '',
    digest       text,
    repositories text[] not null default '{}',
    reason       text not null check (reason <> ''),
    created_by   text not null,
    created_at   timestamptz not null,
    expires_at   timestamptz not null,
    revoked_by   text,
    revoked_at   timestamptz,
    expired_at   timestamptz,
    ledger_index bigint not null,
    check (expires_at > created_at),
    check (digest is not null or cardinality(repositories) > 0),
    check ((revoked_at is null) = (revoked_by is null))
);
create index waivers_live on waivers (expires_at) where revoked_at is null;

-- What was decided stays as it was decided: a waiver only ends.
-- +goose StatementBegin
create function waiver_only_ends() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' or old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at
        or (old.id, old.rule, old.finding, old.digest, old.repositories, old.reason, old.created_by, old.created_at, old.expires_at, old.ledger_index)
            is distinct from (new.id, new.rule, new.finding, new.digest, new.repositories, new.reason, new.created_by, new.created_at, new.expires_at, new.ledger_index) then
        raise exception 'a waiver only ends' using errcode = 'restrict_violation';
    end if;
    return new;
end $$;
-- +goose StatementEnd
create trigger waiver_only_ends before update or delete on waivers for each row execute function waiver_only_ends();
-- Servers remember them beside the policies (00002_changed.sql).
create trigger tell_change after insert or update on waivers for each statement execute function tell_documents();

-- An allowing verdict that rests on waivers ends with the first of them.
alter table verdicts add column until timestamptz;
alter table verdicts add column waivers bigint[] not null default '{}';
create index verdicts_waivers on verdicts using gin (waivers) where waivers <> '{}';
create index verdicts_digest on verdicts (digest); -- who pushed it, wherever

-- What is promoted and denied by the policies of now; the row goes when it is allowed again.
create table turned_bad (
    repository   text not null,
    digest       text not null,
    response     text not null check (response in ('alert', 'block-promotion', 'recall')),
    reasons      jsonb not null,
    policy_hash  text not null,
    environments text[] not null,
    ledger_index bigint not null,
    since        timestamptz not null,
    primary key (repository, digest)
);

-- How far stored verdicts are behind. Whatever makes them out of date raises "wanted" in its transaction; a pass over all
-- manifests, in a circle that begins anew where "wanted" was raised, makes "done" equal to it.
create table rejudging (
    one              boolean primary key default true check (one),
    wanted           bigint not null default 0,
    done             bigint not null default 0,
    pass             bigint not null default 0,     -- what "wanted" was when the pass under way began
    start_repository text not null default '',      -- and after which manifest that was
    start_digest     text not null default '',
    repository       text not null default '',      -- the last one that was judged
    digest           text not null default '',
    wrapped          boolean not null default false,
    worker           bigint,                        -- the job that is at it
    lease            timestamptz                    -- and until when nobody else is
);
insert into rejudging default values;

-- +goose Down
drop table rejudging, turned_bad, waivers;
drop function waiver_only_ends();
drop index verdicts_digest;
alter table verdicts drop column until, drop column waivers; -- and the index of the latter
