package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// work is one thing to measure. prepare makes what a round needs, the same for each target, outside the measurement.
type work struct {
	name, unit string
	prepare    func(ctx context.Context, round int) (func(context.Context, target, time.Duration) (measured, error), error)
}

// measured is what one target did in one round: per second, in the work's unit, and the slowest but one in a hundred.
type measured struct {
	rate float64
	p99  time.Duration
}

// begun makes tags differ from those of an earlier run.
var begun = time.Now()

const clients = 4 // of pushes, pulls and blobs

var works = []work{
	{"manifest-digest", "/s", manifests(true)},
	{"manifest-tag", "/s", manifests(false)},
	{"cold-manifest", "/s", coldManifests(1000)},
	{"tag-list", "/s", lists("tags/list")},
	{"referrers", "/s", lists("referrers/")},
	{"blob-68MB", "GB/s", blobs(68_000_000)},
	{"push-1MB", "/s", pushes(200, 1_000_000)},
	{"push-10MB", "/s", pushes(60, 10_000_000)},
	{"pull-1MB", "/s", pulls(50, 1_000_000)},
	{"pull-10MB", "/s", pulls(12, 10_000_000)},
}

func names() []string {
	all := make([]string, len(works))
	for i, w := range works {
		all[i] = w.name
	}
	return all
}

// manifests asks for one manifest again and again, on 16 connections.
func manifests(byDigest bool) func(context.Context, int) (func(context.Context, target, time.Duration) (measured, error), error) {
	return func(_ context.Context, round int) (func(context.Context, target, time.Duration) (measured, error), error) {
		img, err := newImage(1000)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, t target, length time.Duration) (measured, error) {
			tag := fmt.Sprintf("m%d-%d", round, time.Now().UnixNano())
			if err := newClient(t).push(ctx, "bench/manifest", tag, img); err != nil {
				return measured{}, err
			}
			if err := newClient(t).promote(ctx, "bench/manifest", tag); err != nil {
				return measured{}, err
			}
			if byDigest {
				tag = img.manifest.digest
			}
			return gets(ctx, t, "/v2/bench/manifest/manifests/"+tag, 16, length, false)
		}, nil
	}
}

// coldManifests asks for each of many manifests once: whatever a server remembers, it has to look.
func coldManifests(n int) func(context.Context, int) (func(context.Context, target, time.Duration) (measured, error), error) {
	return func(_ context.Context, round int) (func(context.Context, target, time.Duration) (measured, error), error) {
		images, err := newImages(n, 1000)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, t target, _ time.Duration) (measured, error) {
			repository := fmt.Sprintf("bench/cold-%d-%d", begun.Unix(), round)
			if _, err := each(images, func(c *client, i int) error { return c.push(ctx, repository, fmt.Sprint("v", i), images[i]) }, t); err != nil {
				return measured{}, err
			}
			return each(images, func(c *client, i int) error {
				answer, err := c.do(ctx, t.puller, "GET", "/v2/"+repository+"/manifests/"+images[i].manifest.digest, nil, "", 200)
				if err != nil {
					return err
				}
				return drain(answer)
			}, t)
		}, nil
	}
}

// lists asks for the tags of a repository that has ten, or for what refers to one of its images.
func lists(what string) func(context.Context, int) (func(context.Context, target, time.Duration) (measured, error), error) {
	return func(_ context.Context, round int) (func(context.Context, target, time.Duration) (measured, error), error) {
		images, err := newImages(10, 1000)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, t target, length time.Duration) (measured, error) {
			repository := fmt.Sprintf("bench/%s%d-%d", strings.ReplaceAll(what, "/", "-"), begun.Unix(), round)
			if _, err := each(images, func(c *client, i int) error { return c.push(ctx, repository, fmt.Sprint("v", i), images[i]) }, t); err != nil {
				return measured{}, err
			}
			path := what
			if what == "referrers/" {
				path += images[0].manifest.digest
			}
			return gets(ctx, t, "/v2/"+repository+"/"+path, clients, length, false)
		}, nil
	}
}

func blobs(size int) func(context.Context, int) (func(context.Context, target, time.Duration) (measured, error), error) {
	blob := sync.OnceValue(func() content { return contentOf(randomBytes(size)) })
	return func(context.Context, int) (func(context.Context, target, time.Duration) (measured, error), error) {
		b := blob()
		return func(ctx context.Context, t target, length time.Duration) (measured, error) {
			if err := newClient(t).pushBlob(ctx, "bench/blob", b); err != nil {
				return measured{}, err
			}
			return gets(ctx, t, "/v2/bench/blob/blobs/"+b.digest, clients, length, true)
		}, nil
	}
}

// gets asks on some connections for a while; the rate is of requests, or of bytes.
func gets(ctx context.Context, t target, path string, connections int, length time.Duration, bytes bool) (measured, error) {
	var done, total atomic.Int64
	return together(connections, func(int) ([]time.Duration, error) {
		conn, err := dial(t, path)
		if err != nil {
			return nil, err
		}
		defer conn.close()
		var took []time.Duration
		for end := time.Now().Add(length); time.Now().Before(end) && ctx.Err() == nil; {
			begun := time.Now()
			n, err := conn.get()
			if err != nil {
				return nil, err
			}
			took = append(took, time.Since(begun))
			done.Add(1)
			total.Add(n)
		}
		return took, nil
	}, func() float64 {
		if bytes {
			return float64(total.Load())
		}
		return float64(done.Load())
	})
}

// together runs n workers and divides what they did by the time they took.
func together(n int, work func(i int) ([]time.Duration, error), amount func() float64) (measured, error) {
	var (
		group sync.WaitGroup
		took  = make([][]time.Duration, n)
		errs  = make([]error, n)
	)
	begun := time.Now()
	for i := range n {
		group.Go(func() { took[i], errs[i] = work(i) })
	}
	group.Wait()
	elapsed := time.Since(begun)
	for _, err := range errs {
		if err != nil {
			return measured{}, err
		}
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	m := measured{rate: amount() / elapsed.Seconds()}
	if len(all) > 0 {
		m.p99 = all[len(all)*99/100]
	}
	return m, nil
}

// pushes is the pushing of images that nobody has seen.
func pushes(n, size int) func(context.Context, int) (func(context.Context, target, time.Duration) (measured, error), error) {
	return func(_ context.Context, round int) (func(context.Context, target, time.Duration) (measured, error), error) {
		images, err := newImages(n, size)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, t target, _ time.Duration) (measured, error) {
			repository := func(i int) string { return fmt.Sprintf("bench/push-%d", i%clients) }
			m, err := each(images, func(c *client, i int) error {
				return c.push(ctx, repository(i), fmt.Sprintf("%d-%d-%d-%d", begun.Unix(), size, round, i), images[i])
			}, t)
			if err != nil {
				return m, err
			}
			return m, settle(ctx, t, repository, images, false)
		}, nil
	}
}

// pulls is the pulling of images that were pushed before the measurement begins.
func pulls(n, size int) func(context.Context, int) (func(context.Context, target, time.Duration) (measured, error), error) {
	return func(_ context.Context, round int) (func(context.Context, target, time.Duration) (measured, error), error) {
		images, err := newImages(n, size)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, t target, length time.Duration) (measured, error) {
			tag := func(i int) string { return fmt.Sprintf("%d-%d-%d-%d", begun.Unix(), size, round, i) }
			if _, err := each(images, func(c *client, i int) error {
				if err := c.push(ctx, "bench/pull", tag(i), images[i]); err != nil {
					return err
				}
				return c.promote(ctx, "bench/pull", tag(i))
			}, t); err != nil {
				return measured{}, err
			}
			if err := settle(ctx, t, func(int) string { return "bench/pull" }, images, true); err != nil {
				return measured{}, err
			}
			var done atomic.Int64
			end := time.Now().Add(length)
			return together(clients, func(worker int) ([]time.Duration, error) {
				c := newClient(t)
				var took []time.Duration
				for i := worker; time.Now().Before(end); i = (i + 1) % n {
					begun := time.Now()
					if _, err := c.pull(ctx, "bench/pull", tag(i), images[i]); err != nil {
						return nil, err
					}
					took = append(took, time.Since(begun))
					done.Add(1)
				}
				return took, nil
			}, func() float64 { return float64(done.Load()) })
		}, nil
	}
}

// each does something with every image, some at a time.
func each(images []image, act func(c *client, i int) error, t target) (measured, error) {
	var next atomic.Int64
	return together(clients, func(int) ([]time.Duration, error) {
		c := newClient(t)
		var took []time.Duration
		for {
			i := int(next.Add(1)) - 1
			if i >= len(images) {
				return took, nil
			}
			begun := time.Now()
			if err := act(c, i); err != nil {
				return nil, err
			}
			took = append(took, time.Since(begun))
		}
	}, func() float64 { return float64(len(images)) })
}
