package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// OpenSigner returns the signer whose key a file holds, and makes that file, with mode 0600, where there is none. Of
// two callers at once one makes it and both get its key. A crash leaves the whole file or none.
func OpenSigner(path string) (*Signer, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := writeKey(path); err != nil {
			return nil, fmt.Errorf("make ledger key: %w", err)
		}
		key, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read ledger key: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read ledger key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("ledger key %s can be read by others (mode %04o); chmod 0600 it, and take it for known if they are not trusted", path, info.Mode().Perm())
	}
	return NewSigner(strings.TrimSpace(string(key)))
}

func writeKey(path string) error {
	private, _, err := GenerateKey()
	if err != nil {
		return err
	}
	// A link, unlike a rename, never replaces the key that another process has just made.
	f, err := os.CreateTemp(filepath.Dir(path), ".ledger-key-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(private + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
