// SPDX-License-Identifier: Apache-2.0

package span

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
)

const (
	// What was read so lately is not evicted for the sake of Options.Reserve: of layers in
	// use, and of others, which may be those of a container that is about to start.
	recentInUse  = 600 // seconds
	recentUnused = 60

	evictBatch = 1 << 10 // spans that are evicted at once
	probeTime  = 10 * time.Second
	probeKept  = 60  // seconds for which it is believed that a source answers
	probeLater = 300 // seconds for which it is believed that one does not
	maxProbes  = 3   // that fail, in one round: the next one asks others
)

// errEvict says that a layer's source does not answer, so that nothing of it is evicted.
var errEvict = errors.New("not to be had anew")

// errNoHole says that the file system frees nothing.
var errNoHole = errors.New("no hole can be made")

// victim is a layer to evict from.
type victim struct {
	l    *Layer
	rank int // of what goes first
	use  Use
	used uint32
}

// victims returns the layers to evict from, in order.
func (s *Store) victims() []victim {
	s.mu.Lock()
	layers := make([]*Layer, 0, len(s.layers))
	for _, l := range s.layers {
		layers = append(layers, l)
	}
	s.mu.Unlock()
	var uses map[string]Use // nil: it is not known
	if s.opts.Uses != nil {
		uses = s.opts.Uses()
	}
	vs := make([]victim, 0, len(layers))
	for _, l := range layers {
		v := victim{l: l, use: uses[l.key], used: l.used.Load()}
		if uses == nil {
			v.use = InUse
		}
		if v.use == Keep || l.onDisk.Load() == 0 {
			continue
		}
		v.rank = int(v.use)
		if l.whole() {
			v.rank += int(Keep)
		}
		vs = append(vs, v)
	}
	slices.SortFunc(vs, func(a, b victim) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.used, b.used), cmp.Compare(a.l.key, b.l.key))
	})
	return vs
}

// evict takes need bytes of spans from disk, if there are so many, and returns how many it
// took. Unless it is hard it spares what will be missed.
func (s *Store) evict(ctx context.Context, need int64, hard bool) int64 {
	if need <= 0 {
		return 0
	}
	now := s.clock()
	var got int64
	failed := 0
	for _, v := range s.victims() {
		if got >= need || ctx.Err() != nil || failed == maxProbes {
			break
		}
		if !hard && !v.spare(now) || v.l.silent(now) || !v.l.enter() {
			continue
		}
		n, err := v.l.evict(ctx, v, need-got, v.before(now, hard))
		v.l.leave()
		got += n
		if errors.Is(err, errNoHole) {
			break // nor can they be elsewhere
		}
		if err != nil {
			failed++
		}
	}
	s.room.evicted.Add(got)
	return got
}

// spare reports whether any of a layer can be spared where nothing is urgent.
func (v *victim) spare(now uint32) bool {
	if v.use == Unused {
		return v.used+recentUnused <= now
	}
	return !v.l.whole() && !v.l.working()
}

// before returns the age from which on spans are spared.
func (v *victim) before(now uint32, hard bool) uint32 {
	switch {
	case hard || v.use == Unused:
		return math.MaxUint32
	case now < recentInUse:
		return 0
	}
	return now - recentInUse + 1
}

// whole reports whether nothing is absent of a layer, be it checked or not.
func (l *Layer) whole() bool { return l.stats.recorded.Load() == int64(len(l.spans)) }

// working reports whether the layer is being filled.
func (l *Layer) working() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.tasks) > 0
}

// evict takes need bytes of spans last read before an age, or all there are. It is an error
// if they could not be had again, unless nobody uses them.
func (l *Layer) evict(ctx context.Context, v victim, need int64, before uint32) (int64, error) {
	ids := l.oldest(need, before)
	if len(ids) == 0 {
		return 0, nil
	}
	if v.use != Unused || l.whole() {
		if err := l.probe(ctx); err != nil {
			return 0, fmt.Errorf("%w: %w", errEvict, err)
		}
	}
	var got int64
	for batch := range slices.Chunk(ids, evictBatch) {
		n, err := l.drop(batch)
		got += n
		if err != nil {
			return got, err
		}
	}
	return got, nil
}

// oldest returns the spans on disk, in order, that were last read before an age: those read least
// lately, and so many that they have need bytes.
func (l *Layer) oldest(need int64, before uint32) []int {
	type aged struct {
		i   int
		age uint32
	}
	var all []aged
	for i := range l.spans {
		if l.spans[i].Load() == absent || l.zi.Spans[i].Out.Len == 0 {
			continue
		}
		if age := l.ages[i].Load(); age < before {
			all = append(all, aged{i, age})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Or(cmp.Compare(a.age, b.age), cmp.Compare(a.i, b.i)) })
	var ids []int
	for _, a := range all {
		if need <= 0 {
			break
		}
		need -= l.zi.Spans[a.i].Out.Len
		ids = append(ids, a.i)
	}
	slices.Sort(ids)
	return ids
}

// drop takes spans, in order, from disk, and returns how many bytes that are. Who reads them has done
// so before, or finds them absent; who fetches them anew writes them afterwards. Where no hole
// can be made they stay, and the error matches errNoHole.
func (l *Layer) drop(ids []int) (got int64, err error) {
	l.disk.holes.Lock()
	defer l.disk.holes.Unlock()
	was := make(map[int]uint32, len(ids))
	l.reading.Lock()
	ids = slices.DeleteFunc(ids, func(i int) bool {
		was[i] = l.spans[i].Load()
		if was[i] == absent {
			return true
		}
		l.mark(i, was[i], absent)
		return l.spans[i].Load() != absent // it has just been checked
	})
	l.reading.Unlock()
	for len(ids) > 0 {
		n := 1
		for n < len(ids) && ids[n] == ids[n-1]+1 {
			n++
		}
		if err := l.punch(ids[0], ids[n-1]+1); err != nil {
			for _, i := range ids {
				l.mark(i, absent, was[i])
			}
			return got, err
		}
		for _, i := range ids[:n] {
			got += l.zi.Spans[i].Out.Len
		}
		ids = ids[n:]
	}
	return got, nil
}

// punch makes a hole where the absent spans from up to to are, and forgets their records after that: killed in between, the
// records do not match and are no harm, while bytes without record would stay there for ever.
// After an error, which matches errNoHole, all is as before. The caller holds disk.holes.
func (l *Layer) punch(from, to int) error {
	off, end := l.zi.Spans[from].Out.Off, l.zi.Spans[to-1].Out.End()
	// Blocks that are shared with neighbours go with the last of those.
	for prev := from - 1; prev >= 0 && l.spans[prev].Load() == absent && off%holeUnit != 0; prev-- {
		off = max(l.zi.Spans[prev].Out.Off, off-off%holeUnit)
	}
	for next := to; next < len(l.spans) && l.spans[next].Load() == absent && end%holeUnit != 0; next++ {
		end = min(l.zi.Spans[next].Out.End(), end+holeUnit-end%holeUnit)
	}
	if err := l.disk.punch(off, end-off); err != nil {
		return err
	}
	l.disk.forget(from, to)
	return nil
}

// holeUnit is the largest block of the usual file systems.
const holeUnit = 64 << 10

// silent reports whether the source did not answer when it was last asked, a short while ago.
func (l *Layer) silent(now uint32) bool {
	last := l.silence.Load()
	return last > l.answered.Load()+1 && last+probeLater > now
}

// probe reports whether the source delivers a span, and the right one. It ends with the layer.
func (l *Layer) probe(ctx context.Context) error {
	ctx, done, err := l.work(ctx)
	if err != nil {
		return err
	}
	defer done()
	err = l.ask(ctx)
	if err != nil && ctx.Err() == nil {
		l.silence.Store(l.store.clock() + 1)
	}
	return err
}

// ask is probe, without notes of what fails.
func (l *Layer) ask(ctx context.Context) (err error) {
	if now, last := l.store.clock(), l.answered.Load(); last > 0 && last+probeKept > now {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	defer contain(&err)
	least := -1
	for i := range l.zi.Spans {
		if sp := &l.zi.Spans[i]; sp.Out.Len > 0 && (least < 0 || sp.In.Len < l.zi.Spans[least].In.Len) {
			least = i
		}
	}
	if least < 0 {
		return nil
	}
	in := l.zi.Spans[least].In
	u := urgency{}
	u.c.Store(uint32(prefetch))
	held, err := l.store.memory.acquire(ctx, bufferSize(in.Len), &u)
	if err != nil {
		return err
	}
	defer l.store.memory.release(held)
	p := l.store.buffers.get(in.Len)
	defer l.store.buffers.put(p)
	if err := l.fetchSpan(ctx, in, p); err != nil {
		return err
	}
	if err := l.zi.Verify(least, p); err != nil {
		return err
	}
	l.answered.Store(l.store.clock())
	return nil
}

// fetchSpan reads the compressed bytes in from the source.
func (l *Layer) fetchSpan(ctx context.Context, in ztoc.Range, p []byte) error {
	r, err := l.src.Open(ctx, in.Off, in.Len)
	if err != nil {
		return err
	}
	defer r.Close()
	l.stats.requests.Add(1)
	b := &body{r: &meter{r, &l.stats.bytesFetched}, pos: in.Off}
	return b.read(p, in.Off)
}

// puncher is a file that holes can be made in.
type puncher interface{ Fd() uintptr }

// punch frees the n bytes at off of the data file. Where that cannot be done the error matches
// errNoHole, and they are as they were. An error that may come half way is none: what is left
// is written over one day.
func (d *disk) punch(off, n int64) error {
	f, ok := d.data.(puncher)
	if !ok {
		return errNoHole
	}
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	switch err {
	case unix.EROFS, unix.EBADF, unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS, unix.ENODEV:
		return fmt.Errorf("%w: %w", errNoHole, err)
	}
	return nil
}

// forget clears the records of the spans from up to to. One that stays does not match its bytes.
func (d *disk) forget(from, to int) {
	_, _ = d.state.WriteAt(make([]byte, (to-from)*slotSize), stateHeader+int64(from)*slotSize)
}

// MakeRoom evicts n bytes for the sake of others who need the disk, or as many as there are, in the
// order of Options.MaxBytes, and returns how many it was.
func (s *Store) MakeRoom(ctx context.Context, n int64) int64 { return s.evict(ctx, n, true) }

// ReadLocal fills p with the layer's uncompressed bytes at off, if they are on disk and checked:
// the error matches ErrIncomplete if they are not. It asks the source for nothing, and nobody
// counts it as use.
func (l *Layer) ReadLocal(p []byte, off int64) error {
	n := int64(len(p))
	if off < 0 || n > l.zi.UncompressedSize-off {
		return fmt.Errorf("read [%d,+%d) of %s: %w", off, n, l.key, ErrRange)
	}
	if n == 0 {
		return nil
	}
	if !l.enter() {
		return fmt.Errorf("read [%d,+%d) of %s: %w", off, n, l.key, ErrClosed)
	}
	defer l.leave()
	ok, err := l.readLocal(p, off, l.zi.SpanAt(off), l.zi.SpanAt(off+n-1))
	if err == nil && !ok {
		err = ErrIncomplete
	}
	if err != nil {
		return fmt.Errorf("read [%d,+%d) of %s: %w", off, n, l.key, err)
	}
	return nil
}
