// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestGenerated: a generated layer is a gzip of a tar, of the size, files and digest it says, each time.
func TestGenerated(t *testing.T) {
	pool := []piece{{plain: ztoctest.Big(1, "a", 200<<10).Data}, {plain: ztoctest.Big(2, "b", 70<<10+1).Data}}
	if err := compress(pool); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		g     generated
		files int // at least
	}{
		{"large", generated{pool: pool, size: 3 << 20}, 1},
		{"small", generated{pool: pool, files: 300}, 300},
		{"empty", generated{pool: pool}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := tt.g
			var a, b bytes.Buffer
			if err := errors.Join(g.measure(&a), g.write(&b)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a.Bytes(), b.Bytes()) || int64(a.Len()) != g.gzip {
				t.Errorf("written twice: %d and %d bytes, want equal ones of %d", a.Len(), b.Len(), g.gzip)
			}
			z, err := gzip.NewReader(&a)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.New()
			in := &counter{r: io.TeeReader(z, sum)}
			files := 0
			for r := tar.NewReader(in); ; files++ {
				if _, err := r.Next(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := io.Copy(io.Discard, in); err != nil {
				t.Fatal(err)
			}
			if got := digest.NewDigest(digest.SHA256, sum); got != g.diffID || in.n != g.tar {
				t.Errorf("%d bytes of digest %s, want %d of %s", in.n, got, g.tar, g.diffID)
			}
			if files < tt.files || g.size == 0 && files != tt.files || in.n < g.size {
				t.Errorf("%d files, %d bytes", files, in.n)
			}
		})
	}
}
