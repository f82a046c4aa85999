// SPDX-License-Identifier: Apache-2.0

package span

import (
	"slices"
	"sync"

	"github.com/seekoci/seekoci/ztoc"
)

// decoders decode the spans of all layers. There are workers for spans that
// readers wait for, which decode one span each, and workers for the others, which
// decode two at once where there is enough to do: that takes less of a core, but
// longer for each. The latter make way for the former.
type decoders struct {
	limit int // of either kind
	spare spare

	mu      sync.Mutex // guards what follows
	queue   [classes][]*job
	readers int // workers for spans that are waited for
	bulk    int // workers for the others
	hungry  int // of those: have not looked for a job yet

	workers sync.WaitGroup
}

// push queues a job and sees to it that there is a worker.
func (d *decoders) push(j *job, c class) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.enqueue(j, c)
}

func (d *decoders) enqueue(j *job, c class) {
	j.class, j.taken = c, false
	d.queue[c] = append(d.queue[c], j)
	if c != demand {
		d.hire()
	} else if d.readers < d.limit {
		d.readers++
		d.workers.Go(d.serveReaders)
	}
}

// hire starts workers for jobs that nobody waits for, if there are cores to spare.
// The caller holds d.mu.
func (d *decoders) hire() {
	for d.readers+d.bulk < d.limit && len(d.queue[prefetch])+len(d.queue[background]) > d.hungry {
		d.bulk++
		d.hungry++
		d.workers.Go(d.serveBulk)
	}
}

// promote makes a queued job one that a reader waits for.
func (d *decoders) promote(j *job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !j.taken && j.class != demand {
		d.enqueue(j, demand) // its place in the other queue is void
	}
}

// putOff queues a job once more that no reader waits for, if readers wait for others.
func (d *decoders) putOff(j *job) bool {
	j.l.mu.Lock()
	defer j.l.mu.Unlock()
	if j.f.wanted() {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.any(demand) {
		return false
	}
	d.enqueue(j, prefetch)
	return true
}

// any reports whether a class has jobs. The caller holds d.mu.
func (d *decoders) any(c class) bool {
	q := d.queue[c]
	for len(q) > 0 && (q[0].taken || q[0].class != c) {
		q[0] = nil
		q = q[1:]
	}
	d.queue[c] = q
	return len(q) > 0
}

// pop takes the first job of a class, if there is one. The caller holds d.mu.
func (d *decoders) pop(c class) *job {
	if !d.any(c) {
		return nil
	}
	j := d.queue[c][0]
	d.queue[c][0] = nil
	d.queue[c] = d.queue[c][1:]
	j.taken = true
	return j
}

// serveReaders is a worker for spans that readers wait for.
func (d *decoders) serveReaders() {
	for j := d.takeWanted(); j != nil; j = d.takeWanted() {
		j.run()
	}
}

func (d *decoders) takeWanted() *job {
	d.mu.Lock()
	defer d.mu.Unlock()
	j := d.pop(demand)
	if j == nil {
		d.readers--
		d.hire()
	}
	return j
}

// serveBulk is a worker for spans that nobody waits for.
func (d *decoders) serveBulk() {
	d.mu.Lock()
	d.hungry--
	d.mu.Unlock()
	var p pair
	for {
		d.spare.wait(nil, func() bool { return d.urgent() || p.wanted() })
		for p.dec.Len() < 2 {
			j := d.takeBulk(p.dec.Len())
			if j == nil {
				break
			}
			if j.class != background || !p.add(j) {
				j.run()
			}
		}
		if p.dec.Len() == 0 {
			return
		}
		p.next()
	}
}

// urgent reports whether there is anything to do but for Fill, or nothing.
func (d *decoders) urgent() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.any(demand) || d.any(prefetch) || !d.any(background)
}

// takeBulk returns the next job for a worker that has n under way; nil if there is
// none, or a worker for readers needs the core. The second of a pair is taken from
// those that no other worker is about to take.
func (d *decoders) takeBulk(n int) *job {
	d.mu.Lock()
	defer d.mu.Unlock()
	var j *job
	spare := n == 0 || len(d.queue[prefetch])+len(d.queue[background]) > d.hungry
	if spare && (d.readers == 0 || d.readers+d.bulk <= d.limit) {
		if j = d.pop(prefetch); j == nil {
			j = d.pop(background)
		}
	}
	if j == nil && n == 0 {
		d.bulk--
	}
	return j
}

// pair decodes two jobs at once.
type pair struct {
	dec  ztoc.PairDecoder
	jobs [2]*job
}

// add takes up a job whose decoding has not begun; it returns false for others.
func (p *pair) add(j *job) bool {
	if j.out != nil {
		return false
	}
	if !j.verify() {
		return true
	}
	j.work = ztoc.SpanWork{ZInfo: j.l.zi, ID: j.f.span, Src: j.src, Dst: j.out}
	i := 0
	if p.jobs[0] != nil {
		i = 1
	}
	p.jobs[i] = j
	p.decode(func() *ztoc.SpanWork { p.dec.Add(&j.work); return nil })
	return true
}

// wanted reports whether a reader waits for one of the jobs.
func (p *pair) wanted() bool {
	return slices.ContainsFunc(p.jobs[:], func(j *job) bool {
		if j == nil {
			return false
		}
		j.l.mu.Lock()
		defer j.l.mu.Unlock()
		return j.f.wanted()
	})
}

// next finishes one of the jobs.
func (p *pair) next() {
	w := p.decode(p.dec.Next)
	for i, j := range p.jobs {
		if j == nil || w != &j.work {
			continue
		}
		p.jobs[i] = nil
		if w.Err != nil {
			j.fail(w.Err)
			return
		}
		j.inflated()
		j.write()
	}
}

// decode calls the decoder. If that panics, the jobs under way have failed.
func (p *pair) decode(call func() *ztoc.SpanWork) (w *ztoc.SpanWork) {
	var err error
	func() {
		defer contain(&err)
		w = call()
	}()
	if err == nil {
		return w
	}
	for _, j := range p.jobs {
		if j != nil {
			j.fail(err)
		}
	}
	*p = pair{}
	return nil
}
