package ledger

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"waybill/artifact"
)

// A witness is somebody else who cosigns checkpoints, each only if it extends the one that he cosigned before. Who asks for his
// cosignature sees what everybody sees: a log that shows another tree to another has to keep it from every witness.

// Bounds of C2SP tlog-witness.
const (
	MaxAddCheckpoint = 64 << 10 // bytes of a request
	maxProof         = 63       // hashes: RFC 6962, of 2^63 entries
	maxCosignatures  = 100      // lines of an answer, and of what is stored of a checkpoint
)

// AddCheckpoint is a request of C2SP tlog-witness: a checkpoint, and the proof that it extends the tree of Old entries.
type AddCheckpoint struct {
	Old        int64
	Proof      []Hash
	Checkpoint string // the signed note
}

// Encode returns the request's body.
func (r AddCheckpoint) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", r.Old)
	for _, h := range r.Proof {
		fmt.Fprintln(&b, base64.StdEncoding.EncodeToString(h[:]))
	}
	fmt.Fprintf(&b, "\n%s", r.Checkpoint)
	return b.Bytes()
}

// ParseAddCheckpoint is the inverse of Encode.
func ParseAddCheckpoint(body []byte) (r AddCheckpoint, err error) {
	malformed := func(format string, args ...any) (AddCheckpoint, error) {
		return AddCheckpoint{}, artifact.Errorf(artifact.Invalid, "not a request to add a checkpoint (C2SP tlog-witness): "+format, args...)
	}
	if len(body) > MaxAddCheckpoint {
		return malformed("it has more than %d bytes", MaxAddCheckpoint)
	}
	head, checkpoint, ok := strings.Cut(string(body), "\n\n")
	if !ok {
		return malformed("it has no empty line")
	}
	lines := strings.Split(head, "\n")
	if r.Old, ok = parseSize(strings.TrimPrefix(lines[0], "old ")); !ok || !strings.HasPrefix(lines[0], "old ") {
		return malformed("its first line is %.80q; want old SIZE", lines[0])
	}
	if len(lines)-1 > maxProof {
		return malformed("its proof has %d hashes; at most %d are needed", len(lines)-1, maxProof)
	}
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(h) != tlog.HashSize {
			return malformed("%.80q is no hash", line)
		}
		r.Proof = append(r.Proof, Hash(h))
	}
	r.Checkpoint = checkpoint
	return r, nil
}

// parseSize reads a size as C2SP writes it: decimal, without leading zeros.
func parseSize(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == text
}

// Conflict is a witness's answer to who has not heard what he cosigned last, or shows him another tree of that size.
type Conflict struct{ Size int64 }

func (c *Conflict) Error() string {
	return fmt.Sprintf("the checkpoint that was cosigned last is of %d entries", c.Size)
}

// ErrFork is a witness's answer to a tree that does not extend the one that he cosigned.
var ErrFork = errors.New("the tree is not proven to extend the one that was cosigned last")

// Cosigner is the key of a witness.
type Cosigner struct {
	signer *fnote.Signer
	public string
}

// GenerateCosigner returns a new key of a witness: the secret half, and the public one, in the forms of signed-note keys.
func GenerateCosigner(name string) (private string, err error) {
	private, _, err = note.GenerateKey(rand.Reader, name)
	return private, err
}

// NewCosigner parses a key that GenerateCosigner made.
func NewCosigner(private string) (*Cosigner, error) {
	signer, err := fnote.NewSignerForCosignatureV1(private)
	if err != nil {
		return nil, errors.New("witness key: not a signer key of the signed-note format")
	}
	plain, err := verifierOf(private)
	if err != nil {
		return nil, err
	}
	public, err := fnote.VKeyToCosignatureV1(plain)
	return &Cosigner{signer, public}, err
}

// PublicKey returns the verifier key, one line of text (C2SP tlog-cosignature, "Verifier keys").
func (c *Cosigner) PublicKey() string { return c.public }

// Cosign checks that a request's checkpoint is signed by a log's key and extends last, which was cosigned before, the zero
// Checkpoint where none was; it returns the line of the signature and what is last now. The caller makes that durable before
// anybody sees the signature, and asks about one log once at a time. Errors are Denied for a signature that is not the log's,
// Invalid, ErrFork and *Conflict.
func (c *Cosigner) Cosign(r AddCheckpoint, log string, last Checkpoint) (line string, now Checkpoint, err error) {
	now, err = OpenCheckpoint(r.Checkpoint, log)
	switch {
	case err != nil:
		return "", last, artifact.Errorf(artifact.Denied, "%w", err)
	case r.Old > now.Size:
		return "", last, artifact.Errorf(artifact.Invalid, "old %d is more than the %d entries of the checkpoint", r.Old, now.Size)
	case r.Old != last.Size:
		return "", last, &Conflict{last.Size}
	case last.Size == now.Size && last.Size > 0 && last.Root != now.Root:
		return "", last, &Conflict{last.Size}
	case (last.Size == 0 || last.Size == now.Size) && len(r.Proof) > 0:
		return "", last, artifact.Errorf(artifact.Invalid, "there is nothing to prove from %d entries to %d, and a proof", last.Size, now.Size)
	}
	if last.Size > 0 && last.Size < now.Size {
		if err := CheckConsistency(now, last, r.Proof); err != nil {
			return "", last, ErrFork
		}
	}
	text, _, _ := strings.Cut(r.Checkpoint, "\n\n")
	signed, err := note.Sign(&note.Note{Text: text + "\n"}, c.signer)
	if err != nil {
		return "", last, err
	}
	_, line, _ = strings.Cut(string(signed), "\n\n")
	return line, now, nil
}

// Cosignature is that of one witness.
type Cosignature struct {
	Witness string // its name
	At      time.Time
}

// WitnessName returns the name in a witness's public key, or what is wrong with it.
func WitnessName(public string) (string, error) {
	v, err := fnote.NewVerifierForCosignatureV1(public)
	if err != nil {
		return "", errors.New("it is no witness's public key; `waybill witness` prints one when it starts")
	}
	return v.Name(), nil
}

// CosignedBy returns the witness's cosignature of a signed note, if it has one that holds, with its line.
func CosignedBy(signed, public string) (c Cosignature, line string, ok bool) {
	verifier, err := fnote.NewVerifierForCosignatureV1(public)
	if err != nil {
		return c, "", false
	}
	opened, err := note.Open([]byte(signed), note.VerifierList(verifier))
	if err != nil || len(opened.Sigs) == 0 {
		return c, "", false
	}
	sig := opened.Sigs[0]
	at, err := fnote.CoSigV1Timestamp(sig)
	if err != nil {
		return c, "", false
	}
	return Cosignature{Witness: verifier.Name(), At: at.UTC()}, fmt.Sprintf("— %s %s\n", sig.Name, sig.Base64), true
}

// WithCosignatures adds lines that witnesses answered to a signed note. What is no signature line, or is there, is left out.
func WithCosignatures(signed, lines string) string {
	there := strings.SplitAfter(signed, "\n")
	for i, line := range strings.SplitAfter(lines, "\n") {
		if i < maxCosignatures && strings.HasPrefix(line, "— ") && strings.HasSuffix(line, "\n") && !slices.Contains(there, line) {
			signed += line
			there = append(there, line)
		}
	}
	return signed
}
