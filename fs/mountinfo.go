// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mounted is a mount on a directory.
type mounted struct {
	dev    uint64
	fsType string
}

// mountedOn returns what is mounted on dir, the topmost of it. It asks the kernel's
// table: a file system that nobody serves would not answer.
func mountedOn(dir string) (m mounted, ok bool, err error) {
	p, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return m, false, fmt.Errorf("read the mount table: %w", err)
	}
	for line := range bytes.Lines(p) {
		// 36 35 98:0 /root /mountpoint options optional... - type source options
		f := strings.Fields(string(line))
		if len(f) < 10 || unescape(f[4]) != dir {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(f[2], "%d:%d", &major, &minor); err != nil {
			return m, false, fmt.Errorf("read the mount table: device %q: %w", f[2], err)
		}
		for i := 6; i+1 < len(f); i++ {
			if f[i] == "-" {
				m, ok = mounted{unix.Mkdev(major, minor), f[i+1]}, true
				break
			}
		}
	}
	return m, ok, nil
}

// unescape undoes what the kernel does to blanks, newlines and backslashes of a name: \040.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
