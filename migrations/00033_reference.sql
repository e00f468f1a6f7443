-- +goose Up

-- By the reference first: while a repository is new to the planner's statistics, an index that begins with it is taken for
-- as good as the primary key for one digest, and has a push read all of the repository's verdicts.
create index verdicts_of_reference on verdicts (reference, repository);
drop index verdicts_reference;

-- +goose Down
create index verdicts_reference on verdicts (repository, reference);
drop index verdicts_of_reference;
