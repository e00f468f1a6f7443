package web

import (
	"fmt"
	"slices"

	"waybill/artifact"
)

// A treemap is drawn on a plane of these units; the browser scales it.
const (
	mapWidth  = 1000
	mapHeight = 400
	mapGap    = 4  // between layers
	mapHead   = 18 // of a layer's name
)

// treemap is an image's layers and what is in them, each as large as its bytes are.
type treemap struct {
	Width, Height int
	Layers        []box
}

// box is a rectangle of a treemap.
type box struct {
	X, Y, W, H float64
	Label      string // empty: there is no room for it
	Title      string // what it is, in full
	Wasted     bool   // a later layer hides all of it
	Tone       int    // 0 to 5, to tell layers apart
	Inside     []box
}

// draw makes the treemap of the layers' trees; nil when they are empty.
func draw(trees []artifact.LayerTree) *treemap {
	m := &treemap{Width: mapWidth, Height: mapHeight}
	var weights []float64
	var which []int
	for i, t := range trees {
		if t.Added.Bytes > 0 {
			weights, which = append(weights, float64(t.Added.Bytes)), append(which, i)
		}
	}
	if len(weights) == 0 {
		return nil
	}
	order := heaviest(weights)
	for at, r := range squarify(pick(weights, order), rect{0, 0, mapWidth, mapHeight}) {
		i := which[order[at]]
		t := trees[i]
		b := r.inset(mapGap / 2).box()
		b.Tone = i % 6
		b.Title = fmt.Sprintf("layer %d: %s, of which %s wasted", i+1, size(t.Added.Bytes), size(t.Hidden.Bytes))
		b.Label = fits(fmt.Sprintf("%d · %s", i+1, size(t.Added.Bytes)), b.W, 8)
		inner := rect{b.X, b.Y, b.W, b.H}
		if b.Label != "" && b.H > 2*mapHead {
			inner.y, inner.h = inner.y+mapHead, inner.h-mapHead
		} else {
			b.Label = ""
		}
		b.Inside = leaves(t.Tree, inner, t.Added.Bytes)
		m.Layers = append(m.Layers, b)
	}
	return m
}

// A layer is opened up, heaviest folder first, into so many parts at most, each of which has so much of it at least.
const (
	mapParts = 28
	mapShare = 0.05
)

// leaves are the files and folders of a layer.
func leaves(nodes []artifact.TreeNode, within rect, total int64) []box {
	shown := opened(nodes, total)
	weights := make([]float64, len(shown))
	for i, n := range shown {
		weights[i] = float64(n.Added.Bytes)
	}
	var all []box
	order := heaviest(weights)
	for at, r := range squarify(pick(weights, order), within) {
		n := shown[order[at]]
		b := r.inset(0.75).box()
		if b.W < 1.5 || b.H < 1.5 {
			continue
		}
		b.Wasted = n.Hidden.Bytes > 0 && n.Hidden.Bytes*2 >= n.Added.Bytes
		b.Title = n.Name + ": " + size(n.Added.Bytes)
		if n.Hidden.Bytes > 0 {
			b.Title += ", of which " + size(n.Hidden.Bytes) + " wasted"
		}
		if b.H >= 16 {
			b.Label = fits(n.Name, b.W, 7)
		}
		all = append(all, b)
	}
	return all
}

// opened lists a layer's files and folders, named by their paths, and last what is not listed, so that all of them are
// the layer.
func opened(nodes []artifact.TreeNode, total int64) []artifact.TreeNode {
	all, rest := []artifact.TreeNode{}, total
	add := func(below string, nodes []artifact.TreeNode) (sum int64) {
		for _, n := range nodes {
			if n.Name = below + n.Name; n.Added.Bytes > 0 {
				all, sum = append(all, descend(n)), sum+n.Added.Bytes
			}
		}
		return sum
	}
	rest -= add("", nodes)
	for len(all) < mapParts {
		at := -1
		for i, n := range all {
			if len(n.Children) > 0 && float64(n.Added.Bytes) > mapShare*float64(total) && (at < 0 || n.Added.Bytes > all[at].Added.Bytes) {
				at = i
			}
		}
		if at < 0 {
			break
		}
		folder := all[at]
		all = slices.Delete(all, at, at+1)
		if left := folder.Added.Bytes - add(folder.Name+"/", folder.Children); left > 0 {
			all = append(all, artifact.TreeNode{Name: folder.Name + "/…", Added: artifact.Sum{Bytes: left}})
		}
	}
	if rest > 0 {
		all = append(all, artifact.TreeNode{Name: "all else", Added: artifact.Sum{Bytes: rest}})
	}
	return all
}

// descend names a folder with one folder in it by both: usr/lib says more than usr.
func descend(n artifact.TreeNode) artifact.TreeNode {
	for len(n.Children) == 1 && n.More == 0 {
		child := n.Children[0]
		child.Name = n.Name + "/" + child.Name
		n = child
	}
	return n
}

// fits is the text, or as much of it as a width has room for; empty when that says nothing.
func fits(text string, width, letter float64) string {
	letters, room := []rune(text), int((width-8)/letter)
	switch {
	case len(letters) <= room:
		return text
	case room < 4:
		return ""
	}
	return string(letters[:room-1]) + "…"
}

type rect struct{ x, y, w, h float64 }

func (r rect) inset(by float64) rect {
	return rect{r.x + by, r.y + by, max(r.w-2*by, 0), max(r.h-2*by, 0)}
}

func (r rect) box() box { return box{X: r.x, Y: r.y, W: r.w, H: r.h} }

func heaviest(weights []float64) []int {
	order := make([]int, len(weights))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case weights[a] > weights[b]:
			return -1
		case weights[a] < weights[b]:
			return 1
		}
		return 0
	})
	return order
}

func pick(weights []float64, order []int) []float64 {
	all := make([]float64, len(order))
	for i, at := range order {
		all[i] = weights[at]
	}
	return all
}

// squarify cuts a rectangle into parts of the given weights, the heaviest first, that are as square as they can be:
// Bruls, Huizing and van Wijk, "Squarified Treemaps", 2000.
func squarify(weights []float64, r rect) []rect {
	total := 0.0
	for _, w := range weights {
		total += w
	}
	var all []rect
	for len(weights) > 0 && total > 0 && r.w > 0 && r.h > 0 {
		side, scale := min(r.w, r.h), r.w*r.h/total
		n, sum := 1, weights[0]
		for n < len(weights) && worst(weights[:n+1], sum+weights[n], side, scale) <= worst(weights[:n], sum, side, scale) {
			sum += weights[n]
			n++
		}
		thick := sum * scale / side
		along := 0.0
		for _, w := range weights[:n] {
			long := w * scale / thick
			if r.w >= r.h {
				all = append(all, rect{r.x, r.y + along, thick, long})
			} else {
				all = append(all, rect{r.x + along, r.y, long, thick})
			}
			along += long
		}
		if r.w >= r.h {
			r.x, r.w = r.x+thick, r.w-thick
		} else {
			r.y, r.h = r.y+thick, r.h-thick
		}
		weights, total = weights[n:], total-sum
	}
	return all
}

// worst is the least square ratio of a row's parts, the greater of width to height and height to width.
func worst(row []float64, sum, side, scale float64) float64 {
	thick, bad := sum*scale/side, 0.0
	for _, w := range row {
		long := w * scale / thick
		bad = max(bad, thick/long, long/thick)
	}
	return bad
}
