// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lazyReadAhead is how many bytes the kernel reads ahead at most while a layer is not
// all on disk.
const lazyReadAhead = 256 << 10

// setReadAhead has the kernel read ahead by what is right for the layers that there
// are. Its default is 128 KiB. Files that are open keep what they have.
func (f *FS) setReadAhead() {
	f.aheadMu.Lock()
	defer f.aheadMu.Unlock()
	want := f.opts.ReadAhead
	for _, l := range f.table.Load().slots {
		if !l.data.Complete() {
			want = min(want, lazyReadAhead)
			break
		}
	}
	if want == f.ahead || f.aheadPath == "" {
		return
	}
	f.ahead = want
	if err := os.WriteFile(f.aheadPath, fmt.Append(nil, (want+1023)/1024), 0); err != nil {
		f.opts.Log.Warn("readahead not set, large reads will be slower", "mount", f.dir, "error", err)
	}
}

// readAheadPath returns the file that holds the readahead of what is mounted on dir.
// Finding it needs no request of that file system.
func readAheadPath(dir string) (string, error) {
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_DONT_SYNC, 0, &stx); err != nil {
		return "", fmt.Errorf("statx %s: %w", dir, err)
	}
	return fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", stx.Dev_major, stx.Dev_minor), nil
}
