package policy

import (
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"waybill/artifact"
)

// Quantity is a number of bytes, written 500Mi, 2Gi, 1G or 1048576.
type Quantity int64

var units = []struct {
	suffix string
	bytes  int64
}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"", 1}}

// ParseQuantity parses strictly: a whole number above 0 and one of the units.
func ParseQuantity(text string) (Quantity, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n <= 0 || n > (1<<62)/u.bytes {
			break
		}
		return Quantity(n * u.bytes), nil
	}
	return 0, artifact.Errorf(artifact.Invalid, "size %.60q: want a whole number above 0 with a unit of Ki, Mi, Gi, Ti, k, M, G or T, such as 500Mi", text)
}

// UnmarshalYAML is ParseQuantity of a scalar; its error knows where that stands.
func (q *Quantity) UnmarshalYAML(n ast.Node) (err error) {
	if *q, err = ParseQuantity(n.GetToken().Value); err != nil {
		return &yaml.SyntaxError{Message: err.Error(), Token: n.GetToken()}
	}
	return nil
}

// String writes a number of bytes with three digits and a unit.
func (q Quantity) String() string {
	value := float64(q)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if value < 1024 {
			return strconv.FormatFloat(value, 'g', max(3, len(strconv.Itoa(int(value)))), 64) + " " + unit
		}
		value /= 1024
	}
	return strconv.FormatFloat(value, 'g', 4, 64) + " TiB"
}
