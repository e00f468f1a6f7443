package artifact

import "time"

// DeniedPush is a manifest that policy denied: it is not stored, nobody can pull it, and this is what is known of it still.
type DeniedPush struct {
	Verdict     VerdictRecord
	Reference   string // what the pusher called it: a tag or a digest
	Actor       string
	At          time.Time // of the last push of it
	LedgerIndex int64     // of the entry about that

	// Manifest has a Body, and what that says, where it was kept; Config is an image's config then.
	Manifest StoredManifest
	Config   []byte
}

// Kept reports whether the manifest was: a denial from before it was, an outsized one and one of long ago have their verdict
// alone.
func (d DeniedPush) Kept() bool { return len(d.Manifest.Body) > 0 }

// NotStored is what to say of a tag that only a denied push had.
func NotStored(r Repository, tag Tag, d Digest) error {
	return Coded(NotFound, "MANIFEST_UNKNOWN", "%s has no tag %s: the push of it was denied, so that nothing is stored; %s@%s says why", r, tag, r, d)
}

// Recall is a digest that was withdrawn, with by whom and why.
type Recall struct {
	Actor    string
	Reason   string
	At       time.Time
	Advisory string // where to read more
}
