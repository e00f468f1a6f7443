package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	buildkit "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/builder"
	"waybill/server"
)

// buildDisplay shows what a build says: lines as they are, and what BuildKit reports as its own clients show it.
type buildDisplay struct {
	w    io.Writer
	mode progressui.DisplayMode

	reports chan *buildkit.SolveStatus // nil until there is one
	done    sync.WaitGroup
}

func newBuildDisplay(w io.Writer, mode string) (*buildDisplay, error) {
	modes := map[string]progressui.DisplayMode{"auto": progressui.AutoMode, "tty": progressui.TtyMode, "plain": progressui.PlainMode}
	m, ok := modes[mode]
	if !ok {
		return nil, usagef("--progress %.20q: want auto, tty or plain", mode)
	}
	return &buildDisplay{w: w, mode: m}, nil
}

// Write shows text. Whoever reports to it ends the display of reports first.
func (d *buildDisplay) Write(p []byte) (int, error) {
	d.close()
	if _, err := io.WriteString(d.w, printableLines(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// steering is what programs print for a terminal that they think they have: colours, and returns to a line's start.
var steering = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]|\r`)

func printableLines(s string) string { return printable(steering.ReplaceAllString(s, "")) }

// Status shows a report. A build's output is shown without what would steer the terminal.
func (d *buildDisplay) Status(s *buildkit.SolveStatus) {
	for _, l := range s.Logs {
		l.Data = []byte(printableLines(string(l.Data)))
	}
	for _, v := range s.Vertexes {
		v.Name, v.Error = printable(v.Name), printableLines(v.Error)
	}
	for _, v := range s.Statuses {
		v.ID, v.Name = printable(v.ID), printable(v.Name)
	}
	if d.reports == nil {
		d.begin()
	}
	d.reports <- s
}

func (d *buildDisplay) begin() {
	reports := make(chan *buildkit.SolveStatus)
	d.reports = reports
	d.done.Go(func() {
		shown, err := progressui.NewDisplay(d.w, d.mode)
		if err == nil {
			_, _ = shown.UpdateFrom(context.Background(), reports)
		} else {
			fmt.Fprintln(d.w, err)
		}
		for range reports { //nolint:revive // what a display that failed does not take
		}
	})
}

// close ends the display of reports; the next begins another. Safe to call twice.
func (d *buildDisplay) close() {
	if d.reports != nil {
		close(d.reports)
		d.done.Wait()
		d.reports = nil
	}
}

// readSecrets reads what --secret names.
func readSecrets(flags []string) (map[string][]byte, error) {
	secrets := map[string][]byte{}
	for _, flag := range flags {
		var id, src, env string
		for field := range strings.SplitSeq(flag, ",") {
			key, value, _ := strings.Cut(field, "=")
			switch key {
			case "id":
				id = value
			case "src", "source":
				src = value
			case "env":
				env = value
			case "type":
			default:
				return nil, usagef("--secret: %.40q is none of id, src and env", key)
			}
		}
		if id == "" || (src != "") == (env != "") {
			return nil, usagef("--secret: want id=ID,src=FILE or id=ID,env=NAME")
		}
		if env != "" {
			value, ok := os.LookupEnv(env)
			if !ok {
				return nil, usagef("--secret id=%s: there is no variable %s", id, env)
			}
			secrets[id] = []byte(value)
			continue
		}
		value, err := os.ReadFile(src)
		if err != nil {
			return nil, usageError{fmt.Errorf("--secret id=%s: %w", id, err)}
		}
		secrets[id] = value
	}
	return secrets, nil
}

// secretsHeader is how the API takes secrets; they are in no URL, which others log.
func secretsHeader(secrets map[string][]byte) http.Header {
	var all []string
	for id, value := range secrets {
		all = append(all, id+"="+base64.StdEncoding.EncodeToString(value))
	}
	if len(all) == 0 {
		return nil
	}
	return http.Header{"Waybill-Build-Secrets": {strings.Join(all, ",")}}
}

// buildEvent is server.BuildEvent with what BuildKit reports.
type buildEvent struct {
	server.BuildEvent
	Status *buildkit.SolveStatus `json:"status"`
}

// build sends a context and shows what the build says. When the caller is interrupted, the build is cancelled; when the
// connection breaks, the build is followed where it goes on.
func (c *client) build(ctx context.Context, query url.Values, archive io.Reader, secrets map[string][]byte, shown *buildDisplay) (server.Built, error) {
	res, err := c.sendWith(ctx, http.MethodPost, "/builds", query, "application/x-tar", archive, secretsHeader(secrets))
	if err != nil {
		return server.Built{}, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(res.Body, maxAnswer))
	lines.Buffer(nil, 8<<20)
	var run server.BuildEvent // the id, once there is one
	for lines.Scan() {
		var e buildEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return server.Built{}, fmt.Errorf("the answer of %s is not a build log: %w", c.base, err)
		}
		switch {
		case e.Problem != nil:
			return server.Built{}, problemError(*e.Problem)
		case e.Result != nil:
			return *e.Result, nil
		case e.ID != "":
			run = e.BuildEvent
			fmt.Fprintf(shown, "build %s\n", run.ID)
		case e.Status != nil:
			shown.Status(e.Status)
		default:
			fmt.Fprintln(shown, e.Log)
		}
	}
	if ctx.Err() != nil {
		return server.Built{}, c.interrupted(ctx, run)
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return c.goOn(ctx, run, err, query, shown)
}

// interrupted cancels a build, unless others asked for it first.
func (c *client) interrupted(ctx context.Context, run server.BuildEvent) error {
	switch {
	case run.ID == "":
		return ctx.Err()
	case run.Joined:
		return fmt.Errorf("interrupted; build %s goes on for who asked for it first: waybill build logs %[1]s", run.ID)
	}
	telling, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := c.post(telling, "/builds/"+url.PathEscape(run.ID)+"/cancel", struct{}{}, nil); err != nil {
		return fmt.Errorf("interrupted; build %s was not cancelled: %w", run.ID, err) // it may have ended by itself
	}
	return fmt.Errorf("interrupted; build %s was cancelled", run.ID)
}

// errBrokeOff says that a build's answer ended before the build did.
var errBrokeOff = errors.New("the build's answer broke off; ask again: what was built is not built twice")

// goOn follows a build whose answer broke off, as when a server restarts, until it has ended.
func (c *client) goOn(ctx context.Context, run server.BuildEvent, broke error, query url.Values, shown *buildDisplay) (out server.Built, err error) {
	id := run.ID
	if id == "" {
		return out, errors.Join(errBrokeOff, broke)
	}
	fmt.Fprintf(shown, "the connection broke (%v); waiting for the server\n", broke)
	for deadline := time.Now().Add(time.Minute); ; {
		b, err := c.follow(ctx, id, shown)
		switch {
		case ctx.Err() != nil:
			return out, c.interrupted(ctx, run)
		case err == nil && b.State == artifact.BuildDone:
			for _, tag := range query["tag"] {
				if !slices.ContainsFunc(b.Tags, func(t artifact.Tag) bool { return t.String() == tag }) {
					return out, fmt.Errorf("build %s, which others asked for too, is done: %s@%s\nAsk again for the tag %s: what was built is not built twice", id, b.Repository, b.Digest, tag)
				}
			}
			return server.Built{Repository: b.Repository, Tags: b.Tags, Digest: b.Digest, Key: b.Key, New: b.New, BuiltBy: b.AskedBy, BuiltAt: b.StartedAt}, nil
		case err == nil:
			return out, errors.New(printableLines(b.Failure))
		case time.Now().After(deadline):
			return out, errors.Join(errBrokeOff, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// follow shows what a build says, from its beginning, until it has ended.
func (c *client) follow(ctx context.Context, id string, shown *buildDisplay) (b artifact.Build, err error) {
	res, err := c.send(ctx, http.MethodGet, "/builds/"+url.PathEscape(id)+"/log", nil, "", nil)
	if err != nil {
		return b, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 8<<20)
	name := ""
	for lines.Scan() {
		key, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch {
		case len(lines.Bytes()) == 0:
			name = ""
		case string(key) == "event":
			name = string(value)
		case string(key) == "data" && name == "end":
			return b, json.Unmarshal(value, &b)
		case string(key) == "data":
			var e buildEvent
			if err := json.Unmarshal(value, &e); err != nil {
				return b, fmt.Errorf("the answer of %s is not a build log: %w", c.base, err)
			}
			if e.Status != nil {
				shown.Status(e.Status)
			} else {
				fmt.Fprintln(shown, e.Log)
			}
		}
	}
	return b, errors.Join(errBrokeOff, lines.Err())
}

func newBuildList() *cobra.Command {
	var repository string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Builds, newest first: what waits, what runs, what they came to",
		Args:  cobra.NoArgs,
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&repository, "repository", "", "only those of a `repository`")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many `builds`")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		query := url.Values{}
		if repository != "" {
			query.Set("repository", repository)
		}
		list := server.BuildList{Builds: []artifact.Build{}}
		for len(list.Builds) < limit {
			query.Set("limit", strconv.Itoa(min(limit-len(list.Builds), 1000)))
			var page server.BuildList
			if err := c.get(ctx, "/builds", query, &page); err != nil {
				return err
			}
			if list.Builds = append(list.Builds, page.Builds...); page.Next == "" {
				break
			}
			query.Set("after", page.Next)
		}
		return output.show(cmd, list, func(w io.Writer) {
			if none(w, len(list.Builds), "nothing was built here yet; build with `waybill build -t REPO:TAG DIR`") {
				return
			}
			t := newTable(w, "id", "repository", "state", "by", "asked", "took", "digest")
			for _, b := range list.Builds {
				took := ""
				if !b.EndedAt.IsZero() && !b.StartedAt.IsZero() {
					took = b.EndedAt.Sub(b.StartedAt).Round(100 * time.Millisecond).String()
				}
				digest := ""
				if !b.Digest.IsZero() {
					digest = shortDigest(b.Digest)
				}
				t.AppendRow([]any{b.ID, b.Repository, b.State, printable(b.AskedBy), stamp(b.AskedAt), orDash(took), orDash(digest)})
			}
			t.Render()
		})
	})
	return cmd
}

func newBuildLogs() *cobra.Command {
	progress := "auto"
	cmd := &cobra.Command{
		Use:   "logs ID",
		Short: "What a build says, or said; one that runs is followed to its end",
		Long: `Show what a build says on standard error. One that runs is followed until it has ended; interrupting that does not end the
build. The last line of standard output is REPO@DIGEST, and the exit status 1 when it came to nothing.`,
		Args: exactly(1, "ID"),
	}
	cmd.Flags().StringVar(&progress, "progress", "auto", "`how` to show it: auto, tty or plain")
	cmd.Flags().BoolP("follow", "f", true, "follow one that runs; as it always is")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		shown, err := newBuildDisplay(cmd.ErrOrStderr(), progress)
		if err != nil {
			return err
		}
		b, err := c.follow(ctx, args[0], shown)
		shown.close()
		if err != nil {
			return err
		}
		if b.State != artifact.BuildDone {
			return errors.New(printableLines(b.Failure))
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s@%s\n", b.Repository, b.Digest)
		return err
	})
	return cmd
}

func newBuildCancel() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "End a build that waits or runs; nothing of it is published",
		Args:  exactly(1, "ID"),
	}
	cmd.RunE = withClient(func(ctx context.Context, _ *cobra.Command, c *client, args []string) error {
		return c.post(ctx, "/builds/"+url.PathEscape(args[0])+"/cancel", struct{}{}, nil)
	})
	return cmd
}

// newBases is the verb that says what images were built on.
func newBases() *cobra.Command {
	var stale bool
	cmd := &cobra.Command{
		Use:   "bases [REF]",
		Short: "What images were built on, and whether that was recalled, is denied by now, or has been replaced",
		Args:  cobra.MaximumNArgs(1),
	}
	output := outputFlag(cmd)
	cmd.Flags().BoolVar(&stale, "stale", false, "only images that there is a reason to build anew")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		query := url.Values{}
		if stale {
			query.Set("stale", "true")
		}
		if len(args) > 0 {
			ref, err := c.local(args[0])
			if err != nil {
				return err
			}
			query.Set("ref", ref)
		}
		all := server.BaseList{Bases: []artifact.BuiltOn{}}
		for {
			var page server.BaseList
			if err := c.get(ctx, "/bases", query, &page); err != nil {
				return err
			}
			all.Bases = append(all.Bases, page.Bases...)
			if page.Next == "" {
				break
			}
			query.Set("after", page.Next)
		}
		return output.show(cmd, all, func(w io.Writer) {
			if none(w, len(all.Bases), "no image is known to be built on another that is here; `waybill build` records it") {
				return
			}
			t := newTable(w, "image", "base", "as", "state")
			for _, b := range all.Bases {
				t.AppendRow([]any{b.Repository.String() + "@" + shortDigest(b.Digest), b.BaseRepository.String() + "@" + shortDigest(b.BaseDigest), orDash(b.BaseTag), baseState(b)})
			}
			t.Render()
		})
	})
	return cmd
}

// baseState is what is wrong with a base.
func baseState(b artifact.BuiltOn) string {
	var all []string
	for _, s := range []struct {
		is   bool
		text string
	}{{b.Recalled, "recalled"}, {b.Denied, "denied by policy"}, {b.Gone, "deleted"}, {!b.ReplacedBy.IsZero(), "replaced by " + shortDigest(b.ReplacedBy)}} {
		if s.is {
			all = append(all, s.text)
		}
	}
	if len(all) == 0 {
		return "current"
	}
	return strings.Join(all, ", ")
}

var _ builder.StatusLog = (*buildDisplay)(nil)
