// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// How long a download that nobody reads from goes on, and how long what was
// downloaded to the end is kept.
const (
	downloadGrace = time.Minute
	downloadKept  = 10 * time.Minute
)

// errFile says that a download ended for the sake of the local disk.
var errFile = errors.New("temporary file of a layer")

// wholeBlob is a blob that tells when its registry ignores ranges. *registry.Blob satisfies it.
type wholeBlob interface {
	OpenRangeOrWhole(ctx context.Context, off, n int64) (body io.ReadCloser, whole bool, err error)
}

// offer is an answer that has all of a layer, though a range was asked for.
type offer struct {
	from   blob
	body   io.ReadCloser
	cancel context.CancelFunc // ends the body
	keep   func() bool        // has the body outlive the Open it was made for, unless that has ended
}

func (o *offer) close() {
	if o != nil {
		o.keep()
		_ = o.body.Close() // it has nothing to tell
		o.cancel()
	}
}

// download is all of a layer on its way to a file without a name. Those who
// wait for a part of it read that from the file as it comes.
type download struct {
	size   int64
	from   blob
	by     *sender // which is from, to all who read
	file   *os.File
	cancel context.CancelFunc

	// Guarded by layerSource.mu.
	readers int
	refs    int // readers, the goroutine, and being layerSource.whole; the last one closes the file
	timer   *time.Timer

	mu    sync.Mutex // guards what follows
	have  int64      // bytes that are in the file
	err   error      // why no more come; io.EOF at the end, nil before
	moved chan struct{}
}

// run writes body to the file and returns when it has ended. The error is io.EOF if
// all of the layer is there.
func (d *download) run(body io.ReadCloser) (err error) {
	defer d.cancel()
	defer body.Close()
	defer func() {
		if v := recover(); v != nil { // the daemon must outlive it
			err = d.tell(0, fmt.Errorf("download of a layer: internal error: %v", v))
		}
	}()
	buf := make([]byte, 256<<10)
	for off := int64(0); ; {
		n, err := body.Read(buf)
		if int64(n) > d.size-off {
			return d.tell(0, errors.New("more bytes than the layer has"))
		}
		if _, e := d.file.WriteAt(buf[:n], off); e != nil {
			return d.tell(0, fmt.Errorf("%w: %w", errFile, e))
		}
		off += int64(n)
		if err == io.EOF && off < d.size {
			err = io.ErrUnexpectedEOF
		}
		if err := d.tell(int64(n), err); err != nil {
			return err
		}
	}
}

// tell has those who wait know that n more bytes are there and, if err is not nil,
// that no more come. It returns err.
func (d *download) tell(n int64, err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.have += n
	d.err = err
	if d.moved != nil && (n > 0 || err != nil) {
		close(d.moved)
		d.moved = nil
	}
	return err
}

// wait returns how many bytes are in the file when there are more than off, or why
// there will not be.
func (d *download) wait(ctx context.Context, off int64) (int64, error) {
	for {
		d.mu.Lock()
		have, err := d.have, d.err
		if have <= off && err == nil && d.moved == nil {
			d.moved = make(chan struct{})
		}
		moved := d.moved
		d.mu.Unlock()
		switch {
		case have > off:
			return have, nil
		case err != nil:
			return 0, err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// noteWhole notes on disk whether parts of the layer l can be had, which decides whether any of it may be
// evicted after a restart, too. The caller may hold locks.
func (s *layers) noteWhole(l *layer, src *layerSource) {
	s.fills.tasks.run(func(ctx context.Context) {
		if ctx.Err() != nil {
			return // at the end the caller waits for it
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if whole := src.unranged.Load(); l.src.Load() == src && l.state.Whole != whole {
			l.state.Whole = whole
			if err := s.states.save(l.state, nil); err != nil {
				s.fills.log.Warn("note whether parts of a layer can be had", "layer", l.state.Layer.String(), "error", err)
			}
		}
	})
}

// complete reports whether all of the layer is in the file.
func (d *download) complete() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err == io.EOF
}

// ended returns why the download brings no more, nil if it may still, or has all.
func (d *download) ended() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == io.EOF {
		return nil
	}
	return d.err
}

// downloadReader reads a part of a download. Its end is the reader's affair.
type downloadReader struct {
	ctx   context.Context //nolint:containedctx // of Open
	d     *download
	off   int64
	leave func()
}

// Read implements io.Reader.
func (r *downloadReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	have, err := r.d.wait(r.ctx, r.off)
	if err != nil {
		return 0, err
	}
	n, err := r.d.file.ReadAt(p[:min(int64(len(p)), have-r.off)], r.off)
	r.off += int64(n)
	if n > 0 {
		return n, nil // ReadAt has read all, or what is wrong shows again
	}
	return 0, fmt.Errorf("%w: %w", errFile, noEOF(err))
}

// noEOF makes an error of an end that must not be there.
func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close implements io.Closer. It must be called once.
func (r *downloadReader) Close() error {
	r.leave()
	return nil
}
