// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// slotBatch is how many slots are taken from the file at a time.
const slotBatch = 64

// slots gives out layer slots, each once for as long as its directory lives. It has
// a lock of its own: no request of the kernel is to wait for a disk.
type slots struct {
	path string

	mu   sync.Mutex // guards what follows
	free uint64     // the next one to give out
	end  uint64     // of the batch
	lost error      // why it is not known which were given out before, if it is not

	resumed bool // the kernel knows those that were
}

// openSlots opens the counter in dir, which is made if needed. Where it
// is lost or damaged, counting starts again at 1, or as skip says.
func openSlots(dir string) (*slots, error) {
	if dir == "" {
		return nil, errors.New("no state directory for the slot counter")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &slots{path: filepath.Join(dir, "slots"), free: 1}
	file, err := os.Open(s.path)
	if errors.Is(err, os.ErrNotExist) {
		s.end, s.lost = s.free, err
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, 32))
	if err != nil {
		return nil, err
	}
	number, _, _ := strings.Cut(strings.TrimSuffix(string(b), "\n"), " ")
	s.free, err = strconv.ParseUint(number, 10, 32)
	sound := string(b) == counter(s.free) || string(b) == number+"\n" // of a version that did not sum it
	if err != nil || s.free == 0 || !sound {
		s.free, s.lost = 1, fmt.Errorf("slot counter %s is damaged: %q", s.path, b)
	}
	s.end = s.free
	return s, nil
}

// counter is what the file says of a batch that ends at end: a digit that a disk has changed would give
// slots out again.
func counter(end uint64) string {
	number := strconv.FormatUint(end, 10)
	return fmt.Sprintf("%s %08x\n", number, crc32.Checksum([]byte(number), crc32.MakeTable(crc32.Castagnoli)))
}

// resume says that the kernel knows slots of a process before, and has parts of their
// files in memory: to use one again would be to serve another layer's bytes.
func (s *slots) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumed = true
}

// skip leaves out the slots that may have been given out, if it is not known which those
// are: the numbers up to the seconds since 1970. Nobody attaches a layer in each second
// for as long as that, nor since the counter was lost the time before. The caller holds s.mu.
func (s *slots) skip(now time.Time) error {
	end := max(s.free, s.end, uint64(now.Unix()))
	if end > math.MaxUint32-slotBatch {
		return fmt.Errorf("no slots are left: %w", s.lost)
	}
	if err := s.write(end); err != nil {
		return fmt.Errorf("write slot counter: %w", err)
	}
	s.free, s.end, s.lost = end, end, nil
	return nil
}

// next returns a slot that was never used before.
func (s *slots) next() (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil && s.resumed {
		if err := s.skip(time.Now()); err != nil {
			return 0, err
		}
	}
	if s.free == s.end {
		end := s.end + slotBatch
		if end > math.MaxUint32 {
			return 0, fmt.Errorf("slot counter %s is used up", s.path)
		}
		if err := s.write(end); err != nil {
			return 0, fmt.Errorf("write slot counter: %w", err)
		}
		s.end = end
	}
	s.free++
	return uint32(s.free - 1), nil
}

// claim keeps a slot that was given out before from being given out again, also
// where the counter does not know of it.
func (s *slots) claim(slot uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uint64(slot) >= s.end && (s.lost == nil || !s.resumed) { // skip writes otherwise
		if slot > math.MaxUint32-slotBatch {
			return fmt.Errorf("slot %d is beyond what can be counted", slot)
		}
		end := uint64(slot) + 1
		if err := s.write(end); err != nil {
			return fmt.Errorf("write slot counter: %w", err)
		}
		s.end = end
	}
	s.free = max(s.free, uint64(slot)+1)
	return nil
}

// write puts the end of the batch on disk, durably: the kernel may remember the
// slots for longer than this process lives.
func (s *slots) write(end uint64) error {
	tmp := s.path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(counter(end))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
