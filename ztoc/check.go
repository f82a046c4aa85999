// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bufio"
	"context"
	_ "crypto/sha512" // for go-digest
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// maxFaults bounds the faults of spans, and those of entries, that Check tells of.
const maxFaults = 8

// CheckOptions configures Check.
type CheckOptions struct {
	LayerDigest digest.Digest // the layer is to have, of any algorithm; "" means any
	DiffID      digest.Digest // it is to have uncompressed; "" means any, and so does one that is no SHA-256
	TempDir     string        // for what Check does not keep in memory; "" means os.TempDir
}

// Checked is what Check learnt of a layer and its zTOC.
type Checked struct {
	LayerDigest, DiffID              digest.Digest // of the layer
	CompressedSize, UncompressedSize int64         // of the layer
	Spans, Entries                   int           // of the zTOC
	// Faults are the ways in which the zTOC, or the layer, is not what it should be: of sizes and digests all, then
	// of spans and of entries the first 8 each. None is a sound zTOC.
	Faults []error
}

// Check reads the layer once, to its end, and holds the zTOC to it: every span has its
// digest and decodes on its own to the bytes that the layer has there, the entries are
// the headers of its tar, paths lead to them, sizes and digests are right.
//
// The layer is inflated twice, by the inflater that made zTOCs and by one that has
// nothing in common with it; the spans are compared with the output of the latter.
// Beside a Survey that takes the memory of one span. The error is that of the layer, as
// of [NewSurvey]: what is wrong with the zTOC are Faults.
func (r *Reader) Check(ctx context.Context, layer io.Reader, opts CheckOptions) (*Checked, error) {
	for _, d := range []digest.Digest{opts.LayerDigest, opts.DiffID} {
		if err := d.Validate(); d != "" && err != nil {
			return nil, fmt.Errorf("check zTOC: digest %q of the layer: %w", d, err)
		}
	}
	c := &checker{r: r, result: Checked{Entries: r.Len(), Spans: len(r.ZInfo().Spans)}}
	if d := opts.DiffID; d != "" && d.Algorithm() != digest.Canonical {
		opts.DiffID = ""
	}
	if d := opts.LayerDigest; d != "" && d.Algorithm() != digest.Canonical {
		v := d.Verifier()
		layer = io.TeeReader(layer, v)
		defer func() {
			if !v.Verified() {
				c.result.Faults = append(c.result.Faults, fmt.Errorf("the layer does not have the digest %s", d))
			}
		}()
		opts.LayerDigest = ""
	}
	pr, pw := io.Pipe()
	spans := make(chan struct{})
	go func() {
		defer close(spans)
		c.spans(pr)
		_, _ = io.Copy(io.Discard, pr) // the layer is to be read on, whatever was found
	}()
	s, err := NewSurvey(ctx, io.TeeReader(layer, pw), SurveyOptions{
		BuildOptions: BuildOptions{Compression: r.ZInfo().Compression}, TempDir: opts.TempDir,
	})
	pw.CloseWithError(err) //nolint:errcheck // it returns none
	<-spans
	if err != nil {
		return nil, err
	}
	c.layer(s, opts)
	c.entries(s.Entries())
	c.result.Faults = slices.Concat(c.ofLayer, c.ofSpans, c.ofEntries)
	if err := errors.Join(s.Err(), s.Close()); err != nil {
		return nil, fmt.Errorf("check zTOC: %w", err)
	}
	return &c.result, nil
}

// checker is one Check under way.
type checker struct {
	r      *Reader
	result Checked

	ofLayer, ofSpans, ofEntries faults
}

// faults are the first faults of a kind.
type faults []error

func (f *faults) add(format string, args ...any) {
	if len(*f) < maxFaults {
		*f = append(*f, fmt.Errorf(format, args...))
	}
}

// layer compares sizes and digests.
func (c *checker) layer(s *Survey, opts CheckOptions) {
	c.result.LayerDigest, c.result.DiffID = s.LayerDigest(), s.DiffID()
	c.result.CompressedSize, c.result.UncompressedSize = s.CompressedSize(), s.UncompressedSize()
	z := c.r.ZInfo()
	for _, f := range []struct {
		what, has string
		want      string // "" if it is not said
		who       string // says so
	}{
		{"digest", string(s.LayerDigest()), string(opts.LayerDigest), ""},
		{"digest", string(s.LayerDigest()), string(c.r.LayerDigest()), "the zTOC says "},
		{"diffID", string(s.DiffID()), string(opts.DiffID), ""},
		{"diffID", string(s.DiffID()), string(c.r.DiffID()), "the zTOC says "},
		{"size", strconv.FormatInt(s.CompressedSize(), 10), strconv.FormatInt(z.CompressedSize, 10), "the zTOC says "},
		{"uncompressed size", strconv.FormatInt(s.UncompressedSize(), 10), strconv.FormatInt(z.UncompressedSize, 10), "the zTOC says "},
	} {
		if f.want != "" && f.has != f.want {
			who := f.who
			if who == "" {
				who = "not "
			}
			c.ofLayer.add("the layer has %s %s, %s%s", f.what, f.has, who, f.want)
		}
	}
}

// entries compares the TOC with the layer's entries.
func (c *checker) entries(layer iter.Seq2[int, Entry]) {
	next, stop := iter.Pull2(c.r.Entries())
	defer stop()
	n, cut := 0, false
	for i, want := range layer {
		n++
		if cut || n > c.r.Len() {
			continue
		}
		_, have, ok := next()
		if cut = !ok; cut {
			c.ofEntries.add("entry %d %q: malformed", i, clip(want.Name))
			continue
		}
		if c.r.c == nil {
			want.ModTime = wireTime(want.ModTime)
		}
		if what := entryDiff(&have, &want); what != "" {
			c.ofEntries.add("entry %d %q: %s", i, clip(want.Name), what)
		}
	}
	if n != c.r.Len() {
		c.ofEntries.add("the layer has %d entries, the zTOC %d", n, c.r.Len())
	}
	if c.r.c == nil || cut {
		return
	}
	// All entries can be right where the names that Lookup goes by are not.
	if err := c.r.c.Check(); err != nil {
		c.ofEntries.add("%w", err)
	}
}

// entryDiff says how the entry a of a zTOC differs from b of the layer, "" if not at all.
func entryDiff(a, b *Entry) string {
	for _, f := range []struct {
		field      string
		have, want any
	}{
		{"name", strconv.Quote(clip(a.Name)), strconv.Quote(clip(b.Name))},
		{"type", a.Type, b.Type},
		{"link name", strconv.Quote(clip(a.Linkname)), strconv.Quote(clip(b.Linkname))},
		{"offset", a.Offset, b.Offset},
		{"size", a.Size, b.Size},
		{"mode", a.Mode, b.Mode},
		{"user", a.UID, b.UID},
		{"group", a.GID, b.GID},
		{"user name", strconv.Quote(clip(a.Uname)), strconv.Quote(clip(b.Uname))},
		{"group name", strconv.Quote(clip(a.Gname)), strconv.Quote(clip(b.Gname))},
		{"major device number", a.Devmajor, b.Devmajor},
		{"minor device number", a.Devminor, b.Devminor},
	} {
		if f.have != f.want {
			return fmt.Sprintf("%s is %v, in the layer %v", f.field, f.have, f.want)
		}
	}
	switch {
	case a.Name != b.Name || a.Linkname != b.Linkname || a.Uname != b.Uname || a.Gname != b.Gname:
		return "a long name differs"
	case !a.ModTime.Equal(b.ModTime):
		return fmt.Sprintf("time is %s, in the layer %s", a.ModTime.UTC(), b.ModTime.UTC())
	case !slices.Equal(a.PAX, b.PAX):
		return "PAX records differ"
	}
	return ""
}

// spans checks every span against the compressed layer that r delivers.
func (c *checker) spans(r io.Reader) {
	z := c.r.ZInfo()
	in := &backlog{r: r}
	plain, err := inflated(in, z.Compression)
	if err != nil {
		c.ofSpans.add("read the layer: %w", err)
		return
	}
	var dst []byte
	var buf [64 << 10]byte
	for id := range z.Spans {
		sp := &z.Spans[id]
		if err := in.fill(sp.In.End()); err != nil {
			c.ofSpans.add("span %d: its bytes [%d,+%d) are not in the layer", id, sp.In.Off, sp.In.Len)
			return
		}
		src := in.slice(sp.In)
		if dst = slices.Grow(dst[:0], int(sp.Out.Len))[:sp.Out.Len]; !c.decode(dst, id, src) {
			dst = dst[:0]
		}
		if err := compare(plain, dst, sp.Out, buf[:]); err != nil {
			c.ofSpans.add("span %d: %w", id, err)
			if !errors.Is(err, errBytes) {
				return
			}
		}
		if id+1 < len(z.Spans) {
			in.drop(z.Spans[id+1].In.Off)
		}
	}
}

// inflated returns what r delivers, uncompressed.
func inflated(r io.Reader, c Compression) (io.Reader, error) {
	if c != Gzip {
		return r, nil
	}
	return gzip.NewReader(bufio.NewReaderSize(r, 64<<10))
}

// decode verifies and decodes a span.
func (c *checker) decode(dst []byte, id int, src []byte) bool {
	z := c.r.ZInfo()
	if err := z.Verify(id, src); err != nil {
		c.ofSpans.add("%w", err)
		return false
	}
	if len(dst) == 0 {
		return true
	}
	if err := z.Decode(dst, id, src); err != nil {
		c.ofSpans.add("%w", err)
		return false
	}
	return true
}

// errBytes says that a span decodes to other bytes than the layer has.
var errBytes = errors.New("decodes to other bytes than the layer has")

// compare reads the bytes out of the layer from r and compares them with what was
// decoded, have, unless that is empty. The error matches errBytes if they differ.
func compare(r io.Reader, have []byte, out Range, buf []byte) (diff error) {
	for done := int64(0); done < out.Len; {
		p := buf[:min(int64(len(buf)), out.Len-done)]
		if _, err := io.ReadFull(r, p); err != nil {
			return fmt.Errorf("the layer ends within [%d,+%d): %w", out.Off, out.Len, noEOF(err))
		}
		for i := 0; i < len(p) && diff == nil && len(have) > 0; i++ {
			if at := done + int64(i); p[i] != have[at] {
				diff = fmt.Errorf("%w at offset %d: %#02x, not %#02x", errBytes, out.Off+at, have[at], p[i])
			}
		}
		done += int64(len(p))
	}
	return diff
}

// backlog reads a stream and keeps what is read from a certain offset on.
type backlog struct {
	r    io.Reader
	kept []byte // the bytes from offset off on
	off  int64
	pos  int64 // of the next byte that Read returns
}

// Read reads on.
func (b *backlog) Read(p []byte) (int, error) {
	if b.pos == b.end() {
		if err := b.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.kept[b.pos-b.off:])
	b.pos += int64(n)
	return n, nil
}

func (b *backlog) end() int64 { return b.off + int64(len(b.kept)) }

// more reads and keeps at least one byte.
func (b *backlog) more() error {
	b.kept = slices.Grow(b.kept, 64<<10)
	n, err := io.ReadAtLeast(b.r, b.kept[len(b.kept):][:64<<10], 1)
	b.kept = b.kept[:len(b.kept)+n]
	return err
}

// fill reads ahead of Read up to offset end.
func (b *backlog) fill(end int64) error {
	for b.end() < end {
		if err := b.more(); err != nil {
			return err
		}
	}
	return nil
}

// slice returns the bytes r, which are kept. They are valid until the next call of another method.
func (b *backlog) slice(r Range) []byte { return b.kept[r.Off-b.off:][:r.Len] }

// drop keeps only what comes from offset to on, and what Read has not returned yet.
func (b *backlog) drop(to int64) {
	n := max(0, min(to, b.pos)-b.off)
	b.kept = b.kept[:copy(b.kept, b.kept[n:])]
	b.off += n
}

// CheckTOC compares the TOC with the headers of the uncompressed layer that tar
// delivers. The faults are those of Check that are the entries'. An error says
// that tar could not be read, or is not one.
func (r *Reader) CheckTOC(ctx context.Context, tar io.Reader) (faults []error, err error) {
	var (
		c   = checker{r: r}
		buf = make([]byte, pieceSize)
		s   = stream{next: func() ([]byte, error) {
			n, err := fill(ctx, tar, buf)
			if n > 0 && err == io.EOF {
				err = nil // it comes again
			}
			return buf[:n], err
		}}
	)
	c.entries(func(yield func(int, Entry) bool) {
		i := 0
		err = walk(&s, func(e *Entry) error {
			if !yield(i, *e) {
				return errStop
			}
			i++
			return nil
		})
	})
	if err != nil && err != errStop {
		return nil, fmt.Errorf("check TOC: %w", err)
	}
	return c.ofEntries, nil
}
