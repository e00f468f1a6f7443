package postgres

import "waybill/artifact"

// OnWithdrawn has f told of each repository from which less may be pulled by now, or anything else changed; the zero one says that
// it may be any. f returns at once; what it returns does when nothing of that is served any more. f is told of what this process withdraws
// before that is answered, and of what others do when that is heard.
func (db *DB) OnWithdrawn(f func(artifact.Repository) (cut func())) { db.told.Store(&f) }

// withdrawn forgets what is remembered of a repository, or of all, and then tells. Nothing that is asked from here on is answered from
// before.
func (db *DB) withdrawn(repository artifact.Repository) {
	if repository.IsZero() {
		db.hot.forgetAll()
	} else {
		db.hot.forget(repository)
	}
	db.tell(repository)()
}

// heard is withdrawn of what was heard: the line is not held up.
func (db *DB) heard(repository artifact.Repository) {
	db.hot.forget(repository)
	if !repository.IsZero() {
		go db.tell(repository)()
	}
}

func (db *DB) tell(repository artifact.Repository) (cut func()) {
	if f := db.told.Load(); f != nil {
		return (*f)(repository)
	}
	return func() {}
}
