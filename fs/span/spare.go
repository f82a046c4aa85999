// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"
)

const (
	// lookEvery is how often work that nobody waits for looks for a core to spare, and
	// maxLooks how often until it takes one from others: a node that is always busy
	// completes its layers, too, if at a tenth of a core or less.
	lookEvery = 500 * time.Microsecond
	maxLooks  = 100
)

// spare tells whether the machine has a core to spare. Nil, it always has.
type spare func() bool

// machineSpare looks at the load of the machine: one thread more than there are cores
// passes. Where that cannot be seen there is always a core.
func machineSpare() bool {
	b, err := os.ReadFile("/proc/loadavg")
	running, ok := parseRunning(b)
	return err != nil || !ok || running <= runtime.NumCPU()+1
}

// parseRunning returns how many threads want to run, the caller's among them, of what
// proc_loadavg(5) says.
func parseRunning(b []byte) (running int, ok bool) {
	f := bytes.Fields(b)
	if len(f) < 4 {
		return 0, false
	}
	threads, _, ok := bytes.Cut(f[3], []byte("/"))
	n, err := strconv.Atoi(string(threads))
	return n, ok && err == nil
}

// wait returns when there is a core to spare, or after a while, or when the work is
// urgent or done closed.
func (s spare) wait(done <-chan struct{}, urgent func() bool) {
	if s == nil {
		return
	}
	var t *time.Timer
	for try := 0; try < maxLooks && !urgent() && !s(); try++ {
		if t == nil {
			t = time.NewTimer(lookEvery)
			defer t.Stop()
		} else {
			t.Reset(lookEvery)
		}
		select {
		case <-t.C:
		case <-done:
			return
		}
	}
}
