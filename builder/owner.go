package builder

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	mode "github.com/tonistiigi/dchapes-mode"

	"waybill/artifact"
)

type owner struct{ uid, gid int }

func (c *copying) chmod(text string) error {
	if bits, err := strconv.ParseUint(text, 8, 32); err == nil {
		if bits > 0o7777 {
			return artifact.Errorf(artifact.Invalid, "--chmod=%s: want an octal mode from 0 to 07777", text)
		}
		m := int64(bits)
		c.mode = &m
		return nil
	}
	set, err := mode.ParseWithUmask(text, 0)
	if err != nil {
		return artifact.Errorf(artifact.Invalid, "--chmod=%.100s: want an octal mode such as 0755, or a symbolic one such as u=rwX,go=rX", text)
	}
	c.modeSet = &set
	return nil
}

func (c *copying) modeOf(n *node) int64 {
	switch {
	case c.mode != nil:
		return *c.mode
	case c.modeSet != nil:
		return fromFileMode(c.modeSet.Apply(toFileMode(n)))
	}
	return n.mode
}

func toFileMode(n *node) os.FileMode {
	m := os.FileMode(n.mode) & os.ModePerm
	if n.kind == artifact.Dir {
		m |= os.ModeDir
	}
	for bit, special := range specialBits {
		if n.mode&bit != 0 {
			m |= special
		}
	}
	return m
}

func fromFileMode(m os.FileMode) int64 {
	bits := int64(m.Perm())
	for bit, special := range specialBits {
		if m&special != 0 {
			bits |= bit
		}
	}
	return bits
}

// lookup evaluates USER or --chown: numbers, or names of the stage's /etc/passwd and /etc/group. A name that nobody has is
// an error when it is strict; BuildKit takes it for root.
func (c *copying) lookup(text string, strict bool) (*owner, error) {
	user, group, hasGroup := strings.Cut(text, ":")
	var o owner
	var err error
	if o.uid, o.gid, err = c.id("etc/passwd", user, strict); err != nil {
		return nil, artifact.Errorf(artifact.Invalid, "--chown=%.100s: %w", text, err)
	}
	if !hasGroup {
		return &o, nil
	}
	switch gid, _, err := c.id("etc/group", group, true); {
	case err == nil:
		o.gid = gid
	case strict:
		return nil, artifact.Errorf(artifact.Invalid, "--chown=%.100s: %w", text, err)
	}
	return &o, nil
}

// id returns the number of a user or group name, and of a user its group's.
func (c *copying) id(file, name string, strict bool) (id, group int, err error) {
	if name == "root" || name == "" {
		return 0, 0, nil
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), int(n), nil
	}
	p, err := c.files.resolve(file, true)
	if err != nil {
		return 0, 0, err
	}
	n := c.files.get(p)
	if n == nil || n.kind != artifact.Regular {
		if !strict {
			return 0, 0, nil
		}
		return 0, 0, artifact.Errorf(artifact.Invalid, "the stage has no /%s that says who %s is; use a number", file, name)
	}
	r, err := n.content.open()
	if err != nil {
		return 0, 0, err
	}
	defer r.Close()
	for lines := bufio.NewScanner(io.LimitReader(r, 10<<20)); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 3 || fields[0] != name {
			continue
		}
		if id, err = strconv.Atoi(fields[2]); err == nil && file == "etc/passwd" && len(fields) > 3 {
			group, err = strconv.Atoi(fields[3])
		}
		return id, group, err
	}
	if !strict {
		return 0, 0, nil
	}
	return 0, 0, artifact.Errorf(artifact.Invalid, "the stage's /%s has no such name", file)
}
