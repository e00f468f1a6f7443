-- +goose Up

-- Who is vouched for may have several roles, each with where it counts: the first stands in the columns, the others here.
alter table tokens add column more jsonb not null default '[]';

-- +goose Down
alter table tokens drop column more;
