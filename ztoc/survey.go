// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"
)

// SurveyOptions configures NewSurvey.
type SurveyOptions struct {
	BuildOptions
	CompactSpanSize int64  // target uncompressed bytes a span of the compact zTOC; 0: no compact zTOC, else MinCompactSpan to MaxSpan/2
	TempDir         string // of what does not stay in memory; "" means os.TempDir
}

// Survey is all that one reading of a layer finds out: its digests, its files, and
// what its zTOCs are made of. It takes little memory for a layer of any size: what
// is beyond some MiB lies in temporary files. Close it. It is not for concurrent use, but
// that both zTOCs may be written at the same time.
type Survey struct {
	tool    string
	zinfo   *ZInfo  // without windows
	windows []int64 // where they are in the spool, by span; noWindow for one of zeros
	scratch []byte  // the window that was read last

	layer, diffID [32]byte
	compactSums   [][32]byte // digests of the compact spans
	compactSize   int64      // their target size; 0: none
	planner       *planner   // of them

	spool  *spool // of windows
	sparse *spool // of compact windows
	tape   tape   // of entries
	err    error  // of the last iteration over the entries
}

// noWindow is the place of a window of zeros.
const noWindow = -1

// NewSurvey reads a layer once from r to its end. What Build says of r and of
// errors holds here too.
func NewSurvey(ctx context.Context, r io.Reader, opts SurveyOptions) (*Survey, error) {
	pass, tool, err := opts.pass()
	if err != nil {
		return nil, err
	}
	s := &Survey{tool: tool, spool: newSpool(opts.TempDir), sparse: newSpool(opts.TempDir), scratch: make([]byte, windowSize)}
	s.tape.spool = newSpool(opts.TempDir)
	if s.compactSize = opts.CompactSpanSize; s.compactSize != 0 {
		if s.compactSize < MinCompactSpan || s.compactSize > MaxSpan/2 {
			return nil, fmt.Errorf("compact span size %d: %w: it is %d to %d", s.compactSize, ErrUnsupported, MinCompactSpan, MaxSpan/2)
		}
		s.planner = newPlanner(s.compactSize, s.sparse)
		pass.planner, pass.compactSize = s.planner, s.compactSize
	}
	pass.digests = true
	pass.entry = s.tape.add
	pass.window = s.addWindow
	res, err := pass.run(ctx, r)
	if err == nil {
		err = s.tape.cut()
	}
	if err != nil {
		return nil, errors.Join(layerError(err), s.Close())
	}
	s.zinfo, s.layer, s.diffID, s.compactSums = res.zinfo, res.layer, res.diffID, res.compact
	return s, nil
}

// addWindow keeps the next span's window.
func (s *Survey) addWindow(p []byte) error {
	if p == nil {
		s.windows = append(s.windows, noWindow)
		return nil
	}
	n := windowSize - len(p)
	clear(s.scratch[:n])
	copy(s.scratch[n:], p)
	s.windows = append(s.windows, s.spool.size())
	return s.spool.append(s.scratch)
}

// window returns the window of span i, valid until the next call.
func (s *Survey) window(i int) ([]byte, error) {
	if i >= len(s.windows) || s.windows[i] == noWindow {
		return nil, nil
	}
	return s.scratch, s.spool.read(s.scratch, s.windows[i])
}

// LayerDigest is the digest of the layer as it was read.
func (s *Survey) LayerDigest() digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA256, s.layer[:])
}

// DiffID is the digest of the layer's uncompressed bytes, those behind the tar's end included.
func (s *Survey) DiffID() digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA256, s.diffID[:])
}

// CompressedSize is the size of the layer.
func (s *Survey) CompressedSize() int64 { return s.zinfo.CompressedSize }

// UncompressedSize is the uncompressed offset just behind the tar's end-of-archive marker.
func (s *Survey) UncompressedSize() int64 { return s.zinfo.UncompressedSize }

// Compression is the compression of the layer.
func (s *Survey) Compression() Compression { return s.zinfo.Compression }

// Spans is the number of spans of zTOC 0.9.
func (s *Survey) Spans() int { return len(s.zinfo.Spans) }

// SpansOf returns the ids [first, end) of the spans of zTOC 0.9 that hold uncompressed
// range r, which must lie within the layer. An empty range has no spans.
func (s *Survey) SpansOf(r Range) (first, end int) { return s.zinfo.SpansOf(r) }

// Len is the number of entries.
func (s *Survey) Len() int { return s.tape.count() }

// Entries returns the entries in the order of the tar, each with its index. Should
// the temporary file fail the sequence ends early: Err tells.
func (s *Survey) Entries() iter.Seq2[int, Entry] {
	return s.tape.all(tapeReader{keep: true}, &s.err)
}

// Err is the error that ended the last sequence of Entries early.
func (s *Survey) Err() error { return s.err }

// WriteZTOC writes the layer's zTOC 0.9 to w: the bytes that Marshal makes of what
// Build returns. A zTOC of more than MaxSize bytes is ErrLimit, before anything is
// written.
func (s *Survey) WriteZTOC(w io.Writer) error {
	m := wireWriter{version: version, tool: s.tool, entries: &s.tape, zinfo: s.zinfo, window: s.window}
	if err := m.measure(); err != nil {
		return fmt.Errorf("marshal zTOC: %w", err)
	}
	const buffer = 256 << 10
	buf := bufio.NewWriterSize(w, buffer)
	if err := m.write(buf); err != nil {
		return fmt.Errorf("write zTOC: %w", err)
	}
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("write zTOC: %w", err)
	}
	return nil
}

// Close frees what the survey holds.
func (s *Survey) Close() error {
	if err := errors.Join(s.spool.Close(), s.sparse.Close(), s.tape.spool.Close()); err != nil {
		return fmt.Errorf("close survey: %w", err)
	}
	return nil
}
