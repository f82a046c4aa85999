// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
	bolt "go.etcd.io/bbolt"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"soci": main})
}

// TestScripts runs the stories that need nothing but files.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", Cmds: commands, RequireExplicitExec: true, Setup: setup,
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// TestGolden runs the stories about the golden image.
func TestGolden(t *testing.T) {
	dir := golden(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/golden", Cmds: commands, RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GOLDEN", dir)
			return setup(env)
		},
	})
}

// golden is the directory of the golden vectors.
func golden(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SEEKOCI_GOLDEN")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "golden")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "image", "index.json")); err != nil {
		t.Skipf("no golden vectors: %v; set SEEKOCI_GOLDEN", err)
	}
	return dir
}

func setup(env *testscript.Env) error {
	// A program with the race detector sleeps for a second when it ends, unless told not
	// to. What it finds is told here: a story may expect its program to fail.
	races := filepath.Join(env.WorkDir, ".tmp", "race")
	env.Setenv("GORACE", "atexit_sleep_ms=10 log_path="+races)
	env.Defer(func() {
		logs, _ := filepath.Glob(races + ".*") // the pattern is well-formed
		for _, name := range logs {
			p, _ := os.ReadFile(name)
			env.T().Fatal(fmt.Sprintf("race in %s:\n%s", name, p))
		}
	})
	env.Setenv("TMPDIR", "")
	env.Setenv("ROOT", filepath.Join(env.WorkDir, "root"))
	env.Setenv("HOST", platforms.Format(platforms.DefaultSpec()))
	return nil
}

// commands are the words of the stories beside those of testscript.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"mklayer":  mklayer,
	"mkimage":  mkimage,
	"cut":      cut,
	"flip":     flip,
	"tarfile":  tarfile,
	"listonly": listonly,
	"mode":     mode,
	"rmblob":   rmblob,
	"lock":     lock,
	"oneline":  oneLineOf,
	"setfield": setfield,
}

// layerOf returns a layer of one of the kinds that mklayer knows.
func layerOf(ts *testscript.TestScript, kind string, seed uint64) []byte {
	files := ztoctest.Files(seed, 20)
	if kind == "global" { // an entry of a type that has no place in a zTOC
		files = append(files, ztoctest.File{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}})
	}
	if kind == "loop" {
		files = []ztoctest.File{
			{Header: tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}},
			{Header: tar.Header{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}},
			{Header: tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/lower/file"}},
			{Header: tar.Header{Name: "dir/tool", Mode: 0o4755}, Data: []byte("tool")},
			{Header: tar.Header{Name: "dir/up", Typeflag: tar.TypeSymlink, Linkname: "../dir/tool"}},
			{Header: tar.Header{Name: "dir/hard", Typeflag: tar.TypeLink, Linkname: "dir/tool"}},
		}
	}
	if kind == "small" {
		files = files[:3]
	}
	p, err := ztoctest.Tar(files, ztoctest.TarOptions{})
	ts.Check(err)
	if kind == "tar" {
		return p
	}
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err = w.Write(p)
	ts.Check(err)
	ts.Check(w.Close())
	if kind == "broken" {
		return buf.Bytes()[:buf.Len()/2]
	}
	return buf.Bytes()
}

// mklayer KIND FILE writes a layer: gzip, tar, small, loop or global.
func mklayer(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), layerOf(ts, args[0], 1), 0o644))
}

// mkimage DIR [broken] PLATFORM... writes an OCI layout: an image with a large and a small
// layer, for several platforms an image index. The digests of the layers and of
// the manifest for the last platform go to the environment.
func mkimage(ts *testscript.TestScript, _ bool, args []string) {
	dir, kinds := ts.MkAbs(args[0]), []string{"gzip", "small"}
	if args[1] == "broken" {
		args, kinds[0] = args[1:], "broken"
	}
	add := func(mediaType string, p []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
		ts.Check(os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
		ts.Check(os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded()), p, 0o644))
		return d
	}
	addJSON := func(mediaType string, v any) ocispec.Descriptor {
		p, err := json.Marshal(v)
		ts.Check(err)
		return add(mediaType, p)
	}
	var list []ocispec.Descriptor
	for i, name := range args[1:] {
		p, err := platforms.Parse(name)
		ts.Check(err)
		cfg := ocispec.Image{Platform: p}
		var layers []ocispec.Descriptor
		cfg.RootFS.Type = "layers"
		for k, kind := range kinds {
			content := layerOf(ts, kind, uint64(i+1))
			r, err := gzip.NewReader(bytes.NewReader(content))
			ts.Check(err)
			diffID, err := digest.SHA256.FromReader(r)
			if kind != "broken" {
				ts.Check(err)
			}
			cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, diffID)
			layers = append(layers, add(ocispec.MediaTypeImageLayerGzip, content))
			ts.Setenv("LAYER"+strconv.Itoa(k), layers[k].Digest.String())
			ts.Setenv("BLOB"+strconv.Itoa(k), filepath.Join(dir, "blobs", "sha256", layers[k].Digest.Encoded()))
		}
		m := addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: addJSON(ocispec.MediaTypeImageConfig, cfg), Layers: layers,
		})
		ts.Setenv("MANIFEST", m.Digest.String())
		m.Platform = &p
		list = append(list, m)
	}
	root := list[0]
	root.Platform = nil
	if len(list) > 1 {
		root = addJSON(ocispec.MediaTypeImageIndex, imageIndex(list))
	}
	p, err := json.Marshal(imageIndex([]ocispec.Descriptor{root}))
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "index.json"), p, 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}

func imageIndex(list []ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
}

// cut FILE N drops the last N bytes.
func cut(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), info.Size()-n))
}

// flip FILE changes a byte in the middle.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	p, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	p[len(p)/2] ^= 0x55
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), p, 0o644))
}

// tarfile DIR FILE makes a tar of a directory, with names that begin with "./".
func tarfile(ts *testscript.TestScript, _ bool, args []string) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	ts.Check(w.AddFS(os.DirFS(ts.MkAbs(args[0]))))
	ts.Check(w.Close())
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), buf.Bytes(), 0o644))
}

// listonly DIR NAME... demands that a directory has these entries and no others.
func listonly(ts *testscript.TestScript, _ bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), strings.Join(args[1:], " "); got != want {
		ts.Fatalf("%s has %q, want %q", args[0], got, want)
	}
}

// mode FILE PERM demands the permissions of a file.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode()&^os.ModeDir), 8); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// rmblob DIR DIGEST removes a blob from an OCI layout.
func rmblob(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.Remove(filepath.Join(ts.MkAbs(args[0]), "blobs", "sha256", digest.Digest(args[1]).Encoded())))
}

// lock DB holds a database until the end of the story.
func lock(ts *testscript.TestScript, _ bool, args []string) {
	db, err := bolt.Open(ts.MkAbs(args[0]), 0o600, nil)
	ts.Check(err)
	ts.Defer(func() { db.Close() })
}

// setfield VAR N PREFIX sets a variable to PREFIX and field N of the last command's standard output.
func setfield(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	fields := strings.Fields(ts.ReadFile("stdout"))
	if n >= len(fields) {
		ts.Fatalf("no field %d of %q", n, fields)
	}
	ts.Setenv(args[0], args[2]+fields[n])
}

// oneline demands that the last command wrote exactly one line to standard
// error, beginning with "soci: ".
func oneLineOf(ts *testscript.TestScript, _ bool, _ []string) {
	s := ts.ReadFile("stderr")
	if !strings.HasPrefix(s, "soci: ") || strings.Count(s, "\n") != 1 || !strings.HasSuffix(s, "\n") {
		ts.Fatalf("standard error is not one line: %q", s)
	}
}
