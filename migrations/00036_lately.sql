-- +goose Up

-- What was pushed lately to one repository, allowed or denied, for who may look at few. By the outcome first, which a look-up of one
-- digest does not ask for: the index is not taken for the primary key (00033_reference.sql).
create index verdicts_lately on verdicts (outcome, repository, decided_at);
drop index verdicts_denied;

-- +goose Down
create index verdicts_denied on verdicts (repository, decided_at desc) where outcome = 'deny';
drop index verdicts_lately;
