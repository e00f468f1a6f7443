package ledger

import "bytes"

// Recorded is a record that one entry made, such as an approval, with the entry that it would make as it stands.
type Recorded struct {
	Index   int64 // of the entry that it names; -1: it names none, and does not know the entry's time
	Entry   Entry
	Revoked bool
}

// recordedAudit compares records of one kind, by the subjects of their entries, with the entries that made and revoked them.
type recordedAudit struct {
	what    string
	all     []Recorded
	by      map[string]Recorded
	made    map[string]bool
	ended   map[string]bool
	passing bool // records go, sooner or later
	problem func(format string, args ...any)
}

func newRecordedAudit(what string, all []Recorded, problem func(string, ...any)) *recordedAudit {
	a := &recordedAudit{what: what, all: all, by: map[string]Recorded{}, made: map[string]bool{}, ended: map[string]bool{}, problem: problem}
	for _, r := range all {
		a.by[r.Entry.Subject] = r
	}
	return a
}

// entryMade takes the entry that made a record.
func (a *recordedAudit) entryMade(index int64, e Entry) {
	r, ok := a.by[e.Subject]
	want := r.Entry
	if r.Index < 0 {
		want.At = e.At
	}
	if len(e.Evidence) == 0 { // entries of older ledgers have no hash
		want.Evidence = nil
	}
	switch {
	case ok && (r.Index >= 0 && r.Index != index || !same(want, e)):
		a.problem("%s %s is not what entry %d recorded", a.what, e.Subject, index)
	case !ok && !a.passing:
		a.problem("entry %d: %s %s was made, but is not there", index, a.what, e.Subject)
	}
	a.made[e.Subject] = true
}

// entryRevoked takes the entry that revoked a record.
func (a *recordedAudit) entryRevoked(index int64, e Entry) {
	if r, ok := a.by[e.Subject]; ok && !r.Revoked {
		a.problem("entry %d: %s %s was revoked, and its record does not say so", index, a.what, e.Subject)
	}
	a.ended[e.Subject] = true
}

func (a *recordedAudit) end() {
	for _, r := range a.all {
		switch {
		case !a.made[r.Entry.Subject]:
			a.problem("%s %s is there, and no entry records that it was made", a.what, r.Entry.Subject)
		case r.Revoked && !a.ended[r.Entry.Subject]:
			a.problem("%s %s is revoked, and no entry records that", a.what, r.Entry.Subject)
		}
	}
}

func same(x, y Entry) bool {
	a, err1 := x.Leaf()
	b, err2 := y.Leaf()
	return err1 == nil && err2 == nil && bytes.Equal(a, b)
}
