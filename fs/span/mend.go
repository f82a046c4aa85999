// SPDX-License-Identifier: Apache-2.0

package span

import "os"

// sized is a file that can be cut off, as one on disk may be by somebody else.
type sized interface {
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
}

// mend notes what the data file has lost if it has been cut off. It comes before
// every write: one behind the end would turn what is missing into zeros.
func (l *Layer) mend() error {
	f, ok := l.disk.data.(sized)
	if !ok {
		return nil
	}
	l.mending.Lock()
	defer l.mending.Unlock()
	info, err := f.Stat()
	if err != nil || info.Size() >= l.disk.size {
		return err
	}
	for i := range l.spans {
		if l.zi.Spans[i].Out.End() > info.Size() && l.zi.Spans[i].Out.Len > 0 {
			l.mark(i, present, absent)
		}
	}
	return f.Truncate(l.disk.size)
}
