// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// flakyBlob is a blob of which only the bytes up to good can be read.
type flakyBlob struct {
	data   []byte
	good   int64 // less than 0: it cannot be opened
	opened int
}

var errFlaky = errors.New("flaky")

func (b *flakyBlob) Size() int64 { return int64(len(b.data)) }

func (b *flakyBlob) Open(ctx context.Context) (io.ReadCloser, error) {
	return b.OpenRange(ctx, 0, b.Size())
}

func (b *flakyBlob) OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	b.opened++
	if b.good < 0 {
		return nil, errFlaky
	}
	end := max(off, min(off+n, b.good))
	r := io.Reader(bytes.NewReader(b.data[off:end]))
	if end < off+n {
		r = io.MultiReader(r, iotest.ErrReader(errFlaky))
	}
	return io.NopCloser(iotest.OneByteReader(r)), nil
}

func TestLayerSource(t *testing.T) {
	data := []byte("the compressed bytes of a layer, as it were")
	size := int64(len(data))
	for _, c := range []struct {
		name   string
		good   []int64 // of the blobs, in the order in which they are asked
		ok     bool
		opened []int
		first  int // which blob is asked first the next time
	}{
		{"good", []int64{size, size}, true, []int{1, 0}, 0},
		{"does not open", []int64{-1, size}, true, []int{1, 1}, 1},
		{"breaks", []int64{10, size}, true, []int{1, 1}, 1},
		{"each breaks later", []int64{10, 20, size}, true, []int{1, 1, 1}, 2},
		{"all break", []int64{10, 20, -1}, false, []int{1, 1, 1}, 1},
		{"nobody", nil, false, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &layerSource{size: size}
			blobs := make([]*flakyBlob, len(c.good))
			for i := len(blobs) - 1; i >= 0; i-- {
				blobs[i] = &flakyBlob{data: data, good: c.good[i]}
				s.add(string(rune('a'+i)), blobs[i])
			}
			got, err := readSource(t.Context(), s, 3, size-5)
			if c.ok && (err != nil || !bytes.Equal(got, data[3:size-2])) || !c.ok && err == nil {
				t.Errorf("%q, %v", got, err)
			}
			if len(blobs) > 0 && !c.ok && !errors.Is(err, errFlaky) {
				t.Errorf("error is %v", err)
			}
			for i, b := range blobs {
				if b.opened != c.opened[i] {
					t.Errorf("blob %d was opened %d times, want %d", i, b.opened, c.opened[i])
				}
			}
			if len(blobs) > 0 && s.blobs[0] != blob(blobs[c.first]) {
				t.Errorf("blob %d is not the first", c.first)
			}
		})
	}
}

// TestLayerSourceEnds ends a stream by its context: nobody else is asked then.
func TestLayerSourceEnds(t *testing.T) {
	data := make([]byte, 100)
	a, b := &flakyBlob{data: data, good: 10}, &flakyBlob{data: data, good: 100}
	s := &layerSource{size: 100}
	s.add("b", b)
	s.add("a", a)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.Open(ctx, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if n, err := io.Copy(io.Discard, r); n != 10 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if b.opened != 0 {
		t.Error("the other repository was asked for nobody")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read after Close: %v", err)
	}
}

func readSource(ctx context.Context, s *layerSource, off, n int64) ([]byte, error) {
	r, err := s.Open(ctx, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
