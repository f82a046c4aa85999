// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// noDevices is a layer of one file.
func noDevices(seed uint64) []ztoctest.File {
	return []ztoctest.File{ztoctest.Big(seed, "file", 100_000)}
}

// deviceFiles is a layer with a device, a link to it, and more.
func deviceFiles(seed uint64, typ byte, major, minor int64) []ztoctest.File {
	return append(noDevices(seed), ztoctest.File{Header: tar.Header{Typeflag: typ, Name: "a-device", Mode: 0o666, Devmajor: major, Devminor: minor}},
		ztoctest.File{Header: tar.Header{Typeflag: tar.TypeLink, Name: "a-link", Linkname: "a-device"}})
}

// checkRefused prepares layer n of i, of which nothing is made.
func (f *fixture) checkRefused(i *testImage, n int, what string) {
	f.t.Helper()
	m, err := f.prepare(i, n)
	if m != nil || !errdefs.IsFailedPrecondition(err) || f.last.Kind != Refused || f.last.Reason != ReasonDevice {
		f.t.Fatalf("prepared as %+v, %v", f.last, err)
	}
	for _, part := range []string{i.manifest.Layers[n].Digest.String(), `"a-device" is a ` + what} {
		if !strings.Contains(err.Error(), part) {
			f.t.Errorf("the error does not say %s: %v", part, err)
		}
	}
	if _, err := f.Stat(testContext(f.t), i.chains[n].String()); !errdefs.IsNotFound(err) {
		f.t.Errorf("Stat of the target: %v", err)
	}
	if got, want := f.entries("snapshotter", "snapshots"), n; got != want {
		f.t.Errorf("%d snapshot directories, want %d", got, want)
	}
	check(f.t, filepath.WalkDir(f.opts.Root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeDevice != 0 {
			f.t.Errorf("%s was made", path)
		}
		return nil
	}))
}

// TestRefuseDevices has layers with devices, lazy and not, on a node that wants none.
func TestRefuseDevices(t *testing.T) {
	for name, c := range map[string]struct {
		typ          byte
		major, minor int64
		what         string // "" if it is none
	}{
		"null":             {tar.TypeChar, 1, 3, "character device 1:3"},
		"disk":             {tar.TypeBlock, 8, 1, "block device 8:1"},
		"block device 0:0": {tar.TypeBlock, 0, 0, "block device 0:0"},
		"whiteout":         {tar.TypeChar, 0, 0, ""},
		"pipe":             {tar.TypeFifo, 1, 3, ""},
	} {
		for _, lazy := range []bool{true, false} {
			for _, refuse := range []bool{true, false} {
				t.Run(strings.Join([]string{name, map[bool]string{true: "lazy", false: "local"}[lazy], map[bool]string{true: "refused", false: "allowed"}[refuse]}, ", "), func(t *testing.T) {
					i := newImageOf(t, newMemory(), "registry.test/app:1", deviceFiles(1, c.typ, c.major, c.minor), noDevices(2)).build(t, -1)
					kind := Lazy
					if !lazy {
						kind = Local
						i.bindIndex(t, i.index.Layers[1])
					}
					f := newFixture(t, i.m, Options{Policy: Policy{RefuseDevices: refuse}})
					if refuse && c.what != "" {
						f.checkRefused(i, 0, c.what)
						if f.mount.names() != 0 || f.entries("soci", "layers") != 0 {
							t.Errorf("%d layers attached, %d states", f.mount.names(), f.entries("soci", "layers"))
						}
						return
					}
					f.mustPrepare(i, 0, kind)
				})
			}
		}
	}
}

// TestRefuseDevicesAhead has a device in a layer that is unpacked before containerd asks for it.
func TestRefuseDevicesAhead(t *testing.T) {
	i := newImageOf(t, newMemory(), "registry.test/app:1", noDevices(2), deviceFiles(1, tar.TypeChar, 1, 3)).build(t, -1)
	i.bindIndex(t, i.index.Layers[0])
	f := newFixture(t, i.m, Options{Policy: Policy{RefuseDevices: true}})
	f.mustPrepare(i, 0, Lazy)
	f.checkRefused(i, 1, "character device 1:3")
}

// TestRefuseDevicesLater has the policy on a node that serves such a layer already: it goes on, and no other image
// gets it.
func TestRefuseDevicesLater(t *testing.T) {
	m := newMemory()
	old := newImageOf(t, m, "registry.test/app:1", deviceFiles(1, tar.TypeChar, 1, 3)).build(t, -1)
	f := newFixture(t, m, Options{})
	f.mustPrepare(old, 0, Lazy)
	f.restart(func() { f.opts.Policy.RefuseDevices = true })
	f.checkServed(old)
	other := newImageOf(t, m, "registry.test/other:1", noDevices(2), deviceFiles(1, tar.TypeChar, 1, 3)).build(t, -1)
	f.mustPrepare(other, 0, Lazy)
	if _, err := f.prepare(other, 1); !errdefs.IsFailedPrecondition(err) || f.last.Kind != Refused {
		t.Errorf("the layer in another image: %+v, %v", f.last, err)
	}
}
