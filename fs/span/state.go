// SPDX-License-Identifier: Apache-2.0

package span

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
)

// The state file, version 1, little endian:
//
//	[0,8)    magic "SOCISPAN"
//	[8,12)   version 1
//	[12,16)  number of spans
//	[16,48)  identity of the zInfo
//	then per span 8 bytes: CRC32C of the span's bytes, CRC32C of (identity, span id, first CRC)
const (
	stateMagic   = "SOCISPAN"
	stateVersion = 1
	stateHeader  = 48
	slotSize     = 8
)

// identity is a digest over everything that decides a layer's uncompressed bytes.
type identity [sha256.Size]byte

func identify(zi *ztoc.ZInfo) identity {
	h := sha256.New()
	writeInts(h, int64(zi.Compression), zi.CompressedSize, zi.UncompressedSize, int64(len(zi.Spans)))
	for i := range zi.Spans {
		sp := &zi.Spans[i]
		writeInts(h, sp.In.Off, sp.In.Len, sp.Out.Off, sp.Out.Len, int64(sp.Bits), int64(len(sp.Window)))
		h.Write(sp.Sum[:])
		h.Write(sp.Window)
	}
	_ = zi.WriteWindows(h) // a hash does not fail
	return identity(h.Sum(nil))
}

func writeInts(h hash.Hash, vs ...int64) {
	var b [8]byte
	for _, v := range vs {
		binary.LittleEndian.PutUint64(b[:], uint64(v))
		h.Write(b[:])
	}
}

func castagnoli(p []byte) uint32 {
	return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))
}

// slot returns the record of span i whose bytes have the CRC32C sum.
func (id *identity) slot(i int, sum uint32) [slotSize]byte {
	var b [len(id) + 8]byte
	copy(b[:], id[:])
	binary.LittleEndian.PutUint32(b[len(id):], uint32(i))
	binary.LittleEndian.PutUint32(b[len(id)+4:], sum)
	var s [slotSize]byte
	binary.LittleEndian.PutUint32(s[:], sum)
	binary.LittleEndian.PutUint32(s[4:], castagnoli(b[:]))
	return s
}

func (id *identity) header(spans int) []byte {
	b := make([]byte, stateHeader)
	copy(b, stateMagic)
	binary.LittleEndian.PutUint32(b[8:], stateVersion)
	binary.LittleEndian.PutUint32(b[12:], uint32(spans))
	copy(b[16:], id[:])
	return b
}

// file is what a layer needs of its two files.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// disk is the pair of files of one layer.
type disk struct {
	data, state file // changed with holes held exclusively, and Layer.reading
	identity    identity
	size        int64        // of data
	unwritable  atomic.Bool  // opened on a disk that cannot be written to: Store.heal does so anew
	syncFile    func() error // in tests, instead of what the kernel says

	// Held to write spans and note them, and exclusively to take some away and note that:
	// what is being written must not fall into the hole.
	holes sync.RWMutex
}

// openDisk opens the files in dir, making or resetting them where they do not
// belong to the zInfo. sums has the recorded CRC32C of each span that has a slot. On a disk
// that cannot be written to, what is there is read, and nothing more comes to it before it is opened anew. Where there are no
// descriptors left, nothing of it is there until then.
func openDisk(dir string, id identity, spans int, size int64) (d *disk, sums map[int]uint32, err error) {
	d, sums, err = openWritable(dir, id, spans, size)
	if !general(err) && !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) {
		return d, sums, err
	}
	d = &disk{data: noFile{err}, state: noFile{err}, identity: id, size: size}
	d.unwritable.Store(true)
	data, e := os.Open(filepath.Join(dir, "data"))
	if e != nil {
		return d, nil, nil
	}
	state, e := os.Open(filepath.Join(dir, "state"))
	if e != nil {
		return d, nil, data.Close()
	}
	if sums, e = load(state, id, spans); e != nil || sums == nil {
		return d, nil, errors.Join(data.Close(), state.Close())
	}
	d.data, d.state = readOnly{data, err}, readOnly{state, err}
	return d, sums, nil
}

func openWritable(dir string, id identity, spans int, size int64) (d *disk, sums map[int]uint32, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	data, state, err := openFiles(dir)
	if err != nil {
		return nil, nil, err
	}
	sums, err = load(state, id, spans)
	if err == nil && sums == nil {
		// Not emptied but replaced: a layer that is being closed may still write to them.
		err = errors.Join(data.Close(), state.Close(), removeFiles(dir))
		if err == nil {
			data, state, err = openFiles(dir)
		}
		if err != nil {
			return nil, nil, err
		}
		_, err = state.WriteAt(id.header(spans), 0)
	}
	if err == nil {
		// Longer or shorter than that, it was cut off by a crash: what is
		// missing becomes a hole, and does not match its CRC32C.
		err = data.Truncate(size)
	}
	if err != nil {
		return nil, nil, errors.Join(err, data.Close(), state.Close())
	}
	return &disk{data: data, state: state, identity: id, size: size}, sums, nil
}

// load reads the slots of a state file. The map is nil if the file is not the state of id.
func load(state *os.File, id identity, spans int) (map[int]uint32, error) {
	b := make([]byte, stateHeader+spans*slotSize)
	n, err := state.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	b = b[:n]
	if n < stateHeader || string(b[:stateHeader]) != string(id.header(spans)) {
		return nil, nil
	}
	sums := make(map[int]uint32)
	for i := 0; stateHeader+(i+1)*slotSize <= n; i++ {
		s := b[stateHeader+i*slotSize:][:slotSize]
		sum := binary.LittleEndian.Uint32(s)
		if want := id.slot(i, sum); string(s) == string(want[:]) {
			sums[i] = sum
		}
	}
	return sums, nil
}

// openFiles opens the files of a layer, making those that are missing.
func openFiles(dir string) (data, state *os.File, err error) {
	data, err = os.OpenFile(filepath.Join(dir, "data"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	state, err = os.OpenFile(filepath.Join(dir, "state"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, errors.Join(err, data.Close())
	}
	return data, state, nil
}

// removeFiles removes the files of a layer, the slots first so that none outlives
// its bytes.
func removeFiles(dir string) error {
	for _, name := range []string{"state", "data"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// write stores the bytes of span i, then its slot.
func (d *disk) write(i int, off int64, p []byte) error {
	if _, err := d.data.WriteAt(p, off); err != nil {
		return err
	}
	d.flush(off, int64(len(p)))
	s := d.identity.slot(i, castagnoli(p))
	_, err := d.state.WriteAt(s[:], stateHeader+int64(i)*slotSize)
	return err
}

// flush has the kernel begin to write n bytes of the data file to disk. Whether it
// does is of no concern.
func (d *disk) flush(off, n int64) {
	if f, ok := d.data.(*os.File); ok {
		_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
	}
}

// read fills p from the data file.
func (d *disk) read(p []byte, off int64) error {
	n, err := d.data.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return fmt.Errorf("span file: %w", noEOF(err))
}

func (d *disk) close() error {
	return errors.Join(d.data.Close(), d.state.Close())
}
