// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"io"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// crashName is the file in the holder's directory with what the runtime says of the crash
// of the holder before: nobody reads what it writes elsewhere.
const crashName = "holder.crash"

// maxCrash is how many bytes of that are read.
const maxCrash = 16 << 10

// recordCrash has the runtime write to the file in the directory, which is emptied.
func recordCrash(dir int) {
	fd, err := unix.Openat(dir, crashName, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return // then nobody will know
	}
	f := os.NewFile(uintptr(fd), crashName)
	_ = debug.SetCrashOutput(f, debug.CrashOptions{}) // it has a descriptor of its own
	_ = f.Close()
}

// lastCrash returns what the file in the directory says, "" where nothing has crashed.
func lastCrash(dir int) string {
	fd, err := unix.Openat(dir, crashName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), crashName)
	defer f.Close()
	p, _ := io.ReadAll(io.LimitReader(f, maxCrash)) // what there is
	return strings.TrimSpace(string(p))
}
