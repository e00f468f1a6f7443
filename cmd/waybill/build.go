package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/builder"
	"waybill/server"
)

func newBuild() *cobra.Command {
	var b buildFlags
	cmd := &cobra.Command{
		Use:   "build -t REPO:TAG DIR|URL|-",
		Short: "Build a folder's Dockerfile, once: the same inputs give the same digest",
		Long: `Build a folder's Dockerfile on the server. The folder is sent without what its .dockerignore names; - sends a tar archive from
standard input; a git URL, https://HOST/PATH.git#REF[:FOLDER], is fetched by the server, and the commit recorded. Inputs that
were built before are not built again: the answer is the first build's digest. Files are dated by SOURCE_DATE_EPOCH where
that is set, else by the commit that a git URL names, else 1970. The log goes to standard error; the last line of standard
output is REPO@DIGEST.`,
		Example: `  waybill build -t shop/returns:v456 --build-arg VERSION=456 .
  waybill build -t shop/returns:v456 --platform linux/amd64,linux/arm64 .
  waybill build -t shop/returns:v456 https://git.example.com/shop/returns.git#v456
  tar -c Dockerfile app | waybill build -t shop/returns:v456 -
  waybill build -t shop/returns:v456 --secret id=npmrc,src=$HOME/.npmrc .
  waybill build -t shop/returns:v456 --rebuild-check .`,
		Args: exactly(1, "DIR"),
	}
	output := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringArrayVarP(&b.tags, "tag", "t", nil, "`REPO:TAG`; may be repeated for more tags of one repository")
	flags.StringVarP(&b.dockerfile, "file", "f", "", "path of the `Dockerfile` (default DIR/Dockerfile)")
	flags.StringArrayVar(&b.args, "build-arg", nil, "`K=V`; K alone takes the value from the environment; may be repeated")
	flags.StringVar(&b.target, "target", "", "`stage` to build (default the last)")
	flags.StringVar(&b.platform, "platform", "", "`os/arch`, several with commas for an index of them (default linux/amd64)")
	flags.StringArrayVar(&b.labels, "label", nil, "`K=V`, a label of the image; may be repeated")
	flags.StringArrayVar(&b.secrets, "secret", nil, "`id=ID,src=FILE` or id=ID,env=NAME, for RUN --mount=type=secret; may be repeated")
	flags.StringArrayVar(&b.ssh, "ssh", nil, "`default` or ID=SOCKET, the agent for RUN --mount=type=ssh; with --local only")
	flags.StringVar(&b.progress, "progress", "auto", "`how` to show it: auto, tty or plain")
	flags.BoolVar(&b.local, "local", false, "build on this machine and push what comes of it")
	flags.StringVar(&b.builder, "builder", os.Getenv("BUILDKIT_HOST"), "`address` of BuildKit for --local (default: $BUILDKIT_HOST, or a private one)")
	flags.BoolVar(&b.check, "rebuild-check", false, "build again what was built before, compare the digests, and publish nothing")
	flags.StringVar(&b.source, "source", "", "`URI` of the source, for the provenance")
	flags.StringVar(&b.commit, "commit", "", "`commit` of the source, for the provenance")
	flags.StringVar(&b.tree, "tree", "", "`hash` of that commit's tree, for the provenance")
	_ = cmd.MarkFlagRequired("tag")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		var err error
		if b.tags, err = c.localAll(b.tags); err != nil {
			return err
		}
		query, err := b.query(args[0])
		if err != nil {
			return err
		}
		out, err := b.run(ctx, cmd, c, args[0], query)
		if err != nil {
			return err
		}
		if out.Check != nil {
			return showCheck(cmd, output, out)
		}
		if !out.New {
			fmt.Fprintf(cmd.ErrOrStderr(), "Built before by %s at %s: not built again\n", printable(out.BuiltBy), stamp(out.BuiltAt))
		}
		return output.show(cmd, out, func(w io.Writer) { fmt.Fprintf(w, "%s@%s\n", out.Repository, out.Digest) })
	})
	cmd.AddCommand(newBuildList(), newBuildLogs(), newBuildCancel())
	return cmd
}

type buildFlags struct {
	tags, args, labels, secrets, ssh                   []string
	progress, builder                                  string
	local                                              bool
	dockerfile, target, platform, source, commit, tree string
	inContext                                          string // path of the Dockerfile in the context
	check                                              bool
}

// run builds on the server, or here, and shows what is said meanwhile.
func (b buildFlags) run(ctx context.Context, cmd *cobra.Command, c *client, from string, query url.Values) (server.Built, error) {
	secrets, err := readSecrets(b.secrets)
	if err != nil {
		return server.Built{}, err
	}
	shown, err := newBuildDisplay(cmd.ErrOrStderr(), b.progress)
	if err != nil {
		return server.Built{}, err
	}
	defer shown.close()
	switch {
	case b.local && (from == "-" || builder.IsGit(from) || b.check):
		return server.Built{}, usagef("--local builds a folder; it takes neither -, nor a git URL, nor --rebuild-check")
	case b.local:
		return b.buildHere(ctx, c, from, query, secrets, shown)
	case len(b.ssh) > 0:
		return server.Built{}, usagef("--ssh: an agent does not leave this machine; build with --local, or give the server a key of its own with --secret")
	}
	archive := b.open(from, cmd.InOrStdin())
	defer archive.Close()
	sent := newProgress(archive, cmd.ErrOrStderr(), "Sending context", 0)
	return c.build(ctx, query, sent, secrets, shown)
}

// open gives the context as a tar stream; of a git URL there is none.
func (b buildFlags) open(from string, stdin io.Reader) io.ReadCloser {
	switch {
	case from == "-":
		return io.NopCloser(stdin)
	case builder.IsGit(from):
		return io.NopCloser(strings.NewReader(""))
	}
	return packContext(from, b.inContext)
}

// showCheck prints what a build that was made again came to; that it differs is an answer, and no success.
func showCheck(cmd *cobra.Command, output *format, out server.Built) error {
	if err := output.show(cmd, out, func(w io.Writer) {
		if out.Check.Reproducible {
			fmt.Fprintf(w, "reproducible: yes\n%s@%s\n", out.Repository, out.Digest)
			return
		}
		first := "built before: "
		if !out.Check.Before {
			first = "built first:  "
		}
		fmt.Fprintf(w, "reproducible: no\n%s%s\nbuilt now:    %s\n", first, out.Digest, out.Check.Again)
		for _, d := range out.Check.Differences {
			fmt.Fprintln(w, printable(strings.TrimSpace(d.Platform+" "+d.Path+" "+d.How)))
		}
	}); err != nil {
		return err
	}
	if !out.Check.Reproducible {
		return errors.New("the build is not reproducible")
	}
	return nil
}

// query turns flags into the API's parameters.
func (b *buildFlags) query(from string) (url.Values, error) {
	query := url.Values{}
	if err := b.context(from, query); err != nil {
		return nil, err
	}
	for _, s := range b.tags {
		ref, err := artifact.ParseReference(s)
		if err != nil || ref.Tag.IsZero() || !ref.Digest.IsZero() {
			return nil, usagef("-t %.300q: want REPO:TAG such as shop/returns:v456, without a host", s)
		}
		if first := query.Get("repository"); first != "" && first != ref.Repository.String() {
			return nil, usagef("-t names two repositories, %s and %s; one build makes an image of one", first, ref.Repository)
		}
		query.Set("repository", ref.Repository.String())
		query.Add("tag", ref.Tag.String())
	}
	for _, s := range b.args {
		name, _, given := strings.Cut(s, "=")
		if name == "" {
			return nil, usagef("--build-arg %.100q: want K=V", s)
		}
		if !given {
			value, ok := os.LookupEnv(name)
			if !ok {
				continue // as docker build does: an argument that is not set keeps its default
			}
			s = name + "=" + value
		}
		query.Add("arg", s)
	}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" && !slices.ContainsFunc(b.args, func(s string) bool { return strings.HasPrefix(s, "SOURCE_DATE_EPOCH") }) {
		query.Add("arg", "SOURCE_DATE_EPOCH="+epoch)
	}
	for _, s := range b.labels {
		if name, _, ok := strings.Cut(s, "="); !ok || name == "" {
			return nil, usagef("--label %.100q: want K=V", s)
		}
		query.Add("label", s)
	}
	if b.check {
		query.Set("check", "true")
	}
	for name, value := range map[string]string{"dockerfile": b.inContext, "target": b.target, "platform": b.platform, "source": b.source, "commit": b.commit, "tree": b.tree} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query, nil
}

// context says where the context comes from.
func (b *buildFlags) context(from string, query url.Values) error {
	b.inContext = b.dockerfile
	if from == "-" {
		return nil
	}
	if builder.IsGit(from) {
		query.Set("context", from)
		return nil
	}
	if info, err := os.Stat(from); err != nil {
		return usageError{err}
	} else if !info.IsDir() {
		return usagef("%s is not a folder", from)
	}
	var err error
	b.inContext, err = dockerfileIn(from, b.dockerfile)
	return err
}

// dockerfileIn returns the Dockerfile's path within the folder, as the API wants it. As with docker build, -f counts
// from the working folder; a path that only exists within DIR is taken from there.
func dockerfileIn(dir, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	candidates := []string{file}
	if !filepath.IsAbs(file) {
		candidates = append(candidates, filepath.Join(dir, file))
	}
	for _, path := range candidates {
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		absoluteDir, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		absolute, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		if rel, err := filepath.Rel(absoluteDir, absolute); err == nil && filepath.IsLocal(rel) {
			return filepath.ToSlash(rel), nil
		}
	}
	return "", usagef("-f %.300q: no such file in %s; the Dockerfile must be in the folder that is built", file, dir)
}

// packContext streams the folder as a tar archive while it is sent.
func packContext(dir, dockerfile string) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(builder.Pack(dir, dockerfile, w)) }()
	return r
}
