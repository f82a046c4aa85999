// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// Open streams the blob from its beginning, resuming by range where a body is
// cut short, and verifies size and digest at its end. The stream ends with ctx.
func (b *Blob) Open(ctx context.Context) (io.ReadCloser, error) {
	err := checkDescriptor(b.desc)
	if err == nil {
		s := &stream{blob: b, hash: b.desc.Digest.Algorithm().Hash(), end: b.desc.Size}
		if err = s.begin(ctx); err == nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("open %s in %s: %w", b.desc.Digest, b.repo.Name(), ended(ctx, err))
}

// OpenRange streams the n bytes at off, resuming where a body is cut short. They are
// not verified: Read gives all of them and then io.EOF, or an error. The stream ends
// with ctx; how slowly it is read does not matter, but a server may not wait, and is
// then asked again.
func (b *Blob) OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s := b.part(off, n)
	if err := s.beginPart(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// OpenRangeOrWhole is OpenRange for a caller who can use the whole blob. Where mirrors
// and origin ignore the range and send all of the blob, nothing is skipped: whole is
// true, and the stream is that of Open, all of the blob from its beginning, verified at
// its end. An answer of all of the blob to a range of all of the blob is a range.
func (b *Blob) OpenRangeOrWhole(ctx context.Context, off, n int64) (body io.ReadCloser, whole bool, err error) {
	s := b.part(off, n)
	s.a.keep = true
	if err := s.beginPart(ctx); err != nil {
		return nil, false, err
	}
	s.a.keep = false // to resume is to ask for what is missing
	if s.ans == nil || !s.ans.all {
		return s, false, nil
	}
	s.off, s.mark, s.end, s.hash = 0, 0, b.desc.Size, b.desc.Digest.Algorithm().Hash()
	s.ans.skip, s.ans.n = 0, b.desc.Size
	return s, true, nil
}

// part is a stream of the n bytes at off that has not begun.
func (b *Blob) part(off, n int64) *stream {
	return &stream{blob: b, off: off, mark: off, end: off + n}
}

// beginPart checks the range and opens the first body.
func (s *stream) beginPart(ctx context.Context) error {
	b, off, n := s.blob, s.off, s.end-s.off
	err := checkDescriptor(b.desc)
	if err == nil && (off < 0 || n < 0 || n > b.desc.Size || off > b.desc.Size-n) {
		err = fmt.Errorf("blob has %d bytes: %w", b.desc.Size, ErrRange)
	}
	if err == nil && n > 0 {
		err = s.begin(ctx)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("open %d bytes at %d of %s in %s: %w", n, off, b.desc.Digest, b.repo.Name(), ended(ctx, err))
}

// stream is a blob, or a part of it, being read from begin to end.
type stream struct {
	blob *Blob
	a    attempts
	hash hash.Hash // nil if it is a part, which cannot be verified
	ans  *answer   // nil between two requests
	off  int64     // of the next byte in the blob
	end  int64     // offset behind the last byte
	mark int64     // off at the last failure
	err  error     // what every further Read returns

	open func() error      // opens ans at off
	wait func(error) error // waits before the next attempt, or says that there is none
	over func() error      // says why the stream has ended
}

// begin opens the first body.
func (s *stream) begin(ctx context.Context) error {
	c := s.blob.repo.client
	s.a.blob, s.a.backoff = s.blob, c.backoff()
	s.a.backoff.total = c.opts.Timeouts.Total
	s.open = func() error { return s.reopen(ctx) }
	s.wait = func(err error) error { return s.a.backoff.next(ctx, err) }
	s.over = ctx.Err
	return s.open()
}

// reopen opens the body at s.off, with as many requests as it takes.
func (s *stream) reopen(ctx context.Context) error {
	for {
		// A resumed body is asked for by range; a whole one is not, for the sake of simple servers.
		ans, err := s.a.open(ctx, span{s.off, s.end - s.off}, s.off == 0 && s.hash != nil)
		if err == nil {
			s.ans = ans
			return nil
		}
		if err := s.a.backoff.next(ctx, err); err != nil {
			return err
		}
	}
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.read(p)
	if err != nil {
		s.close()
		s.err = err
		if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			s.err = fmt.Errorf("read %s in %s: %w", s.blob.desc.Digest, s.blob.repo.Name(), err)
		}
		return n, s.err
	}
	return n, nil
}

func (s *stream) read(p []byte) (int, error) {
	for {
		if s.off == s.end {
			return 0, s.verify()
		}
		if len(p) == 0 {
			return 0, nil
		}
		if err := s.over(); err != nil {
			return 0, err // though bytes may have come
		}
		if s.ans == nil {
			if err := s.open(); err != nil {
				return 0, err
			}
		}
		n, err := s.ans.body.Read(p[:min(int64(len(p)), s.ans.n)])
		s.off, s.ans.n = s.off+int64(n), s.ans.n-int64(n)
		if s.hash != nil {
			s.hash.Write(p[:n])
		}
		if s.off == s.end || err == nil && s.ans.n > 0 {
			if n > 0 {
				return n, nil
			}
			continue
		}
		if err := s.interrupted(err); err != nil || n > 0 {
			return n, err
		}
	}
}

// interrupted ends a body before the blob's end and waits for the next attempt.
func (s *stream) interrupted(err error) error {
	ans := s.ans
	s.close()
	s.a.backoff.progress(s.off - s.mark)
	s.mark = s.off
	if ans.n == 0 && (err == nil || errors.Is(err, io.EOF)) {
		if !s.a.backoff.more() { // the answer was shorter than asked for, but good
			return io.ErrUnexpectedEOF
		}
		return nil
	}
	return s.wait(s.blob.broken(ans, err))
}

// verify returns io.EOF if the blob is what its descriptor promised, or a part of one.
func (s *stream) verify() error {
	if s.hash == nil {
		return io.EOF
	}
	want := s.blob.desc.Digest
	if got := fmt.Sprintf("%s:%x", want.Algorithm(), s.hash.Sum(nil)); got != want.String() {
		s.blob.Distrust(0, s.end) // the next who fetches it asks somebody else, if there is one
		return fmt.Errorf("digest is %s: %w", got, ErrDigest)
	}
	return io.EOF
}

func (s *stream) close() {
	if s.ans != nil {
		_ = s.ans.body.Close() // a read-only body has nothing to tell
		s.ans = nil
	}
}

// Close ends the stream.
func (s *stream) Close() error {
	s.close()
	if s.err == nil {
		s.err = os.ErrClosed
	}
	return nil
}
