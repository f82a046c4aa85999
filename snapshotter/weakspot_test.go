// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// The weak spots of the incumbent that concern serving, by number.

// lies are the ways in which a zTOC can lie of a layer whose compressed bytes are what they should be.
func lies() map[string]func(z *ztoc.ZTOC) bool {
	// of has f change the first regular file with data.
	of := func(f func(e *ztoc.Entry)) func(z *ztoc.ZTOC) bool {
		return func(z *ztoc.ZTOC) bool {
			n := slices.IndexFunc(z.TOC, func(e ztoc.Entry) bool { return e.Type == ztoc.TypeReg && e.Size > 1024 })
			if n >= 0 {
				f(&z.TOC[n])
			}
			return n >= 0
		}
	}
	typed := func(t ztoc.EntryType, f func(e *ztoc.Entry)) func(z *ztoc.ZTOC) bool {
		return func(z *ztoc.ZTOC) bool {
			n := slices.IndexFunc(z.TOC, func(e ztoc.Entry) bool { return e.Type == t })
			if n >= 0 {
				f(&z.TOC[n])
			}
			return n >= 0
		}
	}
	return map[string]func(z *ztoc.ZTOC) bool{
		"setuid":        of(func(e *ztoc.Entry) { e.Mode |= 0o4000 }),
		"owner":         of(func(e *ztoc.Entry) { e.UID++ }),
		"group":         of(func(e *ztoc.Entry) { e.GID++ }),
		"size":          of(func(e *ztoc.Entry) { e.Size-- }),
		"name":          of(func(e *ztoc.Entry) { e.Name += "x" }),
		"whiteout":      of(func(e *ztoc.Entry) { e.Name = ".wh.etc"; e.Size = 0 }),
		"file is none":  of(func(e *ztoc.Entry) { e.Type, e.Size, e.Linkname = ztoc.TypeSymlink, 0, "/etc/shadow" }),
		"capabilities":  of(func(e *ztoc.Entry) { e.PAX = []ztoc.Record{{Key: "SCHILY.xattr.security.capability", Value: "x"}} }),
		"link target":   typed(ztoc.TypeSymlink, func(e *ztoc.Entry) { e.Linkname = "/etc/shadow" }),
		"device number": typed(ztoc.TypeChar, func(e *ztoc.Entry) { e.Devmajor, e.Devminor = 8, 0 }),
		"one missing":   func(z *ztoc.ZTOC) bool { z.TOC = z.TOC[:len(z.TOC)-1]; return true },
		"bytes, by its windows": func(z *ztoc.ZTOC) bool {
			changed := false
			for i := range z.ZInfo.Spans {
				if w := slices.Clone(z.ZInfo.Spans[i].Window); w != nil {
					for k := range w {
						w[k] ^= 0x20
					}
					z.ZInfo.Spans[i].Window, changed = w, true
				}
			}
			return changed
		},
	}
}

// TestWeakSpotS6 has indexes that lie of what is in a layer. The lie is found when the layer is complete:
// who reads it gets an error from then on, it is gone from mount and disk, and when it is pulled anew it is not
// served with that zTOC, but is what it should be.
func TestWeakSpotS6(t *testing.T) {
	good := newImage(t, newMemory(), "registry.test/app:1", 1).build(t, -1)
	layer := good.manifest.Layers[0].Digest
	p := must(good.m.get(good.index.Layers[0].Digest))(t)
	for name, lie := range lies() {
		t.Run(name, func(t *testing.T) {
			i := good.clone()
			z := must(ztoc.Unmarshal(slices.Clone(p)))(t)
			if !lie(z) {
				t.Fatal("there is nothing to lie about")
			}
			i.bindIndex(t, ztocDesc(i.m.put("", must(z.Marshal())(t)), layer))
			opts, told := completions()
			f := newFixture(t, i.m, opts)
			f.mustPrepare(i, 0, Lazy)
			if c := <-told; c.Result != Mismatch || !errors.Is(c.Err, errMismatch) {
				t.Fatalf("completion %+v", c)
			}
			if err, ok := f.verdict(i, 0); !ok || !errors.Is(err, errMismatch) {
				t.Errorf("the mount was told %v", err)
			}
			if f.mount.names() != 0 || f.entries("soci", "spans") != 0 || f.entries("soci", "condemned") != 1 {
				t.Errorf("%d attached, %d on disk, %d condemned", f.mount.names(), f.entries("soci", "spans"), f.entries("soci", "condemned"))
			}
			check(t, f.Remove(testContext(t), i.top()))
			f.restart(func() {})
			_, err := f.prepare(i, 0)
			if f.last.Reason != ReasonDiffID || f.last.Kind != Local || !errdefs.IsAlreadyExists(err) {
				t.Errorf("pulled anew: %+v, %v", f.last, err)
			}
		})
	}
}

// TestWeakSpotS6Spans has a registry that delivers other bytes: not one of them is served.
func TestWeakSpotS6Spans(t *testing.T) {
	i := newImage(t, newMemory(), "registry.test/app:1", 1).build(t, -1)
	f := newFixture(t, i.m, Options{})
	f.mustPrepare(i, 0, Lazy)
	layer := i.manifest.Layers[0].Digest
	whole := must(i.m.get(layer))(t)
	wrong := slices.Clone(whole)
	for k := range wrong {
		wrong[k] ^= 1
	}
	i.m.mu.Lock()
	i.m.blobs[layer] = wrong
	i.m.mu.Unlock()
	l, _ := f.layers.get(i.key(0))
	buf := make([]byte, 4096)
	if err := l.data.ReadAt(t.Context(), buf, 0); !errors.Is(err, ztoc.ErrDigest) || !bytes.Equal(buf, make([]byte, 4096)) {
		t.Errorf("read of wrong bytes: %v", err)
	}
	i.m.mu.Lock()
	i.m.blobs[layer] = whole
	i.m.mu.Unlock()
	if err := l.data.ReadAt(t.Context(), buf, 0); err != nil || !bytes.Equal(buf, i.tars[0][:4096]) {
		t.Errorf("read when the registry is right again: %v", err)
	}
}

// TestWeakSpotS6Setuid has an index that makes a shell setuid, on a node that serves such files when their
// layer is verified: who runs it waits, and never gets it. The same file of an honest image is to be had.
func TestWeakSpotS6Setuid(t *testing.T) {
	needFUSE(t)
	shell := func(mode int64) []ztoctest.File {
		return append(testFiles(1), ztoctest.File{Header: tar.Header{Name: "shell", Mode: mode, ModTime: time.Unix(1, 0)}, Data: bytes.Repeat([]byte("#!"), 50_000)})
	}
	for _, c := range []struct {
		name string
		mode int64
		want CompletionResult
	}{{"a lie", 0o755, Mismatch}, {"the truth", 0o4755, Verified}} {
		t.Run(c.name, func(t *testing.T) {
			i := newImageOf(t, newMemory(), "", shell(c.mode)).build(t, -1)
			layer := i.manifest.Layers[0]
			z := must(ztoc.Unmarshal(must(i.m.get(i.index.Layers[0].Digest))(t)))(t)
			n := slices.IndexFunc(z.TOC, func(e ztoc.Entry) bool { return e.Name == "shell" })
			z.TOC[n].Mode |= 0o4000
			i.bindIndex(t, ztocDesc(i.m.put("", must(z.Marshal())(t)), layer.Digest))
			reg := registrytest.New(registrytest.Options{})
			defer reg.Close()
			i.push(t, reg, "library/app")
			told := make(chan Completion, 10)
			s := must(New(t.Context(), Options{
				Root: t.TempDir(), Log: testLog(t), Policy: Policy{GuardPrivileged: true, BoundIndex: true},
				Registry: must(registry.NewClient(registry.Options{
					Credential: func(context.Context, string) (registry.Credential, error) { return registry.Credential{}, nil },
				}))(t),
				// The background comes when the reader is there.
				Background: Background{Silence: 300 * time.Millisecond}, OnCompletion: func(c Completion) { told <- c },
			}))(t)
			t.Cleanup(func() { s.Close() })
			pullImage(t, s, i)
			dir := run(t, s, "container", i.top())
			sum := exec.CommandContext(t.Context(), "sha256sum", filepath.Join(dir, "shell"))
			out, err := sum.CombinedOutput()
			if (err == nil) != (c.want == Verified) {
				t.Errorf("read of a setuid file: %v, %s", err, out)
			}
			if got := <-told; got.Result != c.want {
				t.Errorf("completion %+v", got)
			}
			if _, err := s.Prepare(testContext(t), "another", i.top()); (err == nil) != (c.want == Verified) {
				t.Errorf("another container: %v", err)
			}
		})
	}
}

// TestWeakSpotS7 has a zTOC, and the state beside it, damaged on disk: nothing of it is believed, and it is had anew.
func TestWeakSpotS7(t *testing.T) {
	for name, damage := range map[string]func(p []byte) []byte{
		"a bit":     func(p []byte) []byte { p[len(p)/2] ^= 1; return p },
		"cut short": func(p []byte) []byte { return p[:len(p)-1] },
		"empty":     func([]byte) []byte { return nil },
		"longer":    func(p []byte) []byte { return append(p, 0) },
	} {
		for _, files := range [][]string{{"ztoc"}, {stateFile}, {stateCopy}, {stateFile, stateCopy}} {
			t.Run(strings.Join(files, " and ")+", "+name, func(t *testing.T) {
				i := newImage(t, newMemory(), "registry.test/app:1", 1).build(t, -1)
				f := newFixture(t, i.m, Options{})
				f.mustPrepare(i, 0, Lazy)
				was := make(map[string][]byte)
				f.restart(func() {
					for _, file := range files {
						path := f.layers.states.path(i.key(0), file)
						was[path] = must(os.ReadFile(path))(t)
						check(t, os.WriteFile(path, damage(slices.Clone(was[path])), 0o600))
					}
					i.m.forget()
				})
				asks := 0 // of the layer's state there are two, of its zTOC there is none but the registry's
				if files[0] == "ztoc" || len(files) > 1 {
					asks = 1
				}
				if f.mount.names() != 1-asks {
					t.Errorf("%d layers are served", f.mount.names())
				}
				must(f.Prepare(testContext(t), "container", i.top()))(t)
				if n := i.m.fetched()[i.index.Layers[0].Digest]; f.mount.names() != 1 || n != asks {
					t.Errorf("%d layers served, zTOC fetched %d times", f.mount.names(), n)
				}
				for path, p := range was {
					if got := must(os.ReadFile(path))(t); len(files) == 1 && !bytes.Equal(got, p) {
						t.Errorf("%s: the damage is still there", path)
					}
				}
			})
		}
	}
}

// TestWeakSpotS5 has an image that asks for more than a node is to give: it is pulled whole, at once and with the
// reason named.
func TestWeakSpotS5(t *testing.T) {
	i := newImageOf(t, newMemory(), "registry.test/app:1", []ztoctest.File{
		{Header: tar.Header{Name: "zeros", Mode: 0o644, ModTime: time.Unix(1, 0)}, Data: make([]byte, 8<<20)},
	}).build(t, -1)
	huge := i.index.Layers[0]
	huge.Size = 1 << 50
	for name, c := range map[string]struct {
		policy Policy
		ztoc   ocispec.Descriptor
		reason Reason
	}{
		"expansion":      {Policy{MaxExpansion: 100}, i.index.Layers[0], ReasonLimit},
		"size":           {Policy{MaxLayerSize: 1 << 20}, i.index.Layers[0], ReasonLimit},
		"zTOC of 1 PiB":  {Policy{}, huge, ReasonZTOCFetch},
		"and by policy":  {Policy{MaxZTOCSize: 1 << 20}, huge, ReasonLimit},
		"nothing at all": {Policy{MaxExpansion: 1032, MaxLayerSize: 1 << 24, MaxFiles: 1}, i.index.Layers[0], ReasonNone},
	} {
		t.Run(name, func(t *testing.T) {
			i := i.clone()
			i.bindIndex(t, as(c.ztoc, index.MediaTypeZTOC, i.manifest.Layers[0].Digest))
			f := newFixture(t, i.m, Options{Policy: c.policy})
			_, err := f.prepare(i, 0)
			if f.last.Reason != c.reason || (c.reason == ReasonNone) != (f.last.Kind == Lazy) || (f.last.Err == nil) != (c.reason == ReasonNone) {
				t.Errorf("decision %+v, %v", f.last, err)
			}
		})
	}
}
