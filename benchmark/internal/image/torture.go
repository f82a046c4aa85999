// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// Paths in the torture image.
const (
	Probe    = "/probe"          // the program; see package probe
	BigGzip  = "/data/go"        // large files, one for each way of compressing a layer
	BigMany  = "/data/members"   //
	BigPlain = "/data/plain"     //
	Small    = "/data/small"     // in the layer that is below 10 MiB
	Plain1   = "/etc/hostname"   // small, in a large layer
	Hidden   = "/data/whiteout"  // in a lower layer, and whited out by an upper one
	Replaced = "/data/directory" // a directory of a lower layer, a file in an upper one
)

// SmallLayer is the number of the layer of the torture image that is below the default minimum size: all others are above it.
const SmallLayer = 2

// layerData is how large the one big file of a large layer is: with text, random bytes and zeros taking turns
// in it, the layer is above the default minimum size of 10 MiB when compressed.
const layerData = 24 << 20

// Torture makes an image in dir with everything that layers hold: five of
// them, gzip of one and of many members, plain tar, one below 10 MiB, "./" before names, every type of file,
// owners, modes, times, xattrs and capabilities, long names, hard links, whiteouts, opaque directories, files that
// replace directories and the reverse. It can be run: its program is package probe, built on the way.
func Torture(ctx context.Context, dir string) (*Image, error) { return torture(ctx, dir, layerData) }

// torture makes it with big files of another size.
func torture(ctx context.Context, dir string, layerData int) (*Image, error) {
	b, err := New(dir)
	if err != nil {
		return nil, err
	}
	probe, err := buildProbe(ctx, dir)
	if err != nil {
		return nil, err
	}
	member := ztoctest.Member{Level: 6, Name: "layer.tar"}
	for i, layer := range []func() error{
		func() error { // the tree without its whiteouts: there is nothing below
			files := []ztoctest.File{directory("data"), directory("data/directory"), regular("data/directory/file", "gone with its directory"), regular("data/whiteout", "whited out above"),
				ztoctest.Big(11, strings.TrimPrefix(BigGzip, "/"), layerData), {Header: tar.Header{Name: strings.TrimPrefix(Probe, "/"), Mode: 0o755}, Data: probe}}
			for _, f := range ztoctest.Files(1, 1500) {
				if !strings.HasPrefix(path.Base(f.Name), ".wh.") {
					files = append(files, f)
				}
			}
			return b.encode(files, ztoctest.TarOptions{}, member.Encode)
		},
		func() error { // the tree once more, other contents, whiteouts and opaque directories included
			files := append(ztoctest.Files(2, 700), ztoctest.Big(12, strings.TrimPrefix(BigMany, "/"), layerData))
			return b.encode(files, ztoctest.TarOptions{Prefix: "./"}, func(p []byte) ([]byte, error) { return ztoctest.Members(p, 1<<20, member) })
		},
		func() error {
			return b.encode([]ztoctest.File{regular(strings.TrimPrefix(Small, "/"), "from the small layer"), regular("data/.wh.whiteout", ""), regular("data/.wh.directory", ""),
				regular("etc/hostname", "changed above\n")}, ztoctest.TarOptions{}, member.Encode)
		},
		func() error { // plain tar; a file where a directory was, an opaque directory with new files
			return b.Layer(Plain, func(w *tar.Writer) error {
				return writeFiles(w, withParents([]ztoctest.File{regular("data/directory", "now a file"), directory("opt/many/00"), regular("opt/many/00/.wh..wh..opq", ""),
					regular("opt/many/00/new", "the only one"), ztoctest.Big(14, strings.TrimPrefix(BigPlain, "/"), layerData)}))
			})
		},
		func() error {
			files := append(ztoctest.Files(5, 300), ztoctest.Big(15, "data/stored", layerData))
			return b.encode(files, ztoctest.TarOptions{Padding: 10240}, func(p []byte) ([]byte, error) { return ztoctest.Member{FlushEvery: 100000, Level: 1}.Encode(p) })
		},
	} {
		if err := layer(); err != nil {
			return nil, fmt.Errorf("make layer %d: %w", i, err)
		}
	}
	return b.Image(ocispec.ImageConfig{Entrypoint: []string{Probe}, Cmd: []string{"tree"}, Env: []string{"PATH=/"}})
}

// Minimal makes the smallest image that can be run in dir: one layer with package probe in it. variant makes its
// content, and so its digests, another.
func Minimal(ctx context.Context, dir, variant string) (*Image, error) {
	b, err := New(dir)
	if err != nil {
		return nil, err
	}
	probe, err := buildProbe(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := b.encode([]ztoctest.File{{Header: tar.Header{Name: strings.TrimPrefix(Probe, "/"), Mode: 0o755, ModTime: created()}, Data: probe},
		regular("variant", variant)}, ztoctest.TarOptions{}, ztoctest.Member{Level: 6}.Encode); err != nil {
		return nil, err
	}
	return b.Image(ocispec.ImageConfig{Entrypoint: []string{Probe}, Cmd: []string{"tree"}, Env: []string{"PATH=/"}})
}

// withParents adds the directories that have no entry of their own in front of what lies in them, as the common
// builders do. Without one, the directory's time is when it was unpacked.
func withParents(files []ztoctest.File) []ztoctest.File {
	known := map[string]bool{".": true, "/": true}
	for _, f := range files {
		if f.Typeflag == tar.TypeDir {
			known[path.Clean(f.Name)] = true
		}
	}
	var out []ztoctest.File
	for _, f := range files {
		var missing []ztoctest.File
		for dir := path.Dir(path.Clean(f.Name)); !known[dir]; dir = path.Dir(dir) {
			known[dir] = true
			missing = append(missing, directory(dir))
		}
		slices.Reverse(missing)
		out = append(append(out, missing...), f)
	}
	return out
}

func (b *Builder) encode(files []ztoctest.File, opts ztoctest.TarOptions, encode func([]byte) ([]byte, error)) error {
	archive, err := ztoctest.Tar(withParents(files), opts)
	if err != nil {
		return err
	}
	return b.Encoded(archive, encode)
}

func directory(name string) ztoctest.File {
	return ztoctest.File{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: created()}}
}

func regular(name, data string) ztoctest.File {
	return ztoctest.File{Header: tar.Header{Name: name, Mode: 0o644, ModTime: created()}, Data: []byte(data)}
}

func writeFiles(w *tar.Writer, files []ztoctest.File) error {
	for _, f := range files {
		if f.Typeflag == 0 {
			f.Typeflag = tar.TypeReg
		}
		f.Size = int64(len(f.Data))
		if err := w.WriteHeader(&f.Header); err != nil {
			return fmt.Errorf("add %s: %w", f.Name, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return fmt.Errorf("add %s: %w", f.Name, err)
		}
	}
	return nil
}

// buildProbe compiles package probe, static, and returns the binary.
func buildProbe(ctx context.Context, dir string) ([]byte, error) {
	file := filepath.Join(dir, "probe.bin")
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, "github.com/seekoci/seekoci/benchmark/internal/probe")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build probe: %w: %s", err, out)
	}
	p, err := os.ReadFile(file)
	return p, errors.Join(err, os.Remove(file))
}
