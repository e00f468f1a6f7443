package postgres_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/postgres"
	"waybill/postgres/pgtest"
)

// large are the tables that grow with what is pushed.
var large = []string{"repositories", "blobs", "repository_blobs", "uploads", "manifests", "manifest_references", "tags", "tag_history", "layer_facts", "layer_analyses",
	"scans", "findings", "verdicts", "signatures", "attestations", "promotions", "deployments", "grants", "ledger_entries", "ledger_hashes", "ledger_checkpoints", "ledger_cosignatures", "builds", "pull_days", "build_runs", "build_logs", "build_bases"}

// whole are statements that read all of a large table, with why they may: a part of their text, and the reason.
var whole = map[string]string{
	"select name from repositories where exists":                                "the catalog of all repositories",
	"select distinct repository, digest, digest from deployments":               "the board shows every environment of every service",
	"on p.id = d.promotion order by d.repository":                               "an audit reads everything",
	"select g.repository, g.environment, g.root, g.digest from grants g":        "an audit reads everything",
	"from signatures where predicate = '' and signed_at is not null order by":   "an audit reads everything",
	"from manifests m where (m.is_image or m.is_index) and not exists":          "an audit reads everything",
	"from promotions order by id":                                               "an audit reads everything",
	"select size, note from ledger_checkpoints order by size":                   "an audit reads everything",
	"select note from ledger_checkpoints order by size desc limit 1":            "the last one, by the primary key",
	"from ledger_cosignatures order by size desc limit 1000":                    "the newest thousand, by the primary key",
	"select size from ledger_cosignatures order by size desc limit":             "the last thousand, by the primary key",
	"select exists (select from ledger_entries)":                                "whether there is any",
	"from repository_blobs b join blobs using (digest) where linked_at < now()": "a dry run of garbage collection reads everything",
	"from blobs b where created_at < now() - $1::interval and not exists":       "a dry run of garbage collection reads everything",
	"select coalesce(sum(size), 0) from blobs":                                  "the total quota counts what there is, every half minute at most",
	"select coalesce(sum(offset_), 0) from uploads":                             "uploads under way are few",
	"select count(*), coalesce(sum(size), 0)::bigint from blobs":                "a check of all blobs says how many there are",
	"with links as materialized (select digest, count(*) as n":                  "what is stored is counted beside whoever asks, a fiftieth of the time at most",
	"on p.id = d.promotion;":                                                    "deployment() adds which",
}

var parameter = regexp.MustCompile(`\$(\d+)`)

// TestPlans: however large the tables are, every statement of this package finds its rows by an index.
func TestPlans(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	statements := statements(t)
	require.Greater(t, len(statements), 80)
	for _, sql := range statements {
		for _, scan := range scans(t, db, sql) {
			if !slices.ContainsFunc(sortedKeys(whole), func(part string) bool { return strings.Contains(squeeze(sql)+";", part) }) {
				t.Errorf("%s\nin %s", scan, squeeze(sql))
			}
		}
	}
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func squeeze(sql string) string { return strings.Join(strings.Fields(sql), " ") }

// plan is a node of PostgreSQL's EXPLAIN (FORMAT JSON).
type plan struct {
	Type     string `json:"Node Type"`
	Relation string `json:"Relation Name"`
	Cond     string `json:"Index Cond"`
	Plans    []plan
}

// scans returns the scans of whole large tables that a statement needs.
func scans(t *testing.T, db *postgres.DB, sql string) []string {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() {
		_, _ = tx.Exec(t.Context(), "deallocate statement", pgx.QueryExecModeSimpleProtocol)
		_ = tx.Rollback(t.Context())
	}()
	most := 0
	for _, p := range parameter.FindAllStringSubmatch(sql, -1) {
		n, _ := strconv.Atoi(p[1])
		most = max(most, n)
	}
	arguments := ""
	if most > 0 {
		arguments = "(" + strings.TrimSuffix(strings.Repeat("null,", most), ",") + ")"
	}
	for _, set := range []string{"set local enable_seqscan = off", "set local plan_cache_mode = force_generic_plan", "prepare statement as " + sql} {
		_, err := tx.Exec(t.Context(), set, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, "%s", squeeze(sql))
	}
	var text []byte
	require.NoError(t, tx.QueryRow(t.Context(), "explain (format json) execute statement"+arguments, pgx.QueryExecModeSimpleProtocol).Scan(&text), "%s", squeeze(sql))
	var explained []struct{ Plan plan }
	require.NoError(t, json.Unmarshal(text, &explained))
	var found []string
	var walk func(plan)
	walk = func(p plan) {
		if slices.Contains(large, p.Relation) && p.Cond == "" && (p.Type == "Seq Scan" || p.Type == "Index Scan" || p.Type == "Index Only Scan") {
			found = append(found, fmt.Sprintf("%s of all of %s", p.Type, p.Relation))
		}
		for _, below := range p.Plans {
			walk(below)
		}
	}
	for _, e := range explained {
		walk(e.Plan)
	}
	return found
}

var verb = regexp.MustCompile(`(?i)^\s*(select|insert|update|delete|with)\s`)

// statements reads this package's source for SQL: string constants, put together where they are.
func statements(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var files []*ast.File
	for _, path := range paths {
		if !strings.HasSuffix(path, "_test.go") {
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			require.NoError(t, err)
			files = append(files, f)
		}
	}
	constants := map[string]ast.Expr{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == len(spec.Names) {
				for i, name := range spec.Names {
					constants[name.Name] = spec.Values[i]
				}
			}
			return true
		})
	}
	var text func(ast.Expr) string
	text = func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			if e.Kind == token.STRING {
				s, _ := strconv.Unquote(e.Value)
				return s
			}
		case *ast.BinaryExpr:
			return text(e.X) + text(e.Y)
		case *ast.Ident:
			if value, ok := constants[e.Name]; ok {
				return text(value)
			}
		}
		return ""
	}
	var all []string
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			switch e.(type) {
			case *ast.BasicLit, *ast.BinaryExpr:
				if sql := text(e); verb.MatchString(sql) && !slices.Contains(all, sql) {
					all = append(all, sql)
				}
				return false
			}
			return true
		})
	}
	slices.Sort(all)
	// What others begin with is a part of them.
	return slices.DeleteFunc(all, func(sql string) bool {
		return slices.ContainsFunc(all, func(other string) bool { return other != sql && strings.HasPrefix(other, sql) })
	})
}
