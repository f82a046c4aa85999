// SPDX-License-Identifier: Apache-2.0

// Package proc says of other processes' threads what a file system has to know of them.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Killed reports whether the thread has a SIGKILL pending or is gone. Any signal
// that ends a process without a core dump becomes one. Of a thread of an unknown
// number (0: it is not of our pid namespace) it is false.
func Killed(tid uint32) bool {
	if tid == 0 {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	for line := range bytes.Lines(b) {
		key, val, _ := bytes.Cut(line, []byte(":"))
		if k := string(key); k != "SigPnd" && k != "ShdPnd" {
			continue
		}
		set, err := strconv.ParseUint(string(bytes.TrimSpace(val)), 16, 64)
		if err == nil && set&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}
