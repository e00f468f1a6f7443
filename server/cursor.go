package server

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"waybill/artifact"
)

// cursors seals where pages of lists end. That may be a row which the reader may not know of: it says nothing to them, and
// every replica that has the key reads it.
type cursors struct{ cipher.AEAD }

// newCursors returns those of a key that is used for nothing but what is derived from it; without one, of this process.
func newCursors(key []byte) cursors {
	if len(key) == 0 {
		key = []byte(rand.Text())
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("waybill cursors of lists"))
	block, _ := aes.NewCipher(mac.Sum(nil)) // 32 bytes are a key
	sealer, _ := cipher.NewGCMWithRandomNonce(block)
	return cursors{sealer}
}

// seal returns what to ask for the next page of a list with; place is as JSON encodes it.
func (c cursors) seal(list string, place any) string {
	plain, _ := json.Marshal(place) // of strings, numbers and times
	return base64.RawURLEncoding.EncodeToString(c.Seal(nil, nil, plain, []byte(list)))
}

// open reads what seal made for the same list; of no text nothing is read, and the first page begins there.
func (c cursors) open(list, text string, place any) error {
	if text == "" {
		return nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		sealed, err = c.Open(nil, nil, sealed, []byte(list))
	}
	if err == nil {
		err = json.Unmarshal(sealed, place)
	}
	if err != nil {
		return artifact.Errorf(artifact.Invalid, "%.50q is no place in this list; ask with what the page before it said, or for the first page", text)
	}
	return nil
}
