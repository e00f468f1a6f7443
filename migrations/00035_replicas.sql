-- +goose Up

-- Who serves what is here: whoever withdraws something answers when each of these serves it no more. A row is there before its replica
-- relies on anything that it read, and as long as it runs; that of one which was killed goes when it is missed.
create table replicas (
    id      text primary key,
    seen_at timestamptz not null default now()
);

-- +goose Down
drop table replicas;
