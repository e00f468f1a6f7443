package server

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"slices"
	"time"

	"waybill/artifact"
)

// ExportedFile is a file of an export, as its signed listing has it.
type ExportedFile struct {
	Path   string
	Size   int64
	SHA256 [32]byte
}

// Exports is what an export asks of the ledger.
type Exports interface {
	// EntriesAbout and EntriesWithin return indexes of entries in order, at most limit: those about a digest, and those
	// from a time on and before another.
	EntriesAbout(ctx context.Context, r artifact.Repository, d artifact.Digest, limit int) ([]int64, error)
	EntriesWithin(ctx context.Context, from, to time.Time, limit int) ([]int64, error)
	// Subject returns what an entry is about: zero values where it is about no digest in a repository.
	Subject(body []byte) (artifact.Repository, artifact.Digest, error)
	// SignListing returns the signed note of an export's files.
	SignListing(files []ExportedFile) (string, error)
}

// Bounds of an export.
const (
	maxExportEntries = 50_000
	maxExportDigests = 2_000
)

// ExportSummary is export.json: what the archive is of.
type ExportSummary struct {
	Version   string              `json:"version"` // of the program that made it
	Reference string              `json:"reference,omitempty"`
	From      time.Time           `json:"from,omitzero"`
	To        time.Time           `json:"to,omitzero"` // not included
	MadeAt    time.Time           `json:"madeAt"`
	MadeBy    string              `json:"madeBy"`
	TreeSize  int64               `json:"treeSize"` // of the checkpoint, which every proof is for
	Entries   int                 `json:"entries"`
	Digests   []ExportedReference `json:"digests"`
	Keys      PublicKeys          `json:"keys" doc:"As this server says; compare them with those you were given"`
}

// ExportedReference is a digest that the archive tells of, in Folder; Removed: its manifest is not there any more.
type ExportedReference struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
	Folder     string              `json:"folder"`
	Removed    bool                `json:"removed,omitempty"`
}

// export is one being made: all is chosen before the first byte is sent, so that a refusal still has its status.
type export struct {
	api        *API
	principal  artifact.Principal
	summary    ExportSummary
	checkpoint LedgerCheckpoint
	indexes    []int64
	references []artifact.Reference
	pulls      []artifact.PullDay
	promotions []artifact.Promotion

	archive *tar.Writer
	files   []ExportedFile
}

// prepare gathers what the archive is made of, for a reference or for a period.
func (e *export) prepare(ctx context.Context, ref artifact.Reference) (err error) {
	if e.checkpoint, err = e.api.cfg.Ledger.Checkpoint(ctx); err != nil {
		return err
	}
	e.summary.TreeSize = e.checkpoint.Size
	filter := artifact.PullFilter{Repository: ref.Repository, Digest: ref.Digest, To: e.api.cfg.Now().UTC(), Limit: maxExportEntries}
	if ref.Digest.IsZero() {
		filter.From, filter.To = e.summary.From, e.summary.To.Add(-time.Nanosecond)
		e.indexes, err = e.api.cfg.Exports.EntriesWithin(ctx, e.summary.From, e.summary.To, maxExportEntries+1)
	} else {
		e.references = []artifact.Reference{ref}
		e.indexes, err = e.api.cfg.Exports.EntriesAbout(ctx, ref.Repository, ref.Digest, maxExportEntries+1)
	}
	if err != nil {
		return err
	}
	e.indexes = slices.DeleteFunc(e.indexes, func(index int64) bool { return index >= e.checkpoint.Size })
	if len(e.indexes) > maxExportEntries {
		return artifact.Errorf(artifact.TooLarge, "there are more than the %d entries that one export takes; ask for a shorter period", maxExportEntries)
	}
	if e.pulls, err = e.api.cfg.Pulls.Pulls(ctx, filter); err != nil {
		return err
	}
	if len(e.pulls) == filter.Limit {
		return artifact.Errorf(artifact.TooLarge, "there are more than the %d rows of pulls that one export takes; ask for a shorter period", filter.Limit)
	}
	if ref.Digest.IsZero() {
		if err := e.mentioned(ctx); err != nil {
			return err
		}
	}
	return e.moved(ctx, ref)
}

// mentioned finds the digests that the period's entries are about.
func (e *export) mentioned(ctx context.Context) error {
	known := map[artifact.Reference]bool{}
	return e.bodies(ctx, func(entry LedgerEntry) error {
		r, d, err := e.api.cfg.Exports.Subject(entry.Body)
		if err != nil {
			return err
		}
		ref := artifact.Reference{Repository: r, Digest: d}
		if r.IsZero() || d.IsZero() || known[ref] {
			return nil
		}
		known[ref], e.references = true, append(e.references, ref)
		if len(e.references) > maxExportDigests {
			return artifact.Errorf(artifact.TooLarge, "the period is about more than the %d digests that one export takes; ask for a shorter one", maxExportDigests)
		}
		return nil
	})
}

// moved keeps the promotions of the digest or of the period.
func (e *export) moved(ctx context.Context, ref artifact.Reference) error {
	all, err := e.api.cfg.Records.History(ctx, ref.Repository)
	e.promotions = slices.DeleteFunc(slices.Clone(all), func(p artifact.Promotion) bool {
		if p.LedgerIndex >= e.checkpoint.Size {
			return true // younger than the checkpoint, and not proven
		}
		if !ref.Digest.IsZero() {
			return p.Digest != ref.Digest
		}
		return p.At.Before(e.summary.From) || !p.At.Before(e.summary.To)
	})
	return err
}

// bodies calls f with each entry; consecutive ones are read together.
func (e *export) bodies(ctx context.Context, f func(LedgerEntry) error) error {
	for rest := e.indexes; len(rest) > 0; {
		n := 1
		for n < len(rest) && n < maxPageSize && rest[n] == rest[0]+int64(n) {
			n++
		}
		entries, err := e.api.cfg.Ledger.Entries(ctx, rest[0], n)
		if err != nil {
			return err
		}
		if len(entries) != n || entries[n-1].Index != rest[n-1] {
			return artifact.Errorf(artifact.Conflict, "the ledger lacks an entry from %d on; run `waybill audit`", rest[0])
		}
		for _, entry := range entries {
			if err := f(entry); err != nil {
				return err
			}
		}
		rest = rest[n:]
	}
	return nil
}

// write sends the archive. Its last file is the listing of the others, signed by the ledger's key.
func (e *export) write(ctx context.Context, w io.Writer) error {
	zipped := gzip.NewWriter(w)
	e.archive = tar.NewWriter(zipped)
	if err := e.content(ctx); err != nil {
		return err
	}
	listing, err := e.api.cfg.Exports.SignListing(e.files)
	if err != nil {
		return err
	}
	if err := e.file("listing", []byte(listing)); err != nil {
		return err
	}
	if err := e.archive.Close(); err != nil {
		return err
	}
	return zipped.Close()
}

func (e *export) content(ctx context.Context) error {
	keys, err := e.api.publicKeys(ctx)
	if err != nil {
		return err
	}
	e.summary.Keys, e.summary.Entries, e.summary.Digests = keys, len(e.indexes), []ExportedReference{}
	if err := e.file("checkpoint", []byte(e.checkpoint.Note)); err != nil {
		return err
	}
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	if err := e.bodies(ctx, func(entry LedgerEntry) error {
		proof, err := e.api.cfg.Ledger.Proof(ctx, entry.Index, e.checkpoint.Size)
		if err != nil {
			return err
		}
		return encoder.Encode(InclusionProof{Index: entry.Index, Size: e.checkpoint.Size, Leaf: entry.Body, Proof: orEmpty(proof)})
	}); err != nil {
		return err
	}
	if err := e.file("entries.jsonl", lines.Bytes()); err != nil {
		return err
	}
	for _, ref := range e.references {
		if err := e.digest(ctx, ref); err != nil {
			return err
		}
	}
	documents, err := e.api.cfg.Documents.Current(ctx)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		v    any
	}{{"promotions.json", orEmpty(e.promotions)}, {"pulls.json", orEmpty(e.pulls)}, {"documents.json", orEmpty(documents)}, {"export.json", e.summary}} {
		if err := e.json(f.path, f.v); err != nil {
			return err
		}
	}
	return nil
}

// digest adds a folder: the manifest's bytes, its story with every finding, its signatures and its attestations.
func (e *export) digest(ctx context.Context, ref artifact.Reference) error {
	exported := ExportedReference{Repository: ref.Repository, Digest: ref.Digest, Folder: "digests/" + ref.Repository.String() + "/" + ref.Digest.Algorithm() + "-" + ref.Digest.Hex()}
	m, err := e.api.cfg.Content.Manifest(ctx, ref.Repository, ref.Digest)
	if artifact.KindOf(err) == artifact.NotFound {
		exported.Removed = true
		e.summary.Digests = append(e.summary.Digests, exported)
		return nil
	} else if err != nil {
		return err
	}
	e.summary.Digests = append(e.summary.Digests, exported)
	if err := e.file(exported.Folder+"/manifest", m.Body); err != nil {
		return err
	}
	story, err := e.api.story(ctx, e.principal, m)
	if err != nil {
		return err
	}
	if err := e.json(exported.Folder+"/story.json", story); err != nil {
		return err
	}
	signatures, err := e.api.signatures(ctx, ref.Repository, ref.Digest)
	if err != nil {
		return err
	}
	if err := e.json(exported.Folder+"/signatures.json", signatures); err != nil {
		return err
	}
	signed, err := e.api.proveSigned(ctx, ref.Repository, ref.Digest, e.checkpoint.Size)
	if err == nil && len(signed) > 0 {
		err = e.json(exported.Folder+"/signed.json", signed)
	}
	if err != nil {
		return err
	}
	return e.attestations(ctx, exported.Folder, ref.Repository, ref.Digest)
}

func (e *export) json(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return e.file(path, append(b, '\n'))
}

func (e *export) file(path string, b []byte) error {
	if err := e.archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Size: int64(len(b)), Mode: 0o644, ModTime: e.summary.MadeAt.Truncate(time.Second)}); err != nil {
		return err
	}
	e.files = append(e.files, ExportedFile{Path: path, Size: int64(len(b)), SHA256: sha256.Sum256(b)})
	_, err := e.archive.Write(b)
	return err
}
