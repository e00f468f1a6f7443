package layer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/layer"
)

type entry struct {
	name, content, link string
	kind                byte
	mode                int64
	pax                 map[string]string
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		if e.kind == tar.TypeXGlobalHeader {
			require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: e.kind, PAXRecords: e.pax}))
			continue
		}
		require.NoError(t, w.WriteHeader(&tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.content)), Uid: 7, PAXRecords: e.pax}))
		_, err := io.WriteString(w, e.content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func gz(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(b)
	_ = w.Close()
	return z.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	return w.EncodeAll(b, nil)
}

func TestRead(t *testing.T) {
	t.Parallel()
	plain := pack(t,
		entry{name: "./", kind: tar.TypeDir}, entry{name: "./etc/", kind: tar.TypeDir, mode: 0o755},
		entry{name: "./etc/passwd", content: "root:x:0:0::/:/bin/sh\n"},
		entry{name: "bin/su", content: "\x7fELFx", mode: 0o4755},
		entry{name: "lib", kind: tar.TypeSymlink, link: "../../usr/lib"},
		entry{name: "bin/su2", kind: tar.TypeLink, link: "./bin/su"},
		entry{name: "old/.wh.file"}, entry{name: "new/.wh..wh..opq"},
		entry{name: "start", content: "#!/bin/sh\n# sshd is not here\nexec /usr/sbin/sshd -D\n", mode: 0o755},
		entry{name: "comment", content: "#!/bin/sh\n# runs sshd\nexec app --sshd=no\n", mode: 0o755},
		entry{name: strings.Repeat("long/", 40) + "name", content: "pax"},
	)
	for compression, blob := range map[string][]byte{"none": plain, "gzip": gz(plain), "zstd": zst(t, plain)} {
		var tee bytes.Buffer
		facts, err := layer.Read(bytes.NewReader(blob), layer.Options{Tee: &tee})
		require.NoError(t, err, compression)
		require.Equal(t, compression, facts.Compression)
		require.Equal(t, artifact.DigestOf(blob), facts.Digest)
		require.Equal(t, artifact.DigestOf(plain), facts.DiffID)
		require.EqualValues(t, len(blob), facts.Compressed)
		require.EqualValues(t, len(plain), facts.Uncompressed)
		require.Equal(t, plain, tee.Bytes())
		files := map[string]artifact.File{}
		for _, f := range facts.Files {
			files[f.Path] = f
		}
		require.Len(t, files, 10)
		require.EqualValues(t, 0o4755, files["bin/su"].Mode)
		require.Equal(t, 7, files["bin/su"].UID)
		require.Equal(t, artifact.File{Path: "old/file", Type: artifact.Whiteout}, files["old/file"])
		require.Equal(t, artifact.Opaque, files["new"].Type)
		require.Equal(t, "bin/su", files["bin/su2"].Target)
		require.Equal(t, "../../usr/lib", files["lib"].Target)
		require.Equal(t, []artifact.Mark{artifact.MarkRunsSSHD}, files["start"].Marks)
		require.Empty(t, files["comment"].Marks)
		require.Equal(t, map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n"}, facts.Contents)
	}
}

// TestMarks: a daemon is known under any name, wherever its words fall; a client that only speaks ssh is not one.
func TestMarks(t *testing.T) {
	t.Parallel()
	sshd := "sshd: no hostkeys available -- exiting.\x00AuthorizedKeysFile\x00OpenSSH_9.2p1"
	for _, at := range []int{0, 10, 64<<10 - 20, 64<<10 - 1, 128<<10 - 30, 1 << 20} {
		content := "\x7fELF" + strings.Repeat("\x01", at) + sshd
		facts, err := layer.Read(bytes.NewReader(pack(t, entry{name: "usr/bin/harmless", content: content})), layer.Options{})
		require.NoError(t, err)
		require.Equal(t, []artifact.Mark{artifact.MarkSSHD}, facts.Files[0].Marks, "at %d", at)
	}
	for content, want := range map[string][]artifact.Mark{
		"\x7fELF Dropbear server v2022.83":                                                    {artifact.MarkDropbear},
		"\x7fELF Dropbear SSH client v2022.83":                                                nil,
		"\x7fELF Dropbear sshd v2012.55":                                                      {artifact.MarkDropbear},
		"\x7fELF SSH-2.0-dropbear_2022.83 %s/.ssh/authorized_keys":                            {artifact.MarkDropbear},
		"\x7fELF SSH-2.0-dropbear_2022.83 %s/.ssh/known_hosts":                                nil,
		"\x7fELF OpenSSH_9.2p1 AuthorizedKeysFile Missing privilege separation directory: %s": {artifact.MarkSSHD},
		"a text\nwith \x00 later\nexec sshd -D":                                               {artifact.MarkRunsSSHD},
		"#!/bin/dash \x00\nexec sshd -D":                                                      {artifact.MarkRunsSSHD},
		"no \x00 text\nexec sshd -D":                                                          nil,
		"#!/bin/sh\n" + strings.Repeat("# padding\n", 40_000) + "exec sshd -D":                {artifact.MarkRunsSSHD},
		"#!/bin/sh\n" + strings.Repeat("# runs sshd\n", 40_000) + "exec app":                  nil,
		strings.Repeat(" ", 300_000) + "sshd -D":                                              {artifact.MarkRunsSSHD},
		strings.Repeat(" ", 256<<10-5) + "/usr/sbin/sshd -D\n" + strings.Repeat("x\n", 1000):  {artifact.MarkRunsSSHD},
		strings.Repeat("x", 64<<10-2) + "\nsshd\n":                                            {artifact.MarkRunsSSHD},
		"a text: exec sshd -D":                                                                {artifact.MarkRunsSSHD},
		"\x7fELF OpenSSH_9.2p1 AuthorizedKeysFile":                                            nil,
		"\x7fELF OpenSSH_10.0p2 sshd-session should not be executed directly":                 {artifact.MarkSSHD},
		"\x7fELF OpenSSH_10.0p2 sshd-auth should not be executed directly":                    {artifact.MarkSSHD},
		"\x7fELF sshd: no hostkeys available":                                                 nil,
		"a text about sshd: no hostkeys available.":                                           nil,
	} {
		facts, err := layer.Read(bytes.NewReader(pack(t, entry{name: "x", content: content})), layer.Options{})
		require.NoError(t, err)
		require.Equal(t, want, facts.Files[0].Marks, content)
	}
}

// TestCapabilities: what running a file gives is read from its extended attribute, and all of it where that is none.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	set := func(revision byte, words ...byte) string {
		value := []byte{1, 0, 0, revision}
		for _, word := range words {
			value = append(value, word, 0, 0, 0)
		}
		return string(value)
	}
	for value, want := range map[string]uint64{
		set(2, 0, 0x20, 0, 0): 1 << 5, set(2, 0x20, 0, 1, 0): 1<<5 | 1<<32, set(3, 0x20, 0, 0, 0, 9): 1 << 5, set(1, 4, 0): 4,
		set(2, 0x20): math.MaxUint64, set(9, 0, 0, 0, 0): math.MaxUint64, "": math.MaxUint64, "x": math.MaxUint64,
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "ping", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": value}}))
		require.NoError(t, w.Close())
		facts, err := layer.Read(&b, layer.Options{})
		require.NoError(t, err)
		require.Equal(t, want, facts.Files[0].Capabilities, "%q", value)
	}
	// As libarchive writes them, with or without padding.
	for value, want := range map[string]uint64{base64.StdEncoding.EncodeToString([]byte(set(2, 0x20, 0, 0, 0))): 1 << 5,
		base64.RawStdEncoding.EncodeToString([]byte(set(2, 0x20, 0, 0, 0))): 1 << 5, "?": math.MaxUint64} {
		facts, err := layer.Read(bytes.NewReader(pack(t, entry{name: "ping", pax: map[string]string{"LIBARCHIVE.xattr.security.capability": value}})), layer.Options{})
		require.NoError(t, err)
		require.Equal(t, want, facts.Files[0].Capabilities, "%q", value)
	}
}

// TestWriters: what tools put into layers beside files is no reason to refuse one.
func TestWriters(t *testing.T) {
	t.Parallel()
	a, b := pack(t, entry{name: "a", content: strings.Repeat("a", 5000)}), []byte{}
	for name, blob := range map[string][]byte{
		"pigz and eStargz write members":    append(append(gz(a[:1000]), gz(nil)...), gz(a[1000:])...),
		"zstd frames":                       append(zst(t, a[:1000]), zst(t, a[1000:])...),
		"a skippable frame before":          append([]byte{0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'h', 'i'}, zst(t, a)...),
		"zstd:chunked puts its table after": append(zst(t, a), 0x5f, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x'),
		"blocks of 10 KiB":                  append(bytes.Clone(a), make([]byte, 9000)...),
		"an overlay's books":                pack(t, entry{name: "a", content: strings.Repeat("a", 5000), pax: map[string]string{"SCHILY.xattr.trusted.overlay.origin": "x", "SCHILY.xattr.user.overlay.impure": "y", "SCHILY.xattr.user.mine": "z"}}),
		"git archive": pack(t, entry{kind: tar.TypeXGlobalHeader, pax: map[string]string{"comment": "1234"}},
			entry{name: "a", content: strings.Repeat("a", 5000)}),
		"an empty layer": append(b, make([]byte, 1024)...),
	} {
		facts, err := layer.Read(bytes.NewReader(blob), layer.Options{})
		require.NoError(t, err, name)
		if name != "an empty layer" {
			require.Equal(t, []artifact.File{{Path: "a", Type: artifact.Regular, Mode: 0o644, UID: 7, Size: 5000}}, facts.Files, name)
		}
	}
}

// TestNames: two names stay two, whatever bytes they are of: facts travel as JSON, which would make one of these.
func TestNames(t *testing.T) {
	t.Parallel()
	names := []string{"x\xff", "x\xfe", `x\xff`, `x\x5cxff`, "x\ufffd", `dev\x2d`, "é", `back\slash`}
	var entries []entry
	for _, name := range names {
		entries = append(entries, entry{name: name, kind: tar.TypeSymlink, link: name})
	}
	facts, err := layer.Read(bytes.NewReader(pack(t, entries...)), layer.Options{})
	require.NoError(t, err)
	var travelled artifact.LayerFacts
	b, err := json.Marshal(facts)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &travelled))
	require.Equal(t, facts.Files, travelled.Files)
	seen := map[string]bool{}
	for _, f := range travelled.Files {
		require.False(t, seen[f.Path], f.Path)
		seen[f.Path] = true
		require.Equal(t, f.Path, f.Target)
	}
	require.Equal(t, `x\xff`, travelled.Files[0].Path)
	require.Equal(t, "é", travelled.Files[6].Path)

	facts, err = layer.Read(bytes.NewReader(pack(t, entry{name: "etc/passwd", content: "a\xff:x:1000:1000::/:\na\ufffd:x:0:0::/:\n"})), layer.Options{})
	require.NoError(t, err)
	require.Equal(t, "a\\xff:x:1000:1000::/:\na\ufffd:x:0:0::/:\n", facts.Contents["etc/passwd"])
}

// TestKept: the files that say who is who are kept where they lie, and where a link may lead; others are not.
func TestKept(t *testing.T) {
	t.Parallel()
	user, large := "app:x:1000:1000::/:/bin/sh\n", strings.Repeat("app:x:1000:1000::/:/bin/sh\n", 38_000)
	entries := []entry{
		{name: "etc/passwd", content: "nothing like it"}, {name: "etc/group", content: "app:x:1000:\n"}, {name: "usr/lib/passwd"},
		{name: "opt/users", content: "\n  # people\n" + user}, {name: "etc/shadow", content: "root:!:19000:0:99999:7:::\n"},
		{name: "readme", content: "a: b"}, {name: "opt/large", content: "app:x:1:\n" + large + large},
	}
	for i := range 20 {
		entries = append(entries, entry{name: fmt.Sprintf("log/%02d", i), content: large})
	}
	entries = append(entries, entry{name: "usr/lib/group", content: "wheel:x:0:\n"})
	facts, err := layer.Read(bytes.NewReader(pack(t, entries...)), layer.Options{})
	require.NoError(t, err)
	kept := 0
	for path, content := range facts.Contents {
		kept += len(content)
		require.NotContains(t, []string{"readme", "opt/large"}, path)
	}
	require.Less(t, kept, 20<<20)
	for _, path := range []string{"etc/passwd", "etc/group", "usr/lib/passwd", "usr/lib/group", "opt/users", "log/00"} {
		require.Contains(t, facts.Contents, path)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	good := gz(pack(t, entry{name: "a", content: strings.Repeat("x", 100_000)}))
	small := layer.Limits{Uncompressed: 1 << 20, Entries: 3, Path: 50, Depth: 5, Names: 45, RatioFrom: 100_000, Ratio: 50}
	for what, c := range map[string]struct {
		blob []byte
		want string
	}{
		"cut off":          {good[:len(good)-30], "cut off"},
		"damaged":          {append(append([]byte{}, good[:50]...), make([]byte, 100)...), "entries"},
		"no archive":       {gz([]byte(strings.Repeat("no", 1000))), "tar"},
		"climbs":           {pack(t, entry{name: "a/../../b"}), "climbs"},
		"absolute":         {pack(t, entry{name: "/etc/passwd"}), "absolute"},
		"hard link out":    {pack(t, entry{name: "a", kind: tar.TypeLink, link: "../b"}), "climbs"},
		"too large":        {pack(t, entry{name: "a", content: strings.Repeat("x", 1<<20)}), "more than"},
		"too many":         {pack(t, entry{name: "a"}, entry{name: "b"}, entry{name: "c"}, entry{name: "d"}), "more than 3 entries"},
		"long path":        {pack(t, entry{name: strings.Repeat("x", 60)}), "longer"},
		"deep path":        {pack(t, entry{name: "a/b/c/d/e/f"}), "deeper"},
		"bomb":             {gz(pack(t, entry{name: "a", content: strings.Repeat("\x00", 900_000)})), "bombs"},
		"after the tar":    {append(pack(t, entry{name: "a"}), "x"...), "follow"},
		"after the gzip":   {append(gz(pack(t, entry{name: "a"})), "x"...), "bytes follow"},
		"long after it":    {append(gz(pack(t, entry{name: "a"})), strings.Repeat("garbage", 100)...), "bytes follow"},
		"cut off member":   {append(gz(pack(t, entry{name: "a"})), good[:20]...), "cut off"},
		"many names":       {pack(t, entry{name: "a"}, entry{name: "b", kind: tar.TypeSymlink, link: strings.Repeat("x", 45)}), "together"},
		"hidden entries":   {pack(t, entry{name: "./", kind: tar.TypeDir}, entry{name: "./", kind: tar.TypeDir}, entry{name: "./", kind: tar.TypeDir}, entry{name: "./", kind: tar.TypeDir}), "more than 3 entries"},
		"large pax":        {extended(pack(t, entry{name: "a", content: strings.Repeat("x", 2<<20)})), "tar"},
		"cut off zstd":     {zst(t, pack(t, entry{name: "a", content: strings.Repeat("x", 1000)}))[:30], "cut off"},
		"cut off tar":      {pack(t, entry{name: "a", content: strings.Repeat("x", 600)})[:512+256], "cut off"},
		"sparse":           {sparse(t, 2<<20), "files are larger"},
		"GNU long name":    {gnu(t, strings.Repeat("x/", 100)+"y"), "longer"},
		"pax long name":    {pack(t, entry{name: strings.Repeat("é", 150)}), "longer"},
		"old GNU sparse":   {oldSparse(t, 2<<20), "files are larger"},
		"holes together":   {append(sparse(t, 700<<10)[:2048], sparse(t, 700<<10)...), "files are larger"},
		"long target":      {pack(t, entry{name: "a", kind: tar.TypeSymlink, link: strings.Repeat("x", 60)}), "the target of"},
		"GNU long link":    {gnuLink(t, strings.Repeat("x/", 100)+"y"), "the target of"},
		"zstd bomb":        {zst(t, pack(t, entry{name: "a", content: strings.Repeat("\x00", 900_000)})), "bombs"},
		"many members":     {bytes.Repeat(gz(make([]byte, 300_000)), 4), "bombs"},
		"large members":    {inMembers(pack(t, entry{name: "a", content: noise(900_000)}, entry{name: "b", content: noise(200_000)})), "files are larger"},
		"same again":       {pack(t, entry{name: "a"}, entry{name: "a"}, entry{name: "a"}, entry{name: "a"}), "more than 3 entries"},
		"tar after tar":    {append(pack(t, entry{name: "a"}), pack(t, entry{name: "b"})...), "follow"},
		"device climbs":    {pack(t, entry{name: "../dev/sda", kind: tar.TypeBlock}), "climbs"},
		"odd type":         {pack(t, entry{name: "a", kind: 'Z'}), "no layer has"},
		"bare whiteout":    {pack(t, entry{name: "a/.wh."}), "names nothing"},
		"whiteout of .":    {pack(t, entry{name: "a/.wh.."}), "names nothing"},
		"whiteout of ..":   {pack(t, entry{name: "a/.wh..."}), "names nothing"},
		"aufs's links":     {pack(t, entry{name: ".wh..wh.plnk/1.2"}), "a whiteout"},
		"below whiteout":   {pack(t, entry{name: "a/.wh.b/c"}), "a whiteout"},
		"dots in dots":     {pack(t, entry{name: "./a/./../b"}), "climbs"},
		"root as a link":   {pack(t, entry{name: "./", kind: tar.TypeSymlink, link: "/etc"}), "the root itself is a symlink"},
		"root as a file":   {pack(t, entry{name: ".", content: "x"}), "the root itself is a file"},
		"redirect":         {pack(t, entry{name: "etc", kind: tar.TypeDir, pax: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/evil"}}), "trusted.overlay.redirect"},
		"opaque, hidden":   {pack(t, entry{name: "etc", kind: tar.TypeDir, pax: map[string]string{"SCHILY.xattr.user.overlay.opaque": "y"}}), "user.overlay.opaque"},
		"another owner":    {pack(t, entry{name: "a", pax: map[string]string{"LIBARCHIVE.xattr.user.containers.override_stat": "MA"}}), "override_stat"},
		"PAX climbs":       {paxed("path", "../a"), "climbs"},
		"PAX link climbs":  {linked(paxed("linkpath", "../a")), "climbs"},
		"PAX, huge":        {paxed("size", "9999999"), "files are larger"},
		"PAX, negative":    {paxed("size", "-1"), "tar"},
		"huge in base 256": {base256(pack(t, entry{name: "a"}), 0x7f), "files are larger"},
		"negative too":     {base256(pack(t, entry{name: "a"}), 0xff), "tar"},
		"PAX over GNU":     {append(extended(pack(t, entry{name: "pax", content: record("path", "b/../../c")}))[:1024], gnu(t, strings.Repeat("x/", 10)+"y")...), "climbs"},
	} {
		_, err := layer.Read(bytes.NewReader(c.blob), layer.Options{Limits: small})
		require.ErrorContains(t, err, c.want, what)
	}
	_, err := layer.Read(io.MultiReader(bytes.NewReader(good[:10]), errorReader{}), layer.Options{})
	require.ErrorContains(t, err, "disk")
}

// TestCutOffWithin: an archive that ends within a file, of whatever kind, has an end.
func TestCutOffWithin(t *testing.T) {
	t.Parallel()
	for _, head := range []string{"\x7fELF", "#!/bin/sh\n", "app:x:1000:1000::/:\n", "x\x00"} {
		whole := pack(t, entry{name: "a", content: head + strings.Repeat("x\n", 150_000)}, entry{name: "b", content: head})
		for _, at := range []int{1, 10, 1000, 64<<10 - 1, 64 << 10, 100_000, 128 << 10, 256 << 10, 300_000} {
			for _, blob := range [][]byte{whole[:512+at], gz(whole[:512+at])} {
				_, err := layer.Read(bytes.NewReader(blob), layer.Options{})
				require.ErrorContains(t, err, "the archive is cut off", "%q at %d", head, at)
			}
		}
		_, err := layer.Read(bytes.NewReader(whole[:len(whole)-1024-512+1]), layer.Options{})
		require.ErrorContains(t, err, "the archive is cut off", "within a small one")
	}
}

// sparse is an archive of one file of so many bytes that are nearly all holes (GNU tar's pax format 0.1).
func sparse(t testing.TB, size int) []byte {
	var records string
	for _, r := range [][2]string{{"GNU.sparse.size", strconv.Itoa(size)}, {"GNU.sparse.numblocks", "1"}, {"GNU.sparse.map", "0,1"}, {"GNU.sparse.name", "holes"}} {
		record := " " + r[0] + "=" + r[1] + "\n"
		n := len(record) + 2 // each is of 10 to 99 bytes
		records += strconv.Itoa(n) + record
	}
	return extended(pack(t, entry{name: "pax", content: records}, entry{name: "holes", content: "x"}))
}

// record is one of an extended header.
func record(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	n := len(rest) + 1
	for n != len(strconv.Itoa(n))+len(rest) {
		n++
	}
	return strconv.Itoa(n) + rest
}

// paxed is an archive of one entry, of which an extended header says something else.
func paxed(key, value string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	content := record(key, value)
	_ = w.WriteHeader(&tar.Header{Name: "pax", Typeflag: tar.TypeReg, Size: int64(len(content))})
	_, _ = io.WriteString(w, content)
	_ = w.WriteHeader(&tar.Header{Name: "a", Linkname: "b", Typeflag: tar.TypeReg})
	_ = w.Close()
	return extended(b.Bytes())
}

// linked makes the last entry of what paxed wrote a hard link.
func linked(b []byte) []byte {
	header := b[1024:1536]
	header[156] = tar.TypeLink
	summed(header)
	return b
}

// base256 writes the size of an archive's first entry as a binary number that begins with a byte.
func base256(b []byte, first byte) []byte {
	copy(b[124:136], "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	b[128] = first
	if first&0x80 != 0 {
		copy(b[124:128], "\xff\xff\xff\xff")
	}
	return summed(b)
}

// oldSparse is the same in GNU tar's old format: the map and the real size lie in the header itself.
func oldSparse(t testing.TB, size int) []byte {
	b := pack(t, entry{name: "holes", content: "x"})
	b[156] = 'S'
	copy(b[257:], "ustar  \x00")
	clear(b[265:500])
	copy(b[386:], fmt.Sprintf("%011o\x00%011o\x00", 0, 1))
	copy(b[483:], fmt.Sprintf("%011o\x00", size))
	return summed(b)
}

// summed computes the checksum of an archive's first header anew.
func summed(b []byte) []byte {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// noise is text that packs badly.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return string(b)
}

// inMembers packs an archive in several gzip members, none of which is large.
func inMembers(b []byte) (all []byte) {
	for len(b) > 0 {
		n := min(len(b), 200_000)
		all, b = append(all, gz(b[:n])...), b[n:]
	}
	return all
}

// gnuLink is an archive of a link with a target in GNU tar's own way.
func gnuLink(t testing.TB, target string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "a", Linkname: target, Typeflag: tar.TypeSymlink, Format: tar.FormatGNU}))
	require.NoError(t, w.Close())
	return b.Bytes()
}

// gnu is an archive with a name in GNU tar's own way.
func gnu(t testing.TB, name string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Format: tar.FormatGNU}))
	require.NoError(t, w.Close())
	return b.Bytes()
}

// TestOddEntries: what is no file of its own is listed, and not opened; of two entries of one name the later counts.
func TestOddEntries(t *testing.T) {
	t.Parallel()
	inner := gz(pack(t, entry{name: "inner", content: strings.Repeat("\x00", 5<<20)}))
	facts, err := layer.Read(bytes.NewReader(pack(t,
		entry{name: "dev/sda", kind: tar.TypeBlock, mode: 0o666}, entry{name: "dev/mem", kind: tar.TypeChar}, entry{name: "pipe", kind: tar.TypeFifo},
		entry{name: "a", kind: tar.TypeSymlink, link: "b"}, entry{name: "b", kind: tar.TypeSymlink, link: "a"},
		entry{name: "nested.tar.gz", content: string(inner)}, entry{name: "etc/passwd", content: "root:x:0:0::/:\n"}, entry{name: "etc/passwd", content: "app:x:1:1::/:\n"})),
		layer.Options{Limits: layer.Limits{Uncompressed: 1 << 20}})
	require.NoError(t, err)
	types := map[string]artifact.FileType{}
	for _, f := range facts.Files {
		types[f.Path] = f.Type
	}
	require.Equal(t, map[string]artifact.FileType{"dev/sda": artifact.Device, "dev/mem": artifact.Device, "pipe": artifact.Fifo, "a": artifact.Symlink, "b": artifact.Symlink,
		"nested.tar.gz": artifact.Regular, "etc/passwd": artifact.Regular}, types)
	require.Equal(t, "app:x:1:1::/:\n", facts.Contents["etc/passwd"])

	facts, err = layer.Read(bytes.NewReader(sparse(t, 1<<20)), layer.Options{})
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, facts.Files[0].Size, "as large as it will be, not as it is packed")
}

// extended makes an archive's first entry an extended header (pax, "x"), which holds whatever the entry holds.
func extended(b []byte) []byte {
	var sum int64
	_, _ = fmt.Sscanf(string(b[148:154]), "%o", &sum)
	copy(b[148:], fmt.Sprintf("%06o", sum+'x'-int64(b[156])))
	b[156] = 'x'
	return b
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("disk") }

// TestTeeGone: who listens may go away; the facts are whole all the same.
func TestTeeGone(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	r.Close()
	facts, err := layer.Read(bytes.NewReader(pack(t, entry{name: "a"}, entry{name: "b"})), layer.Options{Tee: w})
	require.NoError(t, err)
	require.Len(t, facts.Files, 2)
}

func FuzzRead(f *testing.F) {
	f.Add(pack(f, entry{name: "etc/passwd", content: "a:x:1:1\n"}, entry{name: "x/.wh.y"}))
	f.Add(gz(pack(f, entry{name: "a", kind: tar.TypeSymlink, link: "/b"})))
	f.Add(zst(f, pack(f, entry{name: "a/.wh..wh..opq"}, entry{name: "b", kind: tar.TypeChar}, entry{name: "c", kind: tar.TypeLink, link: "b"})))
	f.Add(pack(f, entry{name: "ping", content: "\x7fELF", pax: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}))
	f.Add(pack(f, entry{name: "etc", kind: tar.TypeDir, pax: map[string]string{"LIBARCHIVE.xattr.user.overlay.redirect": "L2V2aWw"}}))
	for _, seed := range [][]byte{sparse(f, 1<<20), oldSparse(f, 1<<20), gnu(f, strings.Repeat("x/", 100)+"y"), gnuLink(f, strings.Repeat("x/", 100)), paxed("path", "./../a"), paxed("size", "1"),
		linked(paxed("linkpath", "a\xff")), base256(pack(f, entry{name: "a"}), 0), pack(f, entry{kind: tar.TypeXGlobalHeader, pax: map[string]string{"path": "a"}}, entry{name: "./", kind: tar.TypeDir})} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, err := layer.Read(bytes.NewReader(b), layer.Options{Limits: layer.Limits{Uncompressed: 1 << 20}})
		if err != nil {
			return
		}
		for _, file := range facts.Files {
			if file.Path == "" || strings.HasPrefix(file.Path, "/") || strings.HasPrefix(file.Path, "../") || file.Path == ".." {
				t.Fatalf("a path that leaves the root: %q", file.Path)
			}
			if !utf8.ValidString(file.Path) || !utf8.ValidString(file.Target) {
				t.Fatalf("what JSON would change: %q, %q", file.Path, file.Target)
			}
		}
		// What is stacked of it, twice, is bounded and whole, or refused.
		folded, err := artifact.Fold([]artifact.LayerFacts{facts, facts}, artifact.ImageConfig{})
		if err != nil {
			return
		}
		for path := range folded.Files {
			_, _ = folded.Resolve(path)
		}
	})
}
