// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// inMemory is a layer whose registry is never down.
type inMemory []byte

// Open implements span.Source.
func (m inMemory) Open(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(m[off : off+n])), nil
}

// Size implements span.Source.
func (m inMemory) Size() int64 { return int64(len(m)) }

// TestLook holds that what package span has written is what look reads: nothing before, all of a file after
// it was read, and no longer what was changed behind its back.
func TestLook(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	archive, err := ztoctest.Tar([]ztoctest.File{ztoctest.Big(1, "x/first", 3<<20), ztoctest.Big(2, "x/second", 6<<20)}, ztoctest.TarOptions{})
	must(err)
	layer, err := ztoctest.Member{Level: 6}.Encode(archive)
	must(err)
	z, err := ztoc.Build(t.Context(), bytes.NewReader(layer), ztoc.BuildOptions{SpanSize: 256 << 10})
	must(err)
	p, err := z.Marshal()
	must(err)
	d := disk{root: t.TempDir()}
	const key = "layer"
	must(os.MkdirAll(filepath.Join(d.root, "soci/layers", key), 0o700))
	must(os.WriteFile(filepath.Join(d.root, "soci/layers", key, "ztoc"), p, 0o600))

	has := func(path string) bool {
		t.Helper()
		now, err := d.look()
		must(err)
		return now.has("image", path, 0, 1<<40)
	}
	if has("x/first") || !has("x/in no lazy layer") {
		t.Error("before anything was read: the wrong files are there")
	}
	store, err := span.Open(filepath.Join(d.root, "soci/spans"), span.Options{Around: -1}) // what lies around is the other file
	must(err)
	l, err := store.Layer(key, z.ZInfo, inMemory(layer))
	must(err)
	file, err := readZTOC(filepath.Join(d.root, "soci/layers", key, "ztoc"))
	must(err)
	r := file.files["x/first"]
	must(l.ReadAt(t.Context(), make([]byte, r.Len), r.Off))
	must(l.Close())
	must(store.Close())
	if !has("x/first") || has("x/second") {
		t.Error("after one file was read: the wrong files are there")
	}
	data := filepath.Join(d.root, "soci/spans", key, "data")
	f, err := os.OpenFile(data, os.O_RDWR, 0)
	must(err)
	must(flip(f, r.Off+1000, 6))
	must(f.Close())
	d.taint(key)
	if has("x/first") {
		t.Error("what was changed counts as there")
	}
	must(os.WriteFile(filepath.Join(d.root, "soci/spans", key, "state"), bytes.Repeat([]byte("?"), 500), 0o600))
	d.tainted = nil
	if _, err := d.look(); err == nil {
		t.Error("a state file of another format is taken for one with nothing in it")
	}
}
