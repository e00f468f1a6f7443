package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who knows how long it took to tell that a guess is wrong can guess on, byte by byte. So what is secret is compared in constant time: by
// crypto/subtle, or hmac.Equal.

// guarded are the packages that hold what somebody may guess.
var guarded = []string{"auth", "server", "web", "cmd/waybill"}

// secrets are the names of what may be guessed: of a variable, a field, a function that returns it, or a form's or query's field; also as
// the end of a longer name.
var secrets = regexp.MustCompile(`(?i)(secret|password|passphrase|token|csrf|nonce|verifier|cookie|credential|authorization|hash|hashof|mac|signature|^state)$`)

// public are comparisons in which something is called like a secret and is none: a file, what is compared, and why.
var public = map[string]string{
	"auth/auth.go: checksum() with token":                "the checksum of what was sent with its end: the one that is valid plays no part",
	"web/builds.go: s.state with state":                  "a build's",
	"web/policies.go: current[].Hash with parsed.Hash()": "a policy's, which whoever sees that page reads",
}

// comparisons are functions that take as long as two values are alike.
var comparisons = []string{"bytes.Equal", "bytes.Compare", "bytes.EqualFold", "bytes.HasPrefix", "strings.EqualFold", "strings.Compare", "strings.HasPrefix", "cmp.Compare", "slices.Equal", "slices.Compare",
	"slices.Contains", "slices.Index", "reflect.DeepEqual", "maps.Equal"}

// TestSecretsInConstantTime: no secret is compared in a time that says how much of a guess was right.
func TestSecretsInConstantTime(t *testing.T) {
	t.Parallel()
	constant, used := 0, map[string]bool{}
	for _, folder := range guarded {
		paths, err := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, paths, folder)
		found, good := compared(t, slices.DeleteFunc(paths, func(path string) bool { return strings.HasSuffix(path, "_test.go") })...)
		constant += good
		for _, one := range found {
			file := folder + "/" + filepath.Base(one.at.Filename)
			if key := file + ": " + one.what; public[key] == "" {
				t.Errorf("%s:%d: %s takes a time that tells how much of it was right: use crypto/subtle; or say in public, here, why it is no secret", file, one.at.Line, one.what)
			} else {
				used[key] = true
			}
		}
	}
	for key := range public {
		require.True(t, used[key], "%s is compared nowhere any more: take it from public", key)
	}
	require.Greater(t, constant, 5, "comparisons in constant time are found no more: is this test blind?")
}

// TestSecretsAreFound: what the test above is to find, it does, and nothing else. Lines of the file say which they are.
func TestSecretsAreFound(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "secrets", "compared.go")
	source, err := os.ReadFile(path)
	require.NoError(t, err)
	found, good := compared(t, path)
	require.Equal(t, 3, good)
	var want, got []int
	for i, line := range strings.Split(string(source), "\n") {
		if strings.HasSuffix(line, "// leaks") {
			want = append(want, i+1)
		}
	}
	for _, one := range found {
		got = append(got, one.at.Line)
	}
	require.NotEmpty(t, want)
	require.Equal(t, want, slices.Compact(got))
}

// comparison is one of a secret that takes a time which tells about it.
type comparison struct {
	at   token.Position
	what string
}

// compared returns such comparisons of a package's files, in order, and how many there are in constant time.
func compared(t *testing.T, paths ...string) (found []comparison, constant int) {
	t.Helper()
	files, decls, given := token.NewFileSet(), []ast.Decl{}, given{}
	for _, path := range paths {
		f, err := parser.ParseFile(files, path, nil, 0)
		require.NoError(t, err)
		decls = append(decls, f.Decls...)
	}
	for _, d := range decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			given[f.Name.Name] = map[int]bool{}
		}
	}
	for before := -1; before != given.size(); {
		before, found, constant = given.size(), nil, 0
		for _, d := range decls {
			w := watch{files: files, holds: given.to(d), given: given}
			ast.Inspect(d, w.see)
			found, constant = append(found, w.found...), constant+w.constant
		}
	}
	return found, constant
}

// given says to which parameters of a package's functions, by name, secrets are given somewhere.
type given map[string]map[int]bool

func (g given) size() (n int) {
	for _, some := range g {
		n += len(some)
	}
	return n
}

// to returns the names of those of a function.
func (g given) to(d ast.Decl) map[string]bool {
	holds, i := map[string]bool{}, 0
	if f, ok := d.(*ast.FuncDecl); ok {
		for _, field := range f.Type.Params.List {
			for _, name := range field.Names {
				if g[f.Name.Name][i] {
					holds[name.Name] = true
				}
				i++
			}
		}
	}
	return holds
}

// watch goes over one declaration.
type watch struct {
	files    *token.FileSet
	holds    map[string]bool // variables that a secret was assigned to, whatever they are called
	given    given
	found    []comparison
	constant int
}

func (w *watch) see(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.AssignStmt:
		for i, to := range n.Lhs {
			if id, ok := to.(*ast.Ident); ok && len(n.Lhs) == len(n.Rhs) && w.secret(n.Rhs[i]) {
				w.holds[id.Name] = true
			}
		}
	case *ast.BinaryExpr:
		if n.Op == token.EQL || n.Op == token.NEQ || n.Op == token.LSS || n.Op == token.GTR {
			w.compare(n, n.X, n.Y)
		}
	case *ast.CallExpr:
		name := text(n.Fun)
		if name == "subtle.ConstantTimeCompare" || name == "hmac.Equal" {
			w.constant++
		} else if slices.Contains(comparisons, name) && len(n.Args) == 2 {
			w.compare(n, n.Args[0], n.Args[1])
		}
		if id, ok := n.Fun.(*ast.Ident); ok && w.given[id.Name] != nil {
			for i, a := range n.Args {
				if w.secret(a) {
					w.given[id.Name][i] = true
				}
			}
		}
	case *ast.SwitchStmt:
		for _, clause := range n.Body.List {
			for _, one := range clause.(*ast.CaseClause).List {
				if n.Tag != nil {
					w.compare(one, n.Tag, one)
				}
			}
		}
	}
	return true
}

// compare notes a comparison of a secret with what is not written here already.
func (w *watch) compare(at ast.Node, x, y ast.Expr) {
	if !known(x) && !known(y) && (w.secret(x) || w.secret(y)) {
		w.found = append(w.found, comparison{w.files.Position(at.Pos()), fmt.Sprintf("%s with %s", text(x), text(y))})
	}
}

// known reports whether a value is in the source for everybody to read: a literal, nil, a word of the domain; or no more than a length.
func known(e ast.Expr) bool {
	switch e := bare(e).(type) {
	case *ast.BasicLit:
		return true
	case *ast.Ident:
		return e.Name == "nil" || e.Name == "true" || e.Name == "false"
	case *ast.SelectorExpr:
		return text(e.X) == "artifact"
	case *ast.CallExpr:
		return text(e.Fun) == "len"
	}
	return false
}

// secret reports whether an expression is one, or is made of one only by another spelling of its bytes.
func (w *watch) secret(e ast.Expr) bool {
	switch e := bare(e).(type) {
	case *ast.Ident:
		return w.holds[e.Name] || secrets.MatchString(e.Name)
	case *ast.SelectorExpr:
		return secrets.MatchString(e.Sel.Name)
	case *ast.CallExpr:
		if name := text(e.Fun); name == "len" || strings.HasPrefix(name, "subtle.") {
			return false
		}
		for _, a := range e.Args {
			if lit, ok := a.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if field, err := strconv.Unquote(lit.Value); err == nil && secrets.MatchString(field) {
					return true
				}
			}
		}
		return secrets.MatchString(text(e.Fun)) || spells(e) && slices.ContainsFunc(e.Args, w.secret)
	}
	return false
}

// spells reports whether a call gives the bytes of its argument, or a hash of them, back.
func spells(e *ast.CallExpr) bool {
	return slices.Contains([]string{"strings.TrimSpace", "strings.TrimPrefix", "strings.TrimSuffix", "strings.ToLower", "hex.EncodeToString", "bytes.TrimSpace",
		"sha256.Sum256", "sha512.Sum512", "bytes.Clone", "strings.Clone", "fmt.Sprint"}, text(e.Fun)) || strings.HasSuffix(text(e.Fun), "EncodeToString")
}

// bare takes away what does not change bytes: parentheses, conversions, slices of all, references.
func bare(e ast.Expr) ast.Expr {
	for {
		switch wrapped := e.(type) {
		case *ast.ParenExpr:
			e = wrapped.X
		case *ast.SliceExpr:
			e = wrapped.X
		case *ast.StarExpr:
			e = wrapped.X
		case *ast.UnaryExpr:
			e = wrapped.X
		case *ast.CallExpr:
			_, array := wrapped.Fun.(*ast.ArrayType)
			if id, ok := wrapped.Fun.(*ast.Ident); len(wrapped.Args) != 1 || !array && !(ok && id.Name == "string") {
				return e
			}
			e = wrapped.Args[0]
		default:
			return e
		}
	}
}

// text is an expression as it is written, without what is between brackets.
func text(e ast.Expr) string {
	switch e := bare(e).(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return text(e.X) + "." + e.Sel.Name
	case *ast.CallExpr:
		return text(e.Fun) + "()"
	case *ast.IndexExpr:
		return text(e.X) + "[]"
	case *ast.BasicLit:
		return e.Value
	}
	return fmt.Sprintf("%T", e)
}
