-- +goose Up

-- What a test of every statement's plan (postgres/plan_test.go) found to read whole tables that grow.
create index uploads_updated on uploads (updated_at);
create index verdicts_decided on verdicts (outcome, decided_at);
create index verdicts_reference on verdicts (repository, reference);

-- +goose Down
drop index verdicts_reference;
drop index verdicts_decided;
drop index uploads_updated;
