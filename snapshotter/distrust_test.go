// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/fs/span"
)

// first returns the name of the repository that is asked first.
func (s *layerSource) first() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[0]
}

// TestDistrustOnce has answers of several spans be wrong: for each answer of the first
// repository another one is asked, however many spans say so.
func TestDistrustOnce(t *testing.T) {
	data := make([]byte, 100)
	a, b := &flakyBlob{data: data, good: 100}, &flakyBlob{data: data, good: 100}
	for _, spans := range []int{1, 2, 3, 4} {
		s := &layerSource{size: 100}
		s.add("b", b)
		s.add("a", a)
		// Two answers at once.
		must(readSource(t.Context(), s, 0, 50))(t)
		must(readSource(t.Context(), s, 50, 50))(t)
		for i := range spans {
			s.Distrust(int64(10*i), 10)
			s.Distrust(int64(50+10*i), 10)
		}
		if got := s.first(); got != "b" {
			t.Errorf("after %d wrong spans %s is asked first", spans, got)
		}
		// The other is no better.
		must(readSource(t.Context(), s, 0, 20))(t)
		s.Distrust(0, 10)
		s.Distrust(10, 10)
		s.Distrust(20, 10) // late: of the first answer
		if got := s.first(); got != "a" {
			t.Errorf("after wrong spans of both %s is asked first", got)
		}
	}
}

// TestDistrustDownload has a download be wrong: the one that takes its place is not ended by
// those who have found more wrong bytes in the first.
func TestDistrustDownload(t *testing.T) {
	a, b := newPipeBlob(1000), newPipeBlob(1000)
	s := wholeSource(t, 1000, a, b)
	read := func(sender, other *pipeBlob, off int64) {
		t.Helper()
		got := later(t.Context(), t, s, off, 100)
		body := <-sender.opens
		must(body.Write(sender.data))(t)
		check(t, body.Close())
		check(t, (<-got).err)
		// The other one has answered, too, where it was asked.
		for len(other.opens) > 0 {
			<-other.opens
		}
	}
	read(a, b, 500)
	must(readSource(t.Context(), s, 700, 100))(t) // of the same download
	s.Distrust(500, 50)
	read(b, a, 500)
	s.Distrust(550, 1) // is b's by now
	if s.whole != nil {
		t.Error("a wrong download is kept")
	}
	if got := s.first(); got != "a" {
		t.Errorf("%s is asked first", got)
	}
	read(a, b, 500)
	s.Distrust(700, 50) // of a's first download
	if s.whole == nil || s.first() != "a" {
		t.Error("a download is ended for what another one has sent")
	}
}

// lyingBlob sends zeros.
type lyingBlob struct{ blob }

func (b *lyingBlob) OpenRange(_ context.Context, _, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(make([]byte, n))), nil
}

// TestWrongRepository reads a layer of many spans that one repository has wrong and another right.
func TestWrongRepository(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	good := newImage(t, m, "registry.test/good:1", 1).build(t, -1)
	bad := *good
	bad.name = "registry.test/bad:1"
	fakes := f.ports
	f.ports = func() ports {
		p := fakes()
		check(t, p.spans.Close())
		p.spans = must(span.Open(spansDir(f.opts.Root), span.Options{Retries: 1}))(t)
		p.repos = func(image string) (repository, error) {
			r, err := m.repos(image)
			honest := r.blob
			if strings.HasPrefix(image, "registry.test/bad") {
				r.blob = func(d ocispec.Descriptor) blob { return &lyingBlob{honest(d)} }
			}
			return r, err
		}
		return p
	}
	f.restart(func() {})
	f.prepareAll(good)
	l, _ := f.layers.get(good.key(0))
	l.mu.Lock()
	err := f.layers.addImage(l, bad.name)
	l.mu.Unlock()
	check(t, err)
	data, zi := l.spans()
	if len(zi.Spans) < 4 {
		t.Fatalf("only %d spans", len(zi.Spans))
	}
	got := make([]byte, data.Size())
	check(t, data.ReadAt(t.Context(), got, 0))
	if !bytes.Equal(got, good.tars[0]) {
		t.Error("wrong bytes")
	}
}
