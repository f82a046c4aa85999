// SPDX-License-Identifier: Apache-2.0

package span

import (
	"cmp"
	"errors"

	"github.com/seekoci/seekoci/ztoc"
)

// step is how many bytes a decoder that nobody waits for inflates before it looks
// whether somebody does.
const step = 256 << 10

// job is a span whose compressed bytes are there. It belongs to the worker that
// has taken it.
type job struct {
	l     *Layer
	f     *flight
	src   []byte // nil once they are inflated
	out   []byte // nil until they are verified
	dec   *ztoc.SpanDecoder
	work  ztoc.SpanWork // what a pair of decoders is given
	held  int64         // of Store.memory
	again func()        // fetches the span once more; the caller holds l.mu

	class class // guarded by decoders.mu
	taken bool  // guarded by decoders.mu
}

// free gives back what the job holds.
func (j *job) free() {
	if j.dec != nil {
		j.dec.Close()
	}
	s := j.l.store
	for _, p := range [][]byte{j.src, j.out} {
		if p != nil {
			s.buffers.put(p)
		}
	}
	s.memory.release(j.held)
	j.l.leave()
}

// verify checks the compressed bytes. If they are wrong, or of no use any more,
// the job is over.
func (j *job) verify() bool {
	l := j.l
	if err := l.zi.Verify(j.f.span, j.src); err != nil {
		l.distrust(j.f.span)
		j.refetch(err)
		return false
	}
	j.out = l.store.buffers.get(l.zi.Spans[j.f.span].Out.Len)
	l.mu.Lock()
	defer l.mu.Unlock()
	j.f.buf = j.out
	return true
}

// refetch asks the source again for bytes that did not match their digest, if there
// are tries left and somebody waits.
func (j *job) refetch(err error) {
	l, f := j.l, j.f
	defer j.free()
	l.stats.fetchErrors.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	f.job = nil
	f.req = nil
	if !f.settled && len(f.waits) > 0 && errors.Is(err, ztoc.ErrDigest) && f.tries < l.store.opts.Retries {
		f.tries++
		j.again()
		return
	}
	l.settle(f, err)
}

// run does what is left to do, in steps: whoever waits is served first. It stops
// early when nobody waits for this span, but somebody for another one; the job is
// put off then.
func (j *job) run() {
	if j.out == nil && !j.verify() {
		return
	}
	for j.src != nil {
		if err := j.inflate(); err != nil {
			j.fail(err)
			return
		}
		if j.l.store.decoders.putOff(j) {
			return
		}
	}
	j.write()
}

// inflate goes on to where the nearest of those who wait is served.
func (j *job) inflate() (err error) {
	defer contain(&err)
	l, f := j.l, j.f
	if j.dec == nil {
		if j.dec, err = l.zi.Open(f.span, j.src); err != nil {
			return err
		}
	}
	want, err := j.next()
	if err != nil {
		return err
	}
	n, err := j.dec.Fill(j.out, want)
	if err != nil {
		return err
	}
	if n == int64(len(j.out)) {
		j.inflated()
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !f.settled {
		f.ready = n
		l.serve(f)
	}
	return nil
}

// next returns how many bytes of the span are wanted next. A span that the layer
// has been stopped under is not wanted at all.
func (j *job) next() (int64, error) {
	l, f := j.l, j.f
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.settled {
		return 0, cmp.Or(l.over, ErrClosed)
	}
	nearest := int64(-1)
	for _, w := range f.waits {
		if w.r.class == demand && (nearest < 0 || w.end() < nearest) {
			nearest = w.end()
		}
	}
	if nearest >= 0 {
		return nearest, nil
	}
	return min(f.ready+step, int64(len(j.out))), nil
}

// inflated serves all who wait for a span that is there.
func (j *job) inflated() {
	l := j.l
	if j.dec != nil {
		j.dec.Close()
		j.dec = nil
	}
	l.store.buffers.put(j.src)
	j.src = nil
	l.stats.fetched.Add(1)
	l.answered.Store(l.store.clock())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(j.f, nil)
}

// write writes the span down. Until that is done its flight serves from memory.
func (j *job) write() {
	l, f := j.l, j.f
	defer j.free()
	if j.class != background {
		l.ages[f.span].Store(l.store.clock())
	}
	err := l.put(f.span, j.out) // whoever waited has the bytes
	l.mu.Lock()
	defer l.mu.Unlock()
	l.land(f, err)
	f.buf = nil // nobody finds it any more
}

// fail ends a job whose span does not inflate, or is not wanted any more.
func (j *job) fail(err error) {
	l, f := j.l, j.f
	defer j.free()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !f.settled {
		l.stats.fetchErrors.Add(1)
	}
	l.settle(f, err)
	f.buf = nil
}
