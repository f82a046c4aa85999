// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"syscall"
	"testing"
)

// An arena is memory between two pages that must not be touched: what reads or
// writes beyond it faults.
type arena struct{ mem []byte }

// newArena returns an arena of at least size bytes.
func newArena(t testing.TB, size int) *arena {
	t.Helper()
	page := syscall.Getpagesize()
	size = max(1, (size+page-1)/page) * page
	all, err := syscall.Mmap(-1, 0, size+2*page, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal("map an arena:", err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(all); err != nil {
			t.Error("unmap an arena:", err)
		}
	})
	mem := all[page : page+size : page+size]
	if err := syscall.Mprotect(mem, syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
		t.Fatal("open an arena:", err)
	}
	return &arena{mem}
}

// front returns the first n bytes: a guard is before them.
func (a *arena) front(n int) []byte { return a.mem[:n:n] }

// back returns the last n bytes: a guard is behind them.
func (a *arena) back(n int) []byte { return a.mem[len(a.mem)-n:] }

// size is the number of bytes between the guards.
func (a *arena) size() int { return len(a.mem) }
