// SPDX-License-Identifier: Apache-2.0

package stat

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine describes this machine in one line: processors, kernel, Go.
func Machine() string {
	release := "?"
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		release = unix.ByteSliceToString(uts.Release[:])
	}
	return fmt.Sprintf("%d x %s, Linux %s, %s", runtime.NumCPU(), cpuModel(), release, runtime.Version())
}

// cpuModel is the processor as the kernel names it.
func cpuModel() string {
	p, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(p)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
