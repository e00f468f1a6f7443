package artifact

// Bounds of what is read for one page, whatever part of it somebody may see.
const (
	pageBatch = 1000
	pageRows  = 10_000
)

// Page reads a list on, from behind a row, until it has n rows that its reader sees, so that no page comes short for what is
// hidden between them. fetch returns the next n rows behind one, and whether there may be more. more says that another
// page may follow, behind last: the last row that is shown, or, when pageRows were read and not enough were found, the last
// that was read, which the reader may not know of.
func Page[T any](n int, after T, fetch func(after T, n int) (rows []T, more bool, err error), sees func(T) bool) (shown []T, last T, more bool, err error) {
	last = after
	for read, batch := 0, n+1; ; batch = pageBatch {
		batch = min(batch, pageRows-read)
		rows, follows, err := fetch(last, batch)
		if err != nil {
			return nil, last, false, err
		}
		for _, row := range rows {
			if sees(row) && len(shown) == n {
				return shown, shown[n-1], true, nil
			} else if sees(row) {
				shown = append(shown, row)
			}
			last = row
		}
		if read += len(rows); !follows || len(rows) == 0 || read >= pageRows {
			return shown, last, follows && len(rows) > 0, nil
		}
	}
}
