package server

import (
	"fmt"
	"strings"
)

// maxRanges is how many parts of a blob one request may ask for: each costs more than its bytes. Clients ask for one.
const maxRanges = 16

// ranges makes of a request's Range header, of a blob of some size in bytes, what http.ServeContent answers as RFC 9110, section
// 14, says: the unit's name has no case, another unit than bytes and too many ranges are as if nothing had been asked for,
// and a blob has no last 0 bytes.
func ranges(header string, size int64) string {
	unit, set, ok := strings.Cut(header, "=")
	switch {
	case !ok:
		return header
	case !strings.EqualFold(strings.TrimSpace(unit), "bytes"):
		return ""
	}
	var wanted []string
	none := ""
	for one := range strings.SplitSeq(set, ",") {
		if suffix, ok := strings.CutPrefix(strings.TrimSpace(one), "-"); ok && suffix != "" && strings.Trim(suffix, "0") == "" {
			none = fmt.Sprintf("%d-", size)
			continue
		}
		if wanted = append(wanted, one); len(wanted) > maxRanges {
			return ""
		}
	}
	if none != "" && strings.TrimSpace(strings.Join(wanted, "")) == "" {
		wanted = []string{none}
	}
	return "bytes=" + strings.Join(wanted, ",")
}
