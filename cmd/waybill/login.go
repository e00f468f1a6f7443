package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"waybill/artifact"
	"waybill/server"
)

// defaultURL is where `waybill serve` listens unless told otherwise.
const defaultURL = "http://127.0.0.1:8080"

// login is what `waybill login` stores, readable by its user alone.
type login struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

func loginFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the login: %w; set WAYBILL_URL and WAYBILL_TOKEN instead", err)
	}
	return filepath.Join(dir, "waybill", "login.json"), nil
}

// readLogin returns the stored login, and an empty one when there is none or no place for one.
func readLogin() (login, error) {
	var l login
	file, err := loginFile()
	if err != nil {
		return l, nil //nolint:nilerr // without a home there is no login; the environment may have all that is needed
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("read the stored login: %w", err)
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, fmt.Errorf("%s is not a login; run `waybill login URL` again", file)
	}
	return l, nil
}

// writeLogin replaces the stored login at once: a crash leaves the old one or the new one.
func writeLogin(l login) (string, error) {
	file, err := loginFile()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	b, err := json.Marshal(l)
	if err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".login-*") // made 0600
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return "", err
	}
	return file, os.Rename(tmp.Name(), file)
}

// loginFlags are the ways to sign in; none of them is a person's, where the server offers that, or a token.
type loginFlags struct {
	workload, browser, device, token, print bool
	idTokenFile, audience                   string
}

func newLogin() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login URL",
		Short: "Sign in to a server, and store what the commands that follow need",
		Long: `Sign in to a server, and store its address and a token for the commands that follow.

On a terminal it signs a person in with a browser, where the server offers that, and else asks for a token without
showing it. A token is read from standard input where that is no terminal:
    waybill login http://127.0.0.1:8080 < DIR/admin.token
A job in GitHub Actions, GitLab CI or Kubernetes signs in as what it is, without a stored secret, for ten minutes:
    waybill login --workload https://registry.example.com
    waybill login --workload --print URL | docker login -u oidc --password-stdin HOST
WAYBILL_URL and WAYBILL_TOKEN, where set, are used instead of what is stored.`,
		Args: exactly(1, "URL"),
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.workload, "workload", false, "sign in as the job that this runs in")
	flags.StringVar(&f.idTokenFile, "id-token-file", "", "`file` with an OpenID Connect ID token to sign in with")
	flags.StringVar(&f.audience, "audience", "", "`audience` to ask the runner's issuer for (default as the server says)")
	flags.BoolVar(&f.browser, "browser", false, "sign in with a browser on this machine; the default on a terminal, where the server offers it")
	flags.BoolVar(&f.device, "device", false, "sign in with a code that is entered on another machine")
	flags.BoolVar(&f.token, "token", false, "ask for a token, also where the server offers sign-in with a browser")
	flags.BoolVar(&f.print, "print", false, "print the token instead of storing it")
	cmd.MarkFlagsMutuallyExclusive("workload", "browser", "device", "token")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		base, err := cleanURL(args[0])
		if err != nil {
			return err
		}
		c, err := newClient()
		if err != nil {
			return err
		}
		c.base, c.token = base, ""
		if c.token, err = f.signIn(cmd, c); err != nil {
			return err
		}
		if f.print {
			fmt.Fprintln(cmd.OutOrStdout(), c.token)
			return nil
		}
		// Any route that asks who is there tells a good token from a bad one; 403 is a good one too.
		err = c.get(cmd.Context(), "/repositories", nil, &server.RepositoryList{})
		var refused problemError
		if err != nil && (!errors.As(err, &refused) || refused.Status != http.StatusForbidden) {
			return err
		}
		file, err := writeLogin(login{URL: base, Token: c.token})
		if err != nil {
			return fmt.Errorf("store the login: %w", err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "Logged in to %s; stored in %s\n", base, file)
		return nil
	}
	return cmd
}

// signIn returns a token of the server, got in the way that the flags say.
func (f loginFlags) signIn(cmd *cobra.Command, c *client) (string, error) {
	in, tell := cmd.InOrStdin(), cmd.ErrOrStderr()
	asFile, isFile := in.(*os.File)
	terminal := isFile && term.IsTerminal(int(asFile.Fd()))
	workloads := f.workload || f.idTokenFile != ""
	if !workloads && !f.device && !f.browser && (f.token || !terminal) {
		return readToken(in, tell)
	}
	var offered server.SignIn
	if err := c.get(cmd.Context(), "/identity", nil, &offered); err != nil {
		return "", err
	}
	var idToken string
	var err error
	switch {
	case workloads:
		idToken, err = workload{f.idTokenFile, f.audience}.idToken(cmd.Context(), c, offered)
	case offered.People != nil:
		idToken, err = personToken(cmd.Context(), *offered.People, f.device, tell)
	case f.device || f.browser:
		err = usagef("the server does not offer sign-in to people; use a token")
	default:
		return readToken(in, tell)
	}
	if err != nil {
		return "", err
	}
	out, err := c.exchange(cmd.Context(), idToken)
	if err == nil {
		fmt.Fprintf(tell, "%s has role %s until %s\n", printable(out.Principal), (artifact.Principal{Role: out.Role, More: out.More}).Roles(), stamp(out.ExpiresAt))
	}
	return out.Secret, err
}

func newLogout() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Forget the stored login",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := loginFile()
			if err != nil {
				return err
			}
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "Logged out; the token itself is valid until it expires or is revoked")
			return nil
		},
	}
}

// readToken asks for a token on a terminal without echo, and else reads the first line.
func readToken(in io.Reader, prompt io.Writer) (string, error) {
	var line string
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(prompt, "Token: ")
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(prompt)
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		line = string(b)
	} else {
		var err error
		if line, err = bufio.NewReader(io.LimitReader(in, 4<<10)).ReadString('\n'); err != nil && err != io.EOF {
			return "", fmt.Errorf("read the token: %w", err)
		}
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", usagef("no token on standard input; a server's first one is in DIR/admin.token")
	}
	return line, nil
}
