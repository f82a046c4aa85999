// SPDX-License-Identifier: Apache-2.0

package check

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Record is one line of a checker's log. One of its fields is set.
type Record struct {
	Failure  *Failure  `json:",omitempty"`
	Progress *Progress `json:",omitempty"`
}

// Failure is one operation that did not give what it should have.
type Failure struct {
	Way   string // how it was looked at
	Path  string // relative to the root
	Off   int64  // of the bytes asked for; 0 with Len 0 where it was not for bytes
	Len   int64
	Begin int64 // as of Now
	End   int64
	Errno int    // what the kernel said, unix.SIGBUS as EIO; 0 if it was no error of the kernel's
	Wrong bool   // it succeeded, and gave what is not so
	Text  string // for people
}

// Progress is what a checker has done so far.
type Progress struct {
	Ops     map[string]int64 // that were right, by way
	Bytes   int64            // compared in them
	Longest int64            // nanoseconds that the slowest of them took
	Final   bool             // the pass over everything is over; nothing comes after it
}

// Now is the time of the machine, the same in all of its processes, in nanoseconds.
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(fmt.Sprintf("check: internal error: %v", err)) // there always is one
	}
	return t.Nano()
}

// log is a file that records are appended to. It is safe for concurrent use.
type log struct {
	mu   sync.Mutex
	file *os.File
	err  error // of the first write that failed; guarded by mu
}

func (l *log) write(r Record) {
	p, err := json.Marshal(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		_, err = l.file.Write(append(p, '\n'))
	}
	if l.err == nil {
		l.err = err
	}
}

func (l *log) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
