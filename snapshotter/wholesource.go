// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"io"
	"os"
	"time"
)

// ask opens a range of the layer, or gets an offer of all of it.
func (r *sourceReader) ask(b blob) (io.ReadCloser, *offer, error) {
	w, ok := b.(wholeBlob)
	if !ok || r.plain || r.s.dir == "" {
		body, err := b.OpenRange(r.ctx, r.off, r.end-r.off)
		return body, nil, err
	}
	// What turns out to be all of the layer outlives r.ctx.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.ctx))
	stop := context.AfterFunc(r.ctx, cancel)
	body, whole, err := w.OpenRangeOrWhole(ctx, r.off, r.end-r.off)
	switch {
	case err != nil:
		stop()
		cancel()
		return nil, nil, err
	case whole:
		return nil, &offer{from: b, body: body, cancel: cancel, keep: stop}, nil
	}
	if r.end-r.off < r.s.size { // else the answer says nothing
		r.s.gives()
	}
	return &rangeBody{body, func() { stop(); cancel() }}, nil, nil
}

// gives notes that parts of the layer are to be had.
func (s *layerSource) gives() {
	if s.unranged.CompareAndSwap(true, false) && s.changed != nil {
		s.changed()
	}
}

// refuses notes that they are not.
func (s *layerSource) refuses() {
	if s.unranged.CompareAndSwap(false, true) && s.changed != nil {
		s.changed()
	}
}

// rangeBody is a stream with a context of its own.
type rangeBody struct {
	io.ReadCloser
	end func()
}

// Close ends the stream.
func (b *rangeBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// join returns a reader of the download under way, nil if there is none.
func (s *layerSource) join(ctx context.Context, off int64) *downloadReader {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.whole == nil || s.whole.ended() != nil {
		return nil
	}
	return s.reader(ctx, s.whole, off)
}

// reader returns a reader of d. The caller holds s.mu.
func (s *layerSource) reader(ctx context.Context, d *download, off int64) *downloadReader {
	d.readers++
	d.refs++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	return &downloadReader{ctx: ctx, d: d, off: off, leave: func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		d.readers--
		s.rest(d)
		s.release(d)
	}}
}

// adopt makes a download of an offer, unless there is one, and returns a reader of it.
func (s *layerSource) adopt(ctx context.Context, o *offer, off int64) (*downloadReader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		o.close()
		return nil, os.ErrClosed
	}
	if s.whole != nil && s.whole.ended() == nil {
		o.close()
		return s.reader(ctx, s.whole, off), nil
	}
	file, err := newDownloadFile(s.dir, s.size)
	if err != nil {
		o.close()
		return nil, err
	}
	if !o.keep() {
		o.close()
		_ = file.Close() // nothing was written
		return nil, ctx.Err()
	}
	if s.whole != nil {
		s.retire(s.whole)
	}
	d := &download{size: s.size, from: o.from, file: file, cancel: o.cancel, refs: 2}
	d.by = &sender{from: o.from, whole: d}
	s.whole = d
	s.refuses()
	s.downloads.Go(func() {
		err := d.run(o.body)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != io.EOF {
			s.retire(d) // the next Open asks anew
		}
		s.rest(d)
		s.release(d)
	})
	return s.reader(ctx, d, off), nil
}

// rest gives a download that nobody reads from a time to live. The caller holds s.mu.
func (s *layerSource) rest(d *download) {
	if s.whole != d || d.readers > 0 {
		return
	}
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer = time.AfterFunc(s.lifetime(d), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.readers == 0 {
			s.retire(d)
		}
	})
}

// lifetime is how long a download without readers goes on, or is kept.
func (s *layerSource) lifetime(d *download) time.Duration {
	switch {
	case s.grace > 0:
		return s.grace
	case d.complete():
		return downloadKept
	}
	return downloadGrace
}

// retire ends a download for all who are not reading from it. The caller holds s.mu.
func (s *layerSource) retire(d *download) {
	if s.whole != d {
		return
	}
	s.whole = nil
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.cancel()
	s.release(d)
}

// release takes back a reference to d. The caller holds s.mu.
func (s *layerSource) release(d *download) {
	if d.refs--; d.refs == 0 {
		_ = d.file.Close() // it has no name, and so no content any more
	}
}

// Close ends the download under way, and frees what it has on disk when its last
// reader has left. Nothing is to be opened afterwards.
func (s *layerSource) Close() error {
	s.mu.Lock()
	s.closed = true
	if s.whole != nil {
		s.retire(s.whole)
	}
	s.mu.Unlock()
	s.downloads.Wait()
	return nil
}
