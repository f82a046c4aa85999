// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// minLayerSize is the size from which on a layer has a zTOC: below it are the layers made to be so.
const minLayerSize = 100 << 10

// layerPlan is one layer to be made.
type layerPlan struct {
	dir     string // that its files are in
	small   int    // files below 12 KiB
	medium  int    // of 70 to 400 KiB
	large   int    // of 3 to 6 MiB
	members int    // bytes of layer in each gzip member; 0 means there is one
	over    bool   // it is small, and takes files of the layer below away
}

// imagePlan is one image to be made.
type imagePlan struct {
	name    string
	compact bool // its index has compact zTOCs
	layers  []layerPlan
}

// plans are the images of a run: a and c share their lowest layer.
func plans() []imagePlan {
	base := layerPlan{dir: "base", small: 350, medium: 20, large: 1}
	return []imagePlan{
		{"a", false, []layerPlan{base, {dir: "a", small: 20, large: 4}, {dir: "base", small: 5, over: true}}},
		{"b", true, []layerPlan{{dir: "b", small: 300, medium: 10, large: 2, members: 1 << 20}, {dir: "btop", medium: 30}}},
		{"c", false, []layerPlan{base, {dir: "c", small: 1200, large: 2}}},
	}
}

// content is one image as it lies in a directory.
type content struct {
	name    string
	compact bool
	layout  string // directory of the OCI layout
	truth   string // directory of what a container is to see
	tool    string // the program in the image, as a path in it
	paths   []string
}

// toolFile is the program in each image, by which short containers read it.
const toolFile = "tool"

// makeContent makes the image of a plan below dir.
func makeContent(ctx context.Context, dir string, seed uint64, p imagePlan, tool []byte) (*content, error) {
	c := &content{name: p.name, compact: p.compact, layout: filepath.Join(dir, p.name), truth: filepath.Join(dir, p.name+"-truth")}
	b, err := image.New(c.layout)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.truth, 0o755); err != nil {
		return nil, err
	}
	for i, l := range p.layers {
		files := l.files(seed)
		if i == 0 {
			c.tool = "/" + l.dir + "/" + toolFile
			files = append(files, ztoctest.File{Header: tar.Header{Name: l.dir + "/" + toolFile, Mode: 0o755, ModTime: born()}, Data: tool})
		}
		archive, err := ztoctest.Tar(files, ztoctest.TarOptions{})
		if err != nil {
			return nil, err
		}
		member := ztoctest.Member{Level: 1 + i}
		encode := member.Encode
		if l.members > 0 {
			encode = func(p []byte) ([]byte, error) { return ztoctest.Members(p, l.members, member) }
		}
		if err := errors.Join(b.Encoded(archive, encode), unpack(ctx, c.truth, files, archive)); err != nil {
			return nil, fmt.Errorf("make layer %s of image %s: %w", l.dir, p.name, err)
		}
		for _, f := range files {
			if f.Typeflag == tar.TypeReg && len(f.Data) > 0 {
				c.paths = append(c.paths, f.Name)
			}
		}
	}
	_, err = b.Image(ocispec.ImageConfig{Entrypoint: []string{c.tool}, Env: []string{"PATH=/"}})
	return c, err
}

func born() time.Time { return time.Unix(1700000000, 0).UTC() }

// files is what the layer holds. Equal seeds and plans give equal layers.
func (l layerPlan) files(seed uint64) []ztoctest.File {
	name := uint64(0)
	for _, c := range l.dir {
		name = name*31 + uint64(c)
	}
	r := rand.New(rand.NewPCG(seed, name))
	dir := func(name string) ztoctest.File {
		return ztoctest.File{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: born()}}
	}
	files := []ztoctest.File{dir(l.dir)}
	add := func(name string, size int) {
		f := ztoctest.Big(r.Uint64(), name, size)
		f.Typeflag, f.Uid = tar.TypeReg, r.IntN(3)
		files = append(files, f)
	}
	if l.over {
		// What its small layer takes away and replaces is in every layer of that name.
		files = append(files, ztoctest.File{Header: tar.Header{Typeflag: tar.TypeReg, Name: l.dir + "/d0/.wh.small0", Mode: 0o644, ModTime: born()}})
		for i := range l.small {
			add(fmt.Sprintf("%s/over%d", l.dir, i), 1+r.IntN(4000))
		}
		return files
	}
	for i := range 6 {
		files = append(files, dir(fmt.Sprintf("%s/d%d", l.dir, i)))
	}
	for i := range l.small {
		name := fmt.Sprintf("%s/d%d/small%d", l.dir, i%6, i)
		add(name, r.IntN(12<<10))
		switch i % 10 {
		case 1:
			files = append(files, ztoctest.File{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprintf("%s/d%d/symlink%d", l.dir, i%6, i), Linkname: path.Base(name), Mode: 0o777, ModTime: born()}})
		case 3:
			files = append(files, ztoctest.File{Header: tar.Header{Typeflag: tar.TypeLink, Name: fmt.Sprintf("%s/d%d/hardlink%d", l.dir, (i+1)%6, i), Linkname: name, Mode: 0o644, ModTime: files[len(files)-1].ModTime, Uid: files[len(files)-1].Uid}})
		}
	}
	for i := range l.medium {
		add(fmt.Sprintf("%s/medium%d", l.dir, i), 70<<10+r.IntN(330<<10))
	}
	for i := range l.large {
		add(fmt.Sprintf("%s/large%d", l.dir, i), 3<<20+r.IntN(3<<20))
	}
	return files
}

// unpack does to dir what a layer does to what is below it.
func unpack(ctx context.Context, dir string, files []ztoctest.File, archive []byte) error {
	for _, f := range files {
		if name, ok := strings.CutPrefix(path.Base(f.Name), ".wh."); ok {
			if err := os.RemoveAll(filepath.Join(dir, path.Dir(f.Name), name)); err != nil {
				return err
			}
		}
	}
	c := exec.CommandContext(ctx, "tar", "-x", "-p", "--same-owner", "--numeric-owner", "--exclude=.wh.*", "-C", dir)
	c.Stdin = bytes.NewReader(archive)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack: %w: %s", err, out)
	}
	return nil
}
