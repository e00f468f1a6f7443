package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/builder"
	"waybill/server"
)

func newBuild() *cobra.Command {
	var b buildFlags
	cmd := &cobra.Command{
		Use:   "build -t REPO:TAG DIR",
		Short: "Build a folder's Dockerfile, once: the same inputs give the same digest",
		Long: `Build a folder's Dockerfile on the server. The folder is sent without what its .dockerignore names. Inputs that were
built before are not built again: the answer is the first build's digest. The log goes to standard error; the last
line of standard output is REPO@DIGEST.`,
		Example: "  waybill build -t shop/returns:v456 --build-arg VERSION=456 .\n  waybill build -t shop/returns:v456 --secret id=npmrc,src=$HOME/.npmrc .\n  waybill build logs -f 7QZ2",
		Args:    exactly(1, "DIR"),
	}
	output := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringArrayVarP(&b.tags, "tag", "t", nil, "`REPO:TAG`; may be repeated for more tags of one repository")
	flags.StringVarP(&b.dockerfile, "file", "f", "", "path of the `Dockerfile` (default DIR/Dockerfile)")
	flags.StringArrayVar(&b.args, "build-arg", nil, "`K=V`; K alone takes the value from the environment; may be repeated")
	flags.StringVar(&b.target, "target", "", "`stage` to build (default the last)")
	flags.StringVar(&b.platform, "platform", "", "`os/arch` (default linux/amd64)")
	flags.StringArrayVar(&b.secrets, "secret", nil, "`id=ID,src=FILE` or id=ID,env=NAME, for RUN --mount=type=secret; may be repeated")
	flags.StringArrayVar(&b.ssh, "ssh", nil, "`default` or ID=SOCKET, the agent for RUN --mount=type=ssh; with --local only")
	flags.StringVar(&b.progress, "progress", "auto", "how to show it: auto, tty or plain")
	flags.BoolVar(&b.local, "local", false, "build on this machine and push what comes of it")
	flags.StringVar(&b.builder, "builder", os.Getenv("BUILDKIT_HOST"), "`address` of BuildKit for --local (default: $BUILDKIT_HOST, or a private one)")
	flags.StringVar(&b.source, "source", "", "`URI` of the source, for the provenance")
	flags.StringVar(&b.commit, "commit", "", "`commit` of the source, for the provenance")
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
		if !out.New {
			fmt.Fprintf(cmd.ErrOrStderr(), "Built before by %s at %s: not built again\n", printable(out.BuiltBy), stamp(out.BuiltAt))
		}
		return output.show(cmd, out, func(w io.Writer) { fmt.Fprintf(w, "%s@%s\n", out.Repository, out.Digest) })
	})
	cmd.AddCommand(newBuildList(), newBuildLogs(), newBuildCancel())
	return cmd
}

type buildFlags struct {
	tags, args, secrets, ssh                     []string
	dockerfile, target, platform, source, commit string
	progress, builder                            string
	local                                        bool
}

// run builds on the server, or here, and shows what is said meanwhile.
func (b buildFlags) run(ctx context.Context, cmd *cobra.Command, c *client, dir string, query url.Values) (server.Built, error) {
	secrets, err := readSecrets(b.secrets)
	if err != nil {
		return server.Built{}, err
	}
	shown, err := newBuildDisplay(cmd.ErrOrStderr(), b.progress)
	if err != nil {
		return server.Built{}, err
	}
	defer shown.close()
	if b.local {
		return b.buildHere(ctx, c, dir, query, secrets, shown)
	}
	if len(b.ssh) > 0 {
		return server.Built{}, usagef("--ssh: an agent does not leave this machine; build with --local, or give the server a key of its own with --secret")
	}
	archive := packContext(dir)
	defer archive.Close()
	sent := newProgress(archive, cmd.ErrOrStderr(), "Sending context", 0)
	return c.build(ctx, query, sent, secrets, shown)
}

// query turns flags into the API's parameters.
func (b buildFlags) query(dir string) (url.Values, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, usageError{err}
	} else if !info.IsDir() {
		return nil, usagef("%s is not a folder", dir)
	}
	query := url.Values{}
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
	file, err := dockerfileIn(dir, b.dockerfile)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"dockerfile": file, "target": b.target, "platform": b.platform, "source": b.source, "commit": b.commit} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query, nil
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
func packContext(dir string) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(builder.Pack(dir, w)) }()
	return r
}
