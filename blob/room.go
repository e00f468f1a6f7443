package blob

import (
	"fmt"
	"os"
	"syscall"
)

// leastRoom is what a disk must have free to count as one that takes anything, in bytes.
const leastRoom = 1 << 20

// readOnly is statfs(2)'s ST_RDONLY.
const readOnly = 1

// Writable returns why nothing can be stored at the moment; nil when something can.
func (f *File) Writable() error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(f.root, &fs); err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	free := fs.Bavail
	if os.Geteuid() == 0 {
		free = fs.Bfree // root may use what is kept back
	}
	switch {
	case fs.Flags&readOnly != 0:
		return storage(syscall.EROFS)
	case free*uint64(fs.Bsize) < leastRoom, fs.Files > 0 && fs.Ffree == 0:
		return storage(syscall.ENOSPC)
	}
	return nil
}
