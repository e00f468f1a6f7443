package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"waybill/ledger"
	"waybill/server"
)

// auditReport is what an audit found, with who else has seen that ledger.
type auditReport struct {
	server.LedgerReport
	Cosigned []cosignedCheckpoint `json:"cosigned,omitempty"`
}

// cosignedCheckpoint is the newest that a witness cosigned.
type cosignedCheckpoint struct {
	Witness string    `json:"witness"`
	Size    int64     `json:"size"`
	At      time.Time `json:"at"`
}

func (r auditReport) printWitnesses(w io.Writer) {
	for _, c := range r.Cosigned {
		fmt.Fprintf(w, "cosigned by %s at %s: the first %d entries\n", printable(c.Witness), stamp(c.At), c.Size)
	}
}

// witnessKeys are those that were given.
func (o auditOptions) witnessKeys() (keys []string, err error) {
	for _, file := range o.witnesses {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, usageError{err}
		}
		key := strings.TrimSpace(string(b))
		key = strings.TrimSpace(strings.TrimPrefix(key, "key ")) // as `waybill witness` says it
		if _, err := ledger.WitnessName(key); err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", file, err)}
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// cosigned looks, for each witness, for a checkpoint of the log that he cosigned: among notes that are there, and then at what
// the log publishes for it. Those are returned that the ledger has to extend too; what lacks is a problem.
func (o auditOptions) cosigned(ctx context.Context, key string, fetch ledger.Fetch, there ...string) (found []cosignedCheckpoint, notes []string, problems []string, err error) {
	keys, err := o.witnessKeys()
	if err != nil || len(keys) == 0 {
		return nil, nil, nil, err
	}
	published, fetchErr := fetch(ctx, "witnessed")
	if fetchErr == nil {
		there = append(there, string(published))
	}
	for _, witness := range keys {
		name, _ := ledger.WitnessName(witness)
		best := cosignedCheckpoint{Size: -1}
		var note string
		for _, signed := range there {
			c, err := ledger.OpenCheckpoint(signed, key)
			if err != nil {
				continue // whoever holds the audit against it says so
			}
			if by, _, ok := ledger.CosignedBy(signed, witness); ok && c.Size > best.Size {
				best, note = cosignedCheckpoint{by.Witness, c.Size, by.At}, signed
			}
		}
		if best.Size < 0 {
			problem := fmt.Sprintf("no checkpoint here is cosigned by %s", name)
			if fetchErr != nil {
				problem += fmt.Sprintf(", and there are none to fetch: %v", fetchErr)
			}
			problems = append(problems, problem)
			continue
		}
		found, notes = append(found, best), append(notes, note)
	}
	return found, notes, problems, nil
}
