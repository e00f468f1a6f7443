package web

import (
	"net/url"
	"strconv"
)

// pages is where in a long list one is.
type pages struct {
	Number, Of     int
	From, To, All  int    // rows, from 1
	Before, Behind string // queries of the pages before and behind; empty: there is none
}

// paged cuts the page that the query asks for out of a list.
func paged[T any](all []T, size int, query url.Values) ([]T, pages) {
	return pagedBy("page", all, size, query)
}

func pagedBy[T any](name string, all []T, size int, query url.Values) ([]T, pages) {
	n, _ := strconv.Atoi(query.Get(name))
	of := max((len(all)+size-1)/size, 1)
	n = min(max(n, 1), of)
	from, to := (n-1)*size, min(n*size, len(all))
	p := pages{Number: n, Of: of, From: min(from+1, to), To: to, All: len(all)}
	other := func(n int) string {
		if n < 1 || n > of {
			return ""
		}
		q := url.Values{}
		for k, v := range query {
			q[k] = v
		}
		q.Set(name, strconv.Itoa(n))
		return "?" + q.Encode()
	}
	p.Before, p.Behind = other(n-1), other(n+1)
	return all[from:to], p
}
