package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed pages.txt
var pages string

// maxBytes is how long a page's HTML may be.
const maxBytes = 150_000

// measurement is one run over all pages.
type measurement struct {
	url, token, only string
	pid, rounds      int
	versions         int
	bytes            bool
	client           *http.Client
	names            *strings.Replacer
	over             []string
}

var csrf = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func (m *measurement) run() error {
	m.names = strings.NewReplacer("{service}", repository(42), "{busy}", repository(0), "{running}", imageOf(42, newest(42, 4, m.versions)).digest.String(),
		"{old}", imageOf(42, 3).digest.String(), "{heavy}", imageOf(0, m.versions).digest.String(), "{denied}", refused(42).digest.String(),
		"{then}", strconv.FormatInt(time.Now().Add(-30*24*time.Hour).Unix(), 10))
	jar, _ := cookiejar.New(nil)
	m.client = &http.Client{Jar: jar}
	if err := m.signIn(); err != nil {
		return err
	}
	fmt.Printf("%-20s %9s %9s %9s %9s %9s\n", "page", "median ms", "p95 ms", "bound ms", "cpu ms", "bytes")
	for _, line := range strings.Split(strings.TrimSpace(pages), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		bound, err := strconv.ParseFloat(fields[1], 64)
		if err != nil || len(fields) != 3 {
			return fmt.Errorf("pages.txt: %q: want a name, a bound and a path", line)
		}
		if m.only != "" && !slices.Contains(strings.Split(m.only, ","), fields[0]) {
			continue
		}
		if err := m.page(fields[0], m.names.Replace(fields[2]), bound); err != nil {
			return err
		}
	}
	if len(m.over) > 0 {
		return errors.New("over the bound: " + strings.Join(m.over, ", "))
	}
	return nil
}

func (m *measurement) signIn() error {
	form, err := m.get("/login")
	if err != nil {
		return err
	}
	found := csrf.FindSubmatch(form)
	if found == nil {
		return errors.New("the page at /login has no form")
	}
	resp, err := m.client.PostForm(m.url+"/login", url.Values{"token": {m.token}, "csrf": {string(found[1])}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the token was not taken: %s", resp.Status)
	}
	return nil
}

func (m *measurement) get(path string) ([]byte, error) {
	resp, err := m.client.Get(m.url + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.500s", path, resp.Status, body)
	}
	return body, err
}

// page asks for one page, one request after the other.
func (m *measurement) page(name, path string, bound float64) error {
	var took []float64
	size := 0
	for range 3 { // what is read for the first time, and not the page, is not meant
		if _, err := m.get(path); err != nil {
			return err
		}
	}
	before, err := m.processor()
	if err != nil {
		return err
	}
	for range m.rounds {
		begun := time.Now()
		body, err := m.get(path)
		if err != nil {
			return err
		}
		took = append(took, float64(time.Since(begun).Microseconds())/1000)
		size = max(size, len(body))
	}
	after, err := m.processor()
	if err != nil {
		return err
	}
	slices.Sort(took)
	median, p95 := took[len(took)/2], took[len(took)*95/100]
	mark := ""
	if median >= bound && !m.bytes {
		mark += " slow"
	}
	if size > maxBytes {
		mark += " large"
	}
	if mark != "" {
		m.over = append(m.over, name)
	}
	fmt.Printf("%-20s %9.1f %9.1f %9.0f %9.1f %9d%s\n", name, median, p95, bound, (after-before)/float64(m.rounds), size, mark)
	return nil
}

// processor is how many ms of processor time the server and its database have had: unlike the clock it says the same
// while others work on the machine. proc(5): utime and stime are in hundredths of seconds, those of children that ended beside them.
func (m *measurement) processor() (ms float64, err error) {
	if m.pid == 0 {
		return 0, nil
	}
	family := map[string]bool{strconv.Itoa(m.pid): true}
	parents, ticks := map[string]string{}, map[string]float64{}
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, _, _ := strings.Cut(string(b), " ")
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // from the state on, the third
		parents[pid] = fields[1]
		for _, i := range []int{11, 12, 13, 14} {
			n, _ := strconv.ParseFloat(fields[i], 64)
			ticks[pid] += n
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, parent := range parents {
			if family[parent] && !family[pid] {
				family[pid], grown = true, true
			}
		}
	}
	for pid := range family {
		ms += ticks[pid] * 10
	}
	return ms, nil
}
