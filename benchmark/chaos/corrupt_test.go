// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/seekoci/seekoci/benchmark/chaos/internal/check"
)

func write(t *testing.T, path string, p []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestWrecks: each way to damage a file leaves another one, or none.
func TestWrecks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{1, 7, 500, 300 << 10} {
		for n, do := range append(anyhow(), plainly()...) {
			was := junk(rand.New(rand.NewPCG(1, 1)), int64(size))
			write(t, path, was)
			if err := damage(rand.New(rand.NewPCG(uint64(n), 2)), path, []wreck{do}); err != nil {
				t.Fatal(err)
			}
			if p, err := os.ReadFile(path); err == nil && bytes.Equal(p, was) {
				t.Errorf("way %d leaves a file of %d bytes as it was", n, size)
			}
		}
	}
}

// database makes one of so many transactions.
func database(t *testing.T, path string, transactions int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	for n := 0; n < transactions && err == nil; n++ {
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists([]byte("x"))
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestHarm: of each kind there is something to be damaged, and what has a twin is left alone where that is another one.
func TestHarm(t *testing.T) {
	r := &run{report: newReport(io.Discard)}
	r.disk.root = t.TempDir()
	at := func(name string) string { return filepath.Join(r.disk.root, name) }
	all := map[string]string{
		"data": "soci/spans/a/data", "state": "soci/spans/a/state", "ztoc": "soci/layers/a/ztoc", "slots": "soci/fs/slots",
		"layer.json": "soci/layers/a/layer.json", "layer.json.copy": "soci/layers/a/layer.json.copy", "profiles": "soci/profiles/a/b.json",
		"metadata.db": "snapshotter/metadata.db", "metadata.db.copy": "snapshotter/metadata.db.copy",
	}
	fresh := func() {
		for _, name := range all {
			if !strings.Contains(name, "metadata") {
				write(t, at(name), bytes.Repeat([]byte("x"), 1000))
			}
		}
		write(t, at("snapshotter/x"), nil)
		for _, name := range []string{"metadata.db", "metadata.db.copy"} {
			if err := os.RemoveAll(at(all[name])); err != nil {
				t.Fatal(err)
			}
			database(t, at(all[name]), 2)
		}
	}
	changed := func(was map[string][]byte) (names []string) {
		for name, file := range all {
			if p, err := os.ReadFile(at(file)); err != nil || !bytes.Equal(p, was[name]) {
				names = append(names, name)
			}
		}
		return names
	}
	look := func() map[string][]byte {
		m := make(map[string][]byte)
		for name, file := range all {
			m[name], _ = os.ReadFile(at(file)) // none is as good as empty
		}
		return m
	}
	harm := func(h harm) []string {
		t.Helper()
		h.all = false // all of those that there are
		was := look()
		if err := r.harm(rand.New(rand.NewPCG(3, 3)), h); err != nil {
			t.Fatal(err)
		}
		return changed(was)
	}
	for _, h := range harms() {
		if h.name == bothMetadata {
			continue
		}
		fresh()
		if got := harm(h); !slices.Equal(got, []string{h.name}) || r.report.counts["files damaged: "+h.name] != 1 {
			t.Errorf("%s: %q are damaged", h.name, got)
		}
		if !h.twin {
			continue
		}
		fresh()
		if h.name == "metadata.db" {
			database(t, at(all[h.name]), 1) // one more
		} else {
			write(t, at(all[h.name]), []byte("another"))
		}
		if got := harm(h); len(got) > 0 {
			t.Errorf("%s with another twin: %q are damaged", h.name, got)
		}
		fresh()
		write(t, at(twin(all[h.name])), nil)
		if got := harm(h); len(got) > 0 {
			t.Errorf("%s with an empty twin: %q are damaged", h.name, got)
		}
	}
	if !r.disk.tainted["a"] || r.line.forgot == 0 || r.line.forgot > check.Now() {
		t.Error("what is on disk is believed after it was damaged")
	}
}

// TestPick: all harms come.
func TestPick(t *testing.T) {
	seen := make(map[string]bool)
	r := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		seen[pick(r).name] = true
	}
	if len(seen) != len(harms()) {
		t.Errorf("only %v", seen)
	}
}

// TestPhases: the cache and the mirror of a step follow from the seed, and some daemons have them, others not.
func TestPhases(t *testing.T) {
	a := &run{opts: options{seed: 9}, proxy: &proxy{fronts: []*front{{addr: "origin"}}}, mirror: &proxy{fronts: []*front{{addr: "mirror"}}}}
	b := &run{opts: a.opts, proxy: a.proxy, mirror: a.mirror}
	small, mirrored := 0, 0
	for n := range 50 * phaseSteps {
		a.phaseOf(step{n: n})
		b.phaseOf(step{n: n})
		config := a.daemonConfig(1)
		if config != b.daemonConfig(1) {
			t.Fatalf("step %d: two configurations of one seed differ", n)
		}
		if strings.Contains(config, "max_bytes") {
			small++
		}
		if strings.Contains(config, `[resolver.host."origin"]`) && strings.Contains(config, `host = "mirror"`) {
			mirrored++
		}
	}
	for _, k := range []int{small, mirrored} {
		if k < 10*phaseSteps || k > 35*phaseSteps || k%phaseSteps != 0 {
			t.Errorf("%d steps with a small cache and %d with a mirror, of %d", small, mirrored, 50*phaseSteps)
		}
	}
}
