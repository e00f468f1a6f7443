package postgres

import "waybill/artifact"

// Forget drops what is remembered of a repository, for benchmarks of what is asked for the first time.
func (db *DB) Forget(repository artifact.Repository) { db.hot.forget(repository) }
