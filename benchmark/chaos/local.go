// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/ztoc"
)

// disk reads, of the daemon's own files, which spans of which layers are there.
type disk struct {
	root string // of the snapshotter

	mu      sync.Mutex
	layers  map[string]*ztocFile // by key
	tainted map[string]bool      // keys whose data were changed by a fault of ours
}

// ztocFile is the zTOC of one layer as the daemon keeps it.
type ztocFile struct {
	zinfo *ztoc.ZInfo
	files map[string]ztoc.Range // path to its bytes in the tar
}

// presence is which spans are there, by layer: holdings of one moment.
type presence struct {
	layers map[string]*ztocFile
	spans  map[string][]bool
	doubt  bool // a layer's files are not known, as its zTOC is damaged
}

// maxFolio is how much more than it was asked for the kernel may want at once.
const maxFolio = 1 << 20

// has implements holdings. Of a file that is in no lazy layer all is there: it was unpacked.
func (p *presence) has(_, path string, off, n int64) bool {
	if p.doubt {
		return false
	}
	for key, z := range p.layers {
		file, ok := z.files[path]
		if !ok {
			continue
		}
		from, to := max(0, off-maxFolio), min(file.Len, off+n+maxFolio) // of the file
		if from >= to {
			continue
		}
		first, end := z.zinfo.SpansOf(ztoc.Range{Off: file.Off + from, Len: to - from})
		for id := first; id < end; id++ {
			if spans := p.spans[key]; id >= len(spans) || !spans[id] {
				return false
			}
		}
	}
	return true
}

// taint notes that a layer's data were changed behind the daemon's back.
func (d *disk) taint(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tainted == nil {
		d.tainted = make(map[string]bool)
	}
	d.tainted[key] = true
}

// look reads what is there now. A layer that comes or goes meanwhile has nothing.
func (d *disk) look() (*presence, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	keys, err := os.ReadDir(filepath.Join(d.root, "soci", "layers"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look for layers: %w", err)
	}
	if d.layers == nil {
		d.layers = make(map[string]*ztocFile)
	}
	p := &presence{layers: make(map[string]*ztocFile), spans: make(map[string][]bool)}
	for _, k := range keys {
		key := k.Name()
		if d.layers[key] == nil {
			z, err := readZTOC(filepath.Join(d.root, "soci", "layers", key, "ztoc"))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if errors.Is(err, errOther) {
				p.doubt = true
				continue
			}
			if err != nil {
				return nil, err
			}
			d.layers[key] = z
		}
		p.layers[key] = d.layers[key]
		dir := filepath.Join(d.root, "soci", "spans", key)
		if p.spans[key], err = readSpans(dir, d.layers[key].zinfo, d.tainted[key]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// errOther says that a zTOC is not the one that its layer's key names.
var errOther = errors.New("its digest is another one")

func readZTOC(path string) (*ztocFile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key := filepath.Base(filepath.Dir(path))
	if _, dgst, ok := strings.Cut(key, "-"); ok && digest.FromBytes(b).Encoded() != dgst {
		return nil, fmt.Errorf("read %s: %w", path, errOther)
	}
	z, err := ztoc.Open(b)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	f := &ztocFile{zinfo: z.ZInfo(), files: make(map[string]ztoc.Range)}
	for _, e := range z.Entries() {
		name := strings.Trim(e.Name, "/")
		if f.files[name] = (ztoc.Range{Off: e.Offset, Len: e.Size}); e.Type == ztoc.TypeHardlink {
			f.files[name] = f.files[strings.Trim(e.Linkname, "/")]
		}
	}
	return f, nil
}

// The state file as package span has it: a header, then 8 bytes for each span.
const (
	stateMagic  = "SOCISPAN\x01\x00\x00\x00"
	stateHeader = 48
	stateSlot   = 8
)

// readSpans reads a state file, and checks the data against it if that is in doubt. Where there
// is none, or none that is whole, nothing is there.
func readSpans(dir string, zi *ztoc.ZInfo, doubt bool) ([]bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, "state"))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(b) < stateHeader {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !doubt && string(b[:len(stateMagic)]) != stateMagic {
		return nil, fmt.Errorf("read %s/state: it begins with %q: what is on disk cannot be told", dir, b[:len(stateMagic)])
	}
	var data *os.File
	if doubt {
		if data, err = os.Open(filepath.Join(dir, "data")); err != nil {
			return nil, nil // gone meanwhile
		}
		defer data.Close()
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	spans := make([]bool, len(zi.Spans))
	for i := range spans {
		at := stateHeader + i*stateSlot
		if at+stateSlot > len(b) {
			break
		}
		// Which record it is, and what its bytes sum up to.
		slot := append(append([]byte(nil), b[16:stateHeader]...), 0, 0, 0, 0, 0, 0, 0, 0)
		binary.LittleEndian.PutUint32(slot[32:], uint32(i))
		copy(slot[36:], b[at:at+4])
		spans[i] = binary.LittleEndian.Uint32(b[at+4:]) == crc32.Checksum(slot, table)
		if spans[i] && doubt {
			p := make([]byte, zi.Spans[i].Out.Len)
			_, err := data.ReadAt(p, zi.Spans[i].Out.Off)
			spans[i] = err == nil && crc32.Checksum(p, table) == binary.LittleEndian.Uint32(b[at:])
		}
	}
	return spans, nil
}
