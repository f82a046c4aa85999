// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func writeText(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(at("sub"), 0o755))
	must(t, os.WriteFile(at("sub/target"), []byte("old"), 0o600))
	must(t, os.Symlink("sub/target", at("link")))
	must(t, os.Symlink("nothing", at("dangling")))

	for name, want := range map[string]string{
		"new": "", "sub/target": "", "link": "",
		"sub": "is a directory", "dangling": "symbolic link to nothing", "no/such": "no such file",
	} {
		err := WriteFile(at(name), 0o640, writeText("text"))
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), at(name)) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
			continue
		}
		must(t, err)
		p, err := os.ReadFile(at(name))
		must(t, err)
		info, err := os.Stat(at(name))
		must(t, err)
		if string(p) != "text" || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %q with mode %v", name, p, info.Mode())
		}
	}
	if info, err := os.Lstat(at("link")); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info.Mode(), err)
	}

	// What fails leaves the file as it was, and nothing beside it.
	broken := errors.New("broken")
	if err := WriteFile(at("link"), 0o640, func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if p, err := os.ReadFile(at("link")); err != nil || string(p) != "text" {
		t.Errorf("the file is %q, %v", p, err)
	}
	for _, d := range []string{dir, at("sub")} {
		left, err := filepath.Glob(filepath.Join(d, ".soci-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestWriteFilePipe demands that a pipe, as a device, is written to and stays what it is.
func TestWriteFilePipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	must(t, syscall.Mkfifo(name, 0o600))
	r, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	must(t, err)
	defer r.Close()
	must(t, WriteFile(name, 0o640, writeText("text")))
	p, err := io.ReadAll(r)
	must(t, err)
	if string(p) != "text" {
		t.Errorf("read %q", p)
	}
	if info, err := os.Lstat(name); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe was replaced: %v, %v", info.Mode(), err)
	}
}

// TestSourcePipe demands that a pipe among the blobs is an error, not a wait.
func TestSourcePipe(t *testing.T) {
	dir := t.TempDir()
	desc := describeBytes("application/octet-stream", []byte("blob"))
	blobs := filepath.Join(dir, "blobs", "sha256")
	must(t, os.MkdirAll(blobs, 0o755))
	must(t, syscall.Mkfifo(filepath.Join(blobs, desc.Digest.Encoded()), 0o600))
	if _, err := (&Source{path: dir}).Fetch(t.Context(), desc); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("error %v", err)
	}
}

// TestLayoutShared demands that several users of a layout, as processes are, lose nothing of its index.json.
func TestLayoutShared(t *testing.T) {
	dir := t.TempDir()
	const users, each = 4, 20
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			for i := range each {
				l, err := OpenLayout(t.Context(), dir)
				if err != nil {
					t.Error(err)
					return
				}
				p := []byte(`{"n":` + strconv.Itoa(u*each+i) + `}`)
				desc := describeBytes(ocispec.MediaTypeImageManifest, p)
				if err := l.Push(t.Context(), desc, bytes.NewReader(p)); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					if err := l.Delete(t.Context(), desc.Digest); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	p, err := os.ReadFile(filepath.Join(dir, "index.json"))
	must(t, err)
	var idx ocispec.Index
	must(t, json.Unmarshal(p, &idx))
	if len(idx.Manifests) != users*each/2 {
		t.Errorf("%d manifests, want %d", len(idx.Manifests), users*each/2)
	}
}
