// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"sync/atomic"
)

// budget is memory that trees share.
type budget struct {
	max  int64
	used atomic.Int64
}

// take takes n bytes, or returns ErrMemory.
func (b *budget) take(n int64) error {
	if used := b.used.Add(n); used > b.max {
		b.used.Add(-n)
		return fmt.Errorf("%w: %d of %d bytes, %d more wanted", ErrMemory, used-n, b.max, n)
	}
	return nil
}

// loanStep is how much a loan takes from its budget at a time.
const loanStep = 64 << 10

// loan is memory of a budget for one purpose. It is not for concurrent use.
type loan struct {
	from        *budget
	taken, used int64
}

// take takes n bytes, or returns ErrMemory.
func (l *loan) take(n int64) error {
	if l.used+n > l.taken {
		more := max(l.used+n-l.taken, loanStep)
		if err := l.from.take(more); err != nil {
			return err
		}
		l.taken += more
	}
	l.used += n
	return nil
}

// keep makes the loan one of n bytes, no more than it is.
func (l *loan) keep(n int64) {
	l.from.used.Add(n - l.taken)
	l.taken, l.used = n, n
}
