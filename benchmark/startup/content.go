// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/ztoc"
)

// pageSize is the kernel's.
const pageSize = 4096

// content says where in the layers the bytes of each file are.
type content struct {
	old, compact []*ztoc.ZInfo // of the layers, lowest first
	files        map[string]place
}

// place is the data of one regular file.
type place struct {
	layer     int
	off, size int64 // in the layer's tar
}

// readContent reads the zTOCs of an indexed image.
func readContent(ctx context.Context, ref string, img *image.Image) (_ *content, err error) {
	client, err := registry.NewClient(registry.Options{PlainHTTP: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	repo, err := client.Repository(ref)
	if err != nil {
		return nil, err
	}
	x, _, err := index.Find(ctx, repo, img.Manifest.Digest, index.FindOptions{V1: true})
	if err != nil {
		return nil, err
	}
	c := &content{files: make(map[string]place)}
	for i, l := range img.Layers {
		old, ok := x.ZTOC(l.Digest)
		compact, ok2 := x.Compact(l.Digest)
		if !ok || !ok2 {
			return nil, fmt.Errorf("layer %s has no zTOC: it is too small for this measurement", l.Digest)
		}
		z, err := index.ReadZTOC(ctx, repo, old)
		if err != nil {
			return nil, err
		}
		c.old = append(c.old, z.ZInfo())
		if z, err = index.ReadZTOC(ctx, repo, compact); err != nil {
			return nil, err
		}
		c.compact = append(c.compact, z.ZInfo())
		c.add(i, z)
	}
	return c, nil
}

// add notes the files of a layer; they hide those of the layers below.
func (c *content) add(layer int, z *ztoc.Reader) {
	for _, e := range z.Entries() {
		name := path.Join("/", e.Name)
		switch e.Type {
		case ztoc.TypeReg:
			c.files[name] = place{layer, e.Offset, e.Size}
		case ztoc.TypeHardlink:
			if p, ok := c.files[path.Join("/", e.Linkname)]; ok && p.layer == layer {
				c.files[name] = p
			}
		default:
			delete(c.files, name)
		}
	}
}

// largest is the file that has the most bytes.
func (c *content) largest() (name string, p place) {
	for n, f := range c.files {
		if f.size > p.size || f.size == p.size && n < name {
			name, p = n, f
		}
	}
	return name, p
}

// spot is one page of a file.
type spot struct {
	file string
	off  int64 // in the file
	at   place // of the page
}

// spots picks n whole pages at random, each page of the image as likely as the next. The same image gives the same ones.
func (c *content) spots(n int) ([]spot, error) {
	names := slices.Sorted(maps.Keys(c.files))
	ends := make([]int64, len(names)) // number of pages up to and with the file
	var total int64
	for i, name := range names {
		total += c.files[name].size / pageSize
		ends[i] = total
	}
	if total == 0 {
		return nil, errors.New("no file of the image has a page")
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	picked := make([]spot, n)
	for k := range picked {
		page := rnd.Int64N(total)
		i, _ := slices.BinarySearch(ends, page+1)
		p := c.files[names[i]]
		off := (page - (ends[i] - p.size/pageSize)) * pageSize
		picked[k] = spot{names[i], off, place{p.layer, p.off + off, pageSize}}
	}
	return picked, nil
}

// pages is a set of touched bytes, by layer: the compressed and uncompressed sizes of what was touched.
type pages struct {
	compressed, uncompressed float64 // bytes
	seen                     map[place]bool
}

// touch adds the page at offset off of a file: its bytes, and what they are compressed, as the
// span they are in is on average. A page that several names share counts once.
func (c *content) touch(t *pages, p place, off int64) {
	page := place{p.layer, p.off + off, min(pageSize, p.size-off)}
	if page.size <= 0 || t.seen[page] {
		return
	}
	if t.seen == nil {
		t.seen = make(map[place]bool)
	}
	t.seen[page] = true
	t.uncompressed += float64(page.size)
	z := c.compact[p.layer]
	first, end := z.SpansOf(ztoc.Range{Off: page.off, Len: page.size})
	for id := first; id < end; id++ {
		s := &z.Spans[id]
		n := min(page.off+page.size, s.Out.End()) - max(page.off, s.Out.Off)
		t.compressed += float64(n) * float64(s.In.Len) / float64(s.Out.Len)
	}
}

// blobURL is where a registry has a blob of the image.
func blobURL(host string, d digest.Digest) string {
	return "http://" + host + "/v2/compact/blobs/" + d.String()
}
