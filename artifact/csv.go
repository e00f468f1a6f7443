package artifact

import (
	"strings"
	"unicode"
)

// CSVLine is a line of a table as RFC 4180 has it, inert: a spreadsheet that opens it takes every cell for text, whoever
// wrote what is in it, and no terminal is driven by it.
func CSVLine(cells ...string) string {
	var b strings.Builder
	for i, cell := range cells {
		if i > 0 {
			b.WriteByte(',')
		}
		cell = InertCell(cell)
		if strings.ContainsAny(cell, ",\"\n\r") || strings.TrimSpace(cell) != cell {
			cell = `"` + strings.ReplaceAll(cell, `"`, `""`) + `"`
		}
		b.WriteString(cell)
	}
	b.WriteString("\r\n")
	return b.String()
}

// InertCell keeps a spreadsheet from running what somebody wrote as a formula: what begins like one, behind whatever white
// space, gets an apostrophe in front (OWASP, "CSV Injection"). Control characters and those that turn a line around are
// taken out.
func InertCell(cell string) string {
	cell = strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return unicode.ReplacementChar
		}
		return r
	}, cell)
	rest := strings.TrimLeftFunc(cell, unicode.IsSpace)
	if rest != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(rest)[0]) || cell != "" && strings.ContainsRune("\t\r\n", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}
