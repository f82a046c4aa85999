// SPDX-License-Identifier: Apache-2.0

package ztoctest_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

func mustTar(t *testing.T, files []ztoctest.File, opts ztoctest.TarOptions) []byte {
	t.Helper()
	p, err := ztoctest.Tar(files, opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTar(t *testing.T) {
	files := ztoctest.Files(1, 20)
	archive := mustTar(t, files, ztoctest.TarOptions{Prefix: "./", Padding: 9000})
	if again := mustTar(t, ztoctest.Files(1, 20), ztoctest.TarOptions{Prefix: "./", Padding: 9000}); !bytes.Equal(archive, again) {
		t.Fatal("two builds of one tree differ")
	}
	r := tar.NewReader(bytes.NewReader(archive))
	for _, f := range files {
		hdr, err := r.Next()
		if err != nil {
			t.Fatalf("at %q: %v", f.Name, err)
		}
		if hdr.Name != "./"+f.Name {
			t.Fatalf("name %q, want %q", hdr.Name, "./"+f.Name)
		}
		data, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(data, f.Data) {
			t.Fatalf("data of %q differ (%v)", f.Name, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("after the last entry: %v, want io.EOF", err)
	}
}

func TestEncoders(t *testing.T) {
	archive := mustTar(t, append(ztoctest.Files(1, 0)[:17], ztoctest.Big(1, "big", 300000)), ztoctest.TarOptions{})
	for _, e := range ztoctest.Encoders() {
		t.Run(e.Name, func(t *testing.T) {
			if !e.Available() {
				t.Skip("encoder is not installed")
			}
			layer, err := e.Encode(archive)
			if err != nil {
				t.Fatal(err)
			}
			z, err := gzip.NewReader(bytes.NewReader(layer))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, archive) {
				t.Fatalf("does not decode to the archive (%v)", err)
			}
		})
	}
}
