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

func newLogin() *cobra.Command {
	return &cobra.Command{
		Use:   "login URL",
		Short: "Store a server's address and a token for it",
		Long: `Store a server's address and a token for it, for the commands that follow.

The token is asked for without showing it, or read from standard input:
    waybill login http://127.0.0.1:8080 < DIR/admin.token
WAYBILL_URL and WAYBILL_TOKEN, where set, are used instead of what is stored.`,
		Args: exactly(1, "URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			base, err := cleanURL(args[0])
			if err != nil {
				return err
			}
			token, err := readToken(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			c, err := newClient()
			if err != nil {
				return err
			}
			c.base, c.token = base, token
			// Any route that asks who is there tells a good token from a bad one; 403 is a good one too.
			err = c.get(cmd.Context(), "/repositories", nil, &server.RepositoryList{})
			var refused problemError
			if err != nil && (!errors.As(err, &refused) || refused.Status != http.StatusForbidden) {
				return err
			}
			file, err := writeLogin(login{URL: base, Token: token})
			if err != nil {
				return fmt.Errorf("store the login: %w", err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "Logged in to %s; stored in %s\n", base, file)
			return nil
		},
	}
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
