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
	p := pageOf(name, len(all), size, query)
	return all[max(p.From-1, 0):p.To], p
}

// behind is how many rows come before the page that the query asks for, of a list that the database cuts.
func behind(name string, size int, query url.Values) int {
	n, _ := strconv.Atoi(query.Get(name))
	return (min(max(n, 1), maxPage) - 1) * size
}

// maxPage is the last page that anybody may ask for.
const maxPage = 100_000

// pageOf says where the page that the query asks for is in a list of so many rows.
func pageOf(name string, all, size int, query url.Values) pages {
	n, _ := strconv.Atoi(query.Get(name))
	of := max((all+size-1)/size, 1)
	n = min(max(n, 1), of)
	from, to := (n-1)*size, min(n*size, all)
	p := pages{Number: n, Of: of, From: min(from+1, to), To: to, All: all}
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
	return p
}

// at makes the links good on a page that answers a form, which was sent to another path.
func (p pages) at(path string) pages {
	for _, link := range []*string{&p.Before, &p.Behind} {
		if *link != "" {
			*link = path + *link
		}
	}
	return p
}
