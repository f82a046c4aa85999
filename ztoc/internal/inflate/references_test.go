// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"testing"

	kflate "github.com/klauspost/compress/flate"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// references are decoders of others.
type references map[string]flateReader

func newReferences() references {
	return references{
		"compress/flate":  flate.NewReader(nil).(flateReader),
		"klauspost/flate": kflate.NewReader(nil).(flateReader),
	}
}

type flateReader interface {
	io.Reader
	flate.Resetter
}

// check compares the trail of src, which begins at bit 0, with them: they find a
// fault when there is one, the bytes before are the same, and so is the end.
func (rs references) check(t testing.TB, src []byte, tr *trail) {
	t.Helper()
	for name, r := range rs {
		input := bytes.NewReader(src)
		if err := r.Reset(input, nil); err != nil {
			t.Fatal(err)
		}
		full := errors.Is(tr.err, inflate.ErrRoom)
		limit := int64(len(tr.out)) + 1
		out, err := io.ReadAll(io.LimitReader(r, limit))
		n := min(len(out), len(tr.out))
		switch {
		case full && len(out) != len(tr.out)+1:
			t.Fatalf("%s: %d bytes (%v), want more than %d", name, len(out), err, len(tr.out))
		case !bytes.Equal(out[:n], tr.out[:n]):
			t.Fatalf("%s: other bytes", name)
		case full:
		case tr.err == nil && (err != nil || len(out) != len(tr.out)):
			t.Fatalf("%s: %d bytes (%v), want %d", name, len(out), err, len(tr.out))
		case tr.err == nil && len(src)-input.Len() != (tr.bit+7)/8:
			t.Fatalf("%s: the stream ends at byte %d, want bit %d", name, len(src)-input.Len(), tr.bit)
		case tr.err != nil && err == nil && int64(len(out)) < limit:
			t.Fatalf("%s: nothing wrong, want %v", name, tr.err)
		}
	}
}
