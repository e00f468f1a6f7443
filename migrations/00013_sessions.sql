-- +goose Up

-- A token that stands for somebody whom an OpenID provider vouched for names them: their own name, not the token's, is
-- in the ledger, and is who may not approve what they pushed.
alter table tokens add column principal text not null default '';

-- These end by themselves, and are removed a while after that.
create index tokens_sessions on tokens (expires_at) where principal <> '';

-- +goose Down
drop index tokens_sessions;
alter table tokens drop column principal;
