// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSlots bounds the spans that Inspect believes a state file to have.
const maxSlots = 32 << 20

// Presence says how much of a layer is on disk.
type Presence struct {
	Spans   int // of the layer; 0 if nothing of it has ever been fetched
	Present int // spans whose bytes are recorded to be there
}

// Complete reports whether all of the layer is there.
func (p Presence) Complete() bool { return p.Spans > 0 && p.Present == p.Spans }

// Inspect reads how much of the layer key is in the store at dir, which another process may
// be using. It changes nothing and reads no bytes of the layer. A damaged state is an error
// that names the file.
func Inspect(dir, key string) (Presence, error) {
	if err := checkKey(key); err != nil {
		return Presence{}, fmt.Errorf("inspect spans of %q: %w", key, err)
	}
	f, err := os.Open(filepath.Join(dir, key, "state"))
	if errors.Is(err, fs.ErrNotExist) {
		return Presence{}, nil
	}
	if err != nil {
		return Presence{}, fmt.Errorf("inspect spans of %s: %w", key, err)
	}
	defer f.Close()
	p, err := countSlots(bufio.NewReader(f))
	if err != nil {
		return Presence{}, fmt.Errorf("inspect spans of %s: read %s: %w", key, f.Name(), err)
	}
	return p, nil
}

// countSlots reads a state file.
func countSlots(r io.Reader) (Presence, error) {
	var p Presence
	head := make([]byte, stateHeader)
	if _, err := io.ReadFull(r, head); err != nil {
		return p, noEOF(err)
	}
	n := binary.LittleEndian.Uint32(head[12:])
	id := identity(head[16:])
	if string(head) != string(id.header(int(n))) || n > maxSlots {
		return p, fmt.Errorf("not the state of a layer, version %d", stateVersion)
	}
	p.Spans = int(n)
	for i := range p.Spans {
		var s [slotSize]byte
		if _, err := io.ReadFull(r, s[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
			break // nothing beyond has come so far
		} else if err != nil {
			return p, err
		}
		if s == id.slot(i, binary.LittleEndian.Uint32(s[:])) {
			p.Present++
		}
	}
	return p, nil
}
