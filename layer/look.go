package layer

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"

	"waybill/artifact"
)

// Bounds of what is looked at closely, in bytes.
const (
	maxKept   = 1 << 20   // of a file whose content facts keep
	maxAlike  = 16 << 20  // of all files together that are kept only for what they look like
	maxScript = 256 << 10 // of a script at a time
	chunk     = 64 << 10
	overlap   = 128 // longer than any pattern: one may straddle two chunks
)

// looker recognises files by their bytes; it is for one goroutine.
type looker struct {
	buffer []byte
	text   []byte // of a script that is longer than a chunk; nil until there is one
	alike  int64  // bytes kept of what only looks like passwd
}

func newLooker() *looker { return &looker{buffer: make([]byte, overlap+chunk)} }

// users are where the files lie that say who is who. What lies elsewhere and looks like them is kept too, since a link
// may lead there; past its bound it is not, and a user that cannot be looked up is a denial.
var users = map[string]bool{"etc/passwd": true, "etc/group": true, "usr/lib/passwd": true, "usr/lib/group": true}

// seen is what a look came to.
type seen struct {
	marks []artifact.Mark
	keep  []byte
}

// look reads a regular file to its end.
func (l *looker) look(r io.Reader, f artifact.File) (seen, error) {
	head := l.buffer[overlap:]
	n, err := fill(r, head)
	if err != nil && !errors.Is(err, io.EOF) {
		return seen{}, err
	}
	head = head[:n]
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		return l.program(r, n)
	}
	keep := l.keeps(f, head)
	script := isScript(head)
	switch {
	case !keep && !script:
		_, err = io.Copy(io.Discard, r)
		return seen{}, err
	case !keep && f.Size > int64(n):
		return l.script(r, head)
	}
	content := head
	if f.Size > int64(n) {
		rest, err := io.ReadAll(r) // the archive bounds it by its size, which is small
		if err != nil {
			return seen{}, err
		}
		content = slices.Concat(head, rest)
	}
	var s seen
	if keep {
		s.keep = bytes.Clone(content)
	}
	if script && runsDaemon(content) {
		s.marks = append(s.marks, artifact.MarkRunsSSHD)
	}
	return s, nil
}

// fill reads until b is full or the file ends, which is io.EOF however much was read: io.ReadFull does not tell a file that ends
// from an archive that is cut off within one.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var more int
		more, err = r.Read(b[n:])
		n += more
	}
	return n, err
}

// isScript: any text that a shell takes, executable or not, with or without #!. It looks for a zero byte in the first
// line only (bash, check_binary_file), and dash not even there.
func isScript(head []byte) bool {
	line, _, _ := bytes.Cut(head, []byte("\n"))
	return bytes.HasPrefix(head, []byte("#!")) || bytes.IndexByte(line, 0) < 0
}

// script looks through a text, of which head stands in the buffer already, to its end, many lines at a time.
func (l *looker) script(r io.Reader, head []byte) (s seen, err error) {
	if l.text == nil {
		l.text = make([]byte, maxScript)
	}
	have := copy(l.text, head)
	for {
		n, err := fill(r, l.text[have:])
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return seen{}, err
		}
		have += n
		lines, rest := l.text[:have], 0
		if end := bytes.LastIndexByte(lines, '\n'); !ended && end >= 0 {
			lines, rest = lines[:end+1], have-end-1
		} else if !ended {
			rest = overlap // of a line that goes on; what its beginning says of a comment is forgotten
		}
		if len(s.marks) == 0 && runsDaemon(lines) {
			s.marks = []artifact.Mark{artifact.MarkRunsSSHD}
		}
		if ended {
			return s, nil
		}
		have = copy(l.text, l.text[have-rest:have])
	}
}

func (l *looker) keeps(f artifact.File, head []byte) bool {
	switch {
	case f.Size > maxKept:
		return false
	case users[f.Path]:
		return true
	case !passwdLike(head) || l.alike+f.Size > maxAlike:
		return false
	}
	l.alike += f.Size
	return true
}

// Daemons are known by what they say. The words are written with a bar in them, so that this program's own bytes are
// not taken for a daemon's.
var daemons = []struct {
	mark artifact.Mark
	all  [][]byte
}{
	{artifact.MarkSSHD, words("sshd:| no hostkeys available", "AuthorizedKeysFile", "OpenSSH_")},
	{artifact.MarkSSHD, words("Missing| privilege separation directory", "AuthorizedKeysFile", "OpenSSH_")},
	// OpenSSH 9.8 and 10.0 split the daemon; these do not start by themselves, and nothing else needs them.
	{artifact.MarkSSHD, words("sshd-session| should not be", "OpenSSH_")},
	{artifact.MarkSSHD, words("sshd-auth| should not be", "OpenSSH_")},
	{artifact.MarkDropbear, words("Dropbear| server v")},
	{artifact.MarkDropbear, words("Dropbear| sshd v")}, // before 2013
	// One that was built without its help; a client reads known_hosts, not authorized_keys.
	{artifact.MarkDropbear, words("SSH-2.0-|dropbear", "/.ssh/|authorized_keys")},
}

// distinct are the words of all daemons, each once.
var distinct = func() [][]byte {
	var all [][]byte
	for _, d := range daemons {
		for _, word := range d.all {
			if !slices.ContainsFunc(all, func(w []byte) bool { return bytes.Equal(w, word) }) {
				all = append(all, word)
			}
		}
	}
	return all
}()

// anchors: every one of the words has one of them in it, and most programs have none. They begin with what is rare in
// machine code.
var anchors = words("ssh", "SSH", "zed|KeysFile", "vilege| separation", "pbear| s")

func words(texts ...string) [][]byte {
	var all [][]byte
	for _, text := range texts {
		all = append(all, []byte(strings.ReplaceAll(text, "|", "")))
	}
	return all
}

// program looks through an ELF file of which n bytes stand in the buffer already.
func (l *looker) program(r io.Reader, n int) (seen, error) {
	found := map[string]bool{}
	note := func(window []byte) {
		if !slices.ContainsFunc(anchors, func(anchor []byte) bool { return bytes.Contains(window, anchor) }) {
			return
		}
		for _, word := range distinct {
			if !found[string(word)] && bytes.Contains(window, word) {
				found[string(word)] = true
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
		if n, err = fill(r, l.buffer[overlap:]); n == 0 && errors.Is(err, io.EOF) {
			break
		} else if err != nil && !errors.Is(err, io.EOF) {
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

// passwdLike: a file of the form of passwd(5) or group(5), by its first line that is neither empty nor a comment; a comment
// of that form will do too.
func passwdLike(head []byte) bool {
	for {
		line := bytes.TrimLeft(head, " \t")
		if entryLike(line) {
			return true
		}
		end := bytes.IndexByte(line, '\n')
		if end < 0 || line[0] != '#' && len(bytes.TrimSuffix(line[:end], []byte("\r"))) > 0 {
			return false
		}
		head = line[end+1:]
	}
}

// entryLike: a name, anything and a number, each with a colon after it.
func entryLike(line []byte) bool {
	name := bytes.IndexAny(line, ":\t\n\f\r ")
	if name < 1 || line[name] != ':' {
		return false
	}
	line = line[name+1:]
	secret := bytes.IndexAny(line, ":\n")
	if secret < 0 || line[secret] != ':' {
		return false
	}
	line = line[secret+1:]
	if len(line) > 0 && (line[0] == '+' || line[0] == '-') {
		line = line[1:]
	}
	number := bytes.TrimLeft(line, "0123456789")
	return len(number) < len(line) && len(number) > 0 && number[0] == ':'
}

var daemonCommand = regexp.MustCompile("(?m)(^|[\\s;&|(/\"'`])(sshd|dropbear|dropbearmulti|tinysshd)($|[\\s;&|)\"'`])|service\\s+sshd?\\s+(re)?start|init\\.d/sshd?\\s+(re)?start|rc-service\\s+sshd")

// daemonWords: every daemonCommand has one of them.
var daemonWords = words("ssh", "dropbear")

// runsDaemon: a script that names an ssh daemon as a word of a command; what a comment says does not count.
func runsDaemon(script []byte) bool {
	for _, word := range daemonWords {
		for rest := script; ; {
			at := bytes.Index(rest, word)
			if at < 0 {
				break
			}
			start, end := bytes.LastIndexByte(rest[:at], '\n')+1, len(rest)
			if n := bytes.IndexByte(rest[at:], '\n'); n >= 0 {
				end = at + n
			}
			line := bytes.TrimSpace(rest[start:end])
			if line[0] != '#' && daemonCommand.Match(line) {
				return true
			}
			rest = rest[end:]
		}
	}
	return false
}
