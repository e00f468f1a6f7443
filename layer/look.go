package layer

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"

	"waybill/artifact"
)

// Bounds of what is looked at closely, in bytes.
const (
	maxKept   = 1 << 20   // of a file whose content facts keep
	maxScript = 256 << 10 // of a script
	chunk     = 64 << 10
	overlap   = 128 // longer than any pattern: one may straddle two chunks
)

// looker recognises files by their bytes; it is for one goroutine.
type looker struct {
	buffer []byte
}

func newLooker() *looker { return &looker{make([]byte, overlap+chunk)} }

// seen is what a look came to.
type seen struct {
	marks []artifact.Mark
	keep  []byte
}

// look reads a regular file to its end.
func (l *looker) look(r io.Reader, size int64, executable bool) (seen, error) {
	head := l.buffer[overlap:]
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return seen{}, err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return l.program(r, n)
	case size <= maxKept && passwdLike(head), size <= maxScript && (executable || bytes.HasPrefix(head, []byte("#!"))) && !bytes.ContainsRune(head, 0):
		text := bytes.Clone(head)
		rest, err := io.ReadAll(r) // the archive bounds it by size
		if err != nil {
			return seen{}, err
		}
		text = append(text, rest...)
		var s seen
		if passwdLike(head) {
			s.keep = text
		}
		if runsDaemon(text) {
			s.marks = append(s.marks, artifact.MarkRunsSSHD)
		}
		return s, nil
	}
	_, err = io.Copy(io.Discard, r)
	return seen{}, err
}

// Daemons are known by what they say. The words are written with underscores, so that this program's own bytes are
// not taken for a daemon's.
var daemons = []struct {
	mark artifact.Mark
	all  [][]byte
}{
	{artifact.MarkSSHD, words("sshd:_no_hostkeys_available", "AuthorizedKeysFile", "OpenSSH_")},
	{artifact.MarkSSHD, words("sshd-session_should_not_be_called_directly", "OpenSSH_")},
	{artifact.MarkDropbear, words("Dropbear_server_v")},
}

func words(texts ...string) [][]byte {
	var all [][]byte
	for _, text := range texts {
		if text != "OpenSSH_" {
			text = strings.ReplaceAll(text, "_", " ")
		}
		all = append(all, []byte(text))
	}
	return all
}

// program looks through an ELF file of which n bytes stand in the buffer already.
func (l *looker) program(r io.Reader, n int) (seen, error) {
	found := map[string]bool{}
	note := func(window []byte) {
		for _, d := range daemons {
			for _, word := range d.all {
				if !found[string(word)] && bytes.Contains(window, word) {
					found[string(word)] = true
				}
			}
		}
	}
	start := overlap
	for {
		note(l.buffer[start : overlap+n])
		// The end of this chunk stays before the next.
		copy(l.buffer, l.buffer[n:n+overlap])
		start = 0
		var err error
		n, err = io.ReadFull(r, l.buffer[overlap:])
		if n == 0 && errors.Is(err, io.EOF) {
			break
		} else if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return seen{}, err
		}
	}
	var s seen
	for _, d := range daemons {
		all := true
		for _, word := range d.all {
			all = all && found[string(word)]
		}
		if all && (len(s.marks) == 0 || s.marks[len(s.marks)-1] != d.mark) {
			s.marks = append(s.marks, d.mark)
		}
	}
	return s, nil
}

var passwdLine = regexp.MustCompile(`^[^:\s]+:[^:\n]*:[+-]?[0-9]+:`)

// passwdLike: a file of the form of passwd(5) or group(5), wherever it lies, since a link may lead to it.
func passwdLike(head []byte) bool { return passwdLine.Match(head) }

var daemonCommand = regexp.MustCompile("(?m)(^|[\\s;&|(/\"'`])(sshd|dropbear|dropbearmulti|tinysshd)($|[\\s;&|)\"'`])|service\\s+sshd?\\s+(re)?start|init\\.d/sshd?\\s+(re)?start|rc-service\\s+sshd")

// runsDaemon: a script that names an ssh daemon as a word of a command; what a comment says does not count.
func runsDaemon(script []byte) bool {
	for line := range bytes.Lines(script) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && daemonCommand.Match(line) {
			return true
		}
	}
	return false
}
