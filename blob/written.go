package blob

import "sync"

// maxWritten bounds how many uploads are remembered; of one that was forgotten, the bytes are read again.
const maxWritten = 50_000

// written knows of which uploads this process wrote every byte so far. An upload's bytes are synced when it ends and its row may
// outlive them: after a power cut a file may have the length that the row says, and zeros in it, which the state of a hash that
// was computed before does not show. Whoever wrote all of it has not been through one.
type written struct {
	mu   sync.Mutex
	upTo map[string]int64
}

// moved says that bytes of an upload were written from an offset to another.
func (w *written) moved(id string, from, to int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if upTo, known := w.upTo[id]; from > 0 && (!known || upTo != from) {
		delete(w.upTo, id)
		return
	}
	if w.upTo == nil || len(w.upTo) >= maxWritten {
		w.upTo = map[string]int64{}
	}
	w.upTo[id] = to
}

// all reports whether this process wrote all of an upload.
func (w *written) all(id string, offset int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	upTo, known := w.upTo[id]
	return known && upTo == offset
}

func (w *written) forget(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.upTo, id)
}
