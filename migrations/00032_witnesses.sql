-- +goose Up

-- Lines that witnesses signed checkpoints with (C2SP tlog-cosignature), each checked against the witness's key when it came.
create table ledger_cosignatures (
    size    bigint not null references ledger_checkpoints (size),
    witness text not null,         -- the name in its key
    line    text not null,
    at      timestamptz not null default now(),
    primary key (size, witness)
);
create index ledger_cosignatures_witness on ledger_cosignatures (witness, size);
create trigger append_only before update or delete or truncate on ledger_cosignatures for each statement execute function refuse_change();

-- A recall is for ever.
create trigger append_only before update or delete or truncate on recalls for each statement execute function refuse_change();

-- +goose Down
drop trigger append_only on recalls;
drop table ledger_cosignatures;
