// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/peer"
	"github.com/seekoci/seekoci/benchmark/internal/stat"
	"github.com/seekoci/seekoci/ztoc"
)

// randomReads is how many pages are read, each of them cold.
const randomReads = 100

// randoms are the figures of one way to read pages at random: means of each round.
type randoms struct {
	seconds, bytes stat.Series // of one read
}

// random reads pages of a lazy image of which nothing is there yet, and of the layers
// by spans of their 0.9 zTOC that klauspost/compress inflates.
func (b *bench) random(ctx context.Context) error {
	spots, err := b.content.spots(randomReads)
	if err != nil {
		return err
	}
	want, err := b.randomSpans(ctx, spots)
	if err != nil {
		return fmt.Errorf("spans by klauspost: %w", err)
	}
	for _, l := range []struct {
		repo string
		to   *randoms
	}{{repoCompact, &b.scattered.compact}, {repoOld, &b.scattered.old}} {
		if err := b.randomFiles(ctx, b.registry.Host()+"/"+l.repo, spots, want, l.to); err != nil {
			return fmt.Errorf("random reads of %s: %w", l.repo, err)
		}
	}
	return nil
}

// randomFiles reads the spots through a lazy snapshot.
func (b *bench) randomFiles(ctx context.Context, ref string, spots []spot, want [][]byte, to *randoms) error {
	return b.node(ctx, noBackground, func(n *node.Node) error {
		if err := n.Pull(ctx, ref, node.Soci); err != nil {
			return err
		}
		before, err := n.Metrics(ctx)
		if err != nil {
			return err
		}
		var total time.Duration
		err = n.View(ctx, ref, node.Soci, func(dir string) (err error) {
			root, err := os.OpenRoot(dir)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, root.Close()) }()
			for i, s := range spots {
				p, took, err := readSpot(root, s)
				if err != nil {
					return err
				}
				if !bytes.Equal(p, want[i]) {
					return fmt.Errorf("%s: wrong bytes at %d", s.file, s.off)
				}
				total += took
			}
			return nil
		})
		if err != nil {
			return err
		}
		after, err := n.Metrics(ctx)
		if err != nil {
			return err
		}
		to.seconds = append(to.seconds, total.Seconds()/float64(len(spots)))
		to.bytes = append(to.bytes, float64(after.BytesFetched()-before.BytesFetched())/float64(len(spots)))
		return nil
	})
}

// readSpot reads one page of a file, without readahead; the time is that of the read alone.
func readSpot(root *os.Root, s spot) (p []byte, took time.Duration, err error) {
	f, err := root.Open(strings.TrimPrefix(s.file, "/"))
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		return nil, 0, fmt.Errorf("advise on %s: %w", s.file, err)
	}
	p = make([]byte, pageSize)
	start := time.Now()
	_, err = f.ReadAt(p, s.off)
	return p, time.Since(start), err
}

// randomSpans reads the spots by fetching and inflating the spans that they are in, and returns the pages.
func (b *bench) randomSpans(ctx context.Context, spots []spot) ([][]byte, error) {
	client := newClient()
	defer client.CloseIdleConnections()
	decode := peer.Klauspost()
	want := make([][]byte, len(spots))
	var src, dst []byte
	var fetched int64
	start := time.Now()
	for i, s := range spots {
		z := b.content.old[s.at.layer]
		url := blobURL(b.registry.Host(), b.image.Layers[s.at.layer].Digest)
		first, end := z.SpansOf(ztoc.Range{Off: s.at.off, Len: s.at.size})
		for id := first; id < end; id++ {
			sp := &z.Spans[id]
			last := min(sp.In.End()+2, z.CompressedSize) // it looks at bits behind a block
			src, dst = grown(src, last-sp.In.Off), grown(dst, sp.Out.Len)
			if err := getRange(ctx, client, url, sp.In.Off, src); err != nil {
				return nil, err
			}
			if err := decode(dst, z, id, src); err != nil {
				return nil, fmt.Errorf("span %d: %w", id, err)
			}
			fetched += int64(len(src))
			from := max(s.at.off, sp.Out.Off)
			want[i] = append(want[i], dst[from-sp.Out.Off:min(s.at.off+s.at.size, sp.Out.End())-sp.Out.Off]...)
		}
	}
	to := &b.scattered.spans
	to.seconds = append(to.seconds, time.Since(start).Seconds()/float64(len(spots)))
	to.bytes = append(to.bytes, float64(fetched)/float64(len(spots)))
	return want, nil
}

// grown is p with a length of n, in new memory if need be.
func grown(p []byte, n int64) []byte {
	if int64(cap(p)) < n {
		return make([]byte, n)
	}
	return p[:n]
}

// getRange fills p with the bytes at off of what is at url.
func getRange(ctx context.Context, client *http.Client, url string, off int64, p []byte) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1))
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("get a range of %s: status %s", url, res.Status)
	}
	_, err = io.ReadFull(res.Body, p)
	return err
}
