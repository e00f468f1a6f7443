package web

import (
	"encoding/json"

	"waybill/artifact"
)

// placeCookie is no cookie's name: it keeps places from being taken for what is sealed besides.
const placeCookie = "waybill_place"

// place names where a page of a list ended, for the link to the next: sealed, since that may be a row which the reader may not know of.
func (w *Web) place(list string, row any) string {
	plain, _ := json.Marshal(row) // of texts, numbers and times
	return w.places.seal(list+" "+string(plain), w.cfg.Now().Add(sessionLife))
}

// open reads what place made for the same list; of no text nothing is read, and the first page begins there.
func (w *Web) open(list, text string, row any) error {
	if text == "" {
		return nil
	}
	plain, ok := w.places.open(text, w.cfg.Now())
	if !ok || len(plain) <= len(list) || plain[:len(list)+1] != list+" " || json.Unmarshal([]byte(plain[len(list)+1:]), row) != nil {
		return artifact.Errorf(artifact.Invalid, "That is no place in this list, or an old one; begin with its first page.")
	}
	return nil
}
