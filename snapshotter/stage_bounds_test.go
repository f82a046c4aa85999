// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// TestUnpackAheadApart holds that layers which cannot be renamed into place are unpacked there, and no
// more of them ahead.
func TestUnpackAheadApart(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	check(t, unix.Mount(f.stage.dir, f.stage.dir, "", unix.MS_BIND, "")) // names do not move across mounts
	t.Cleanup(func() { check(t, unix.Unmount(f.stage.dir, unix.MNT_DETACH)) })
	i := halfImage(t, m, testFiles(1), testFiles(2), testFiles(3))
	f.mustPrepare(i, 0, Lazy)
	for _, l := range f.ahead(i).layers {
		<-l.done
	}
	f.mustPrepare(i, 1, Local)
	f.mustPrepare(i, 2, Local)
	other := halfImage(t, m, testFiles(1), testFiles(4), testFiles(5))
	f.mustPrepare(other, 1, Local)
	f.images.mu.Lock()
	if p := f.images.cached(imageKey{other.name, other.desc.Digest, ""}, time.Now()).pull.Load(); p != nil {
		t.Error("more is unpacked ahead")
	}
	f.images.mu.Unlock()
	f.checkStageEmpty()
}

// TestUnpackAheadSparse holds that a file which says it is larger than anything takes no room, and
// no disk: of a sparse one that is all holes nothing comes from the registry.
func TestUnpackAheadSparse(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	check(t, w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatGNU}))
	check(t, w.Close())
	p := b.Bytes()
	p[156] = 'S'                                   // sparse, GNU's old format
	binary.BigEndian.PutUint64(p[386+4:], 1<<63-1) // one hole: the data, none, is at the end
	p[386] = 0x80                                  // base-256
	copy(p[386+12:], "00000000000\x00")            // of which there is none
	p[483] = 0x80                                  // the real size
	binary.BigEndian.PutUint64(p[483+4:], 1<<63-1)
	copy(p[148:156], "        ")
	sum := 0
	for _, c := range p[:512] {
		sum += int(c)
	}
	copy(p[148:], fmt.Sprintf("%06o\x00 ", sum))
	if h, err := tar.NewReader(bytes.NewReader(p)).Next(); err != nil || h.Size != 1<<63-1 {
		t.Fatalf("header %+v, %v", h, err)
	}
	m := newMemory()
	f := newFixture(t, m, Options{MaxUnpacked: 1 << 20})
	dir := t.TempDir()
	l := &staged{blob: memoryBlob{m, m.put("", p)}, diffID: digest.FromBytes(p)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // it would not end
	defer cancel()
	if err := f.stage.unpackTo(ctx, l, dir); !errors.Is(err, errStage) || f.stage.room.Load() != f.opts.MaxUnpacked {
		t.Errorf("unpacked, room for %d: %v", f.stage.room.Load(), err)
	}
}
