// SPDX-License-Identifier: Apache-2.0

package span

import (
	"errors"
	"os"
)

// errCutOff says that somebody cut the data file off while a span was written.
var errCutOff = errors.New("the data file was cut off meanwhile")

// sized is a file that can be cut off, as one on disk may be by somebody else.
type sized interface {
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
}

// mend notes what the data file has lost if it has been cut off. It comes before
// every write: one behind the end would turn what is missing into zeros. The caller
// holds disk.holes, to read.
func (l *Layer) mend() error {
	_, err := l.lengthen(func(size int64) int64 { return size })
	return err
}

// mended is mend after a write, which has filled what was cut off since: how much that was nobody knows.
func (l *Layer) mended() error {
	cut, err := l.lengthen(func(int64) int64 { return 0 })
	if cut && err == nil {
		err = errCutOff
	}
	return err
}

// lengthen gives a data file that was cut off its size again, after what lies behind from of it is
// marked absent: who reads what is present finds an end there, not zeros.
func (l *Layer) lengthen(from func(size int64) int64) (cut bool, err error) {
	f, ok := l.disk.data.(sized)
	if !ok {
		return false, nil
	}
	l.mending.Lock()
	defer l.mending.Unlock()
	info, err := f.Stat()
	if err != nil || info.Size() >= l.disk.size {
		return false, err
	}
	l.reading.Lock()
	defer l.reading.Unlock()
	end := from(info.Size())
	for i := range l.spans {
		if l.zi.Spans[i].Out.End() > end && l.zi.Spans[i].Out.Len > 0 {
			l.mark(i, present, absent)
		}
	}
	return true, f.Truncate(l.disk.size)
}
