// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// harm is a kind of file below the daemon's root that is damaged while it is down.
type harm struct {
	name   string // in the report
	weight int
	glob   string // below the root
	all    bool   // most of the files, not one
	twin   bool   // it is left alone where its copy, or what it is the copy of, is not the same
	how    []wreck
}

// harms are all of them. Of what there are two one is left alone, as there is nowhere else to have it from.
func harms() []harm {
	return []harm{
		{name: "data", weight: 8, glob: "soci/spans/*/data", all: true, how: anyhow()},
		{name: "state", weight: 3, glob: "soci/spans/*/state", all: true, how: anyhow()},
		{name: "ztoc", weight: 4, glob: "soci/layers/*/ztoc", how: anyhow()},
		{name: "layer.json", weight: 4, glob: "soci/layers/*/layer.json", twin: true, how: anyhow()},
		{name: "layer.json.copy", weight: 1, glob: "soci/layers/*/layer.json.copy", twin: true, how: anyhow()},
		{name: "slots", weight: 2, glob: "soci/*/slots", how: anyhow()},
		{name: "metadata.db", weight: 4, glob: "snapshotter/metadata.db", twin: true, how: anyhow()},
		{name: "metadata.db.copy", weight: 1, glob: "snapshotter/metadata.db.copy", how: anyhow()},
		{name: bothMetadata, weight: 1, glob: "snapshotter/metadata.db", twin: true, how: plainly()},
		{name: "profiles", weight: 2, glob: "soci/profiles/*/*.json", all: true, how: anyhow()},
	}
}

// bothMetadata is the one harm after which the daemon knows of no snapshot any more.
const bothMetadata = "metadata.db and its copy"

// pick draws one by its weight.
func pick(r *rand.Rand) harm {
	total := 0
	for _, h := range harms() {
		total += h.weight
	}
	at := r.IntN(total)
	for _, h := range harms() {
		if at -= h.weight; at < 0 {
			return h
		}
	}
	panic("chaos: internal error: no harm has that weight")
}

// wreck is a way to damage a file of size bytes, which are some.
type wreck func(r *rand.Rand, f *os.File, size int64) error

// anyhow is whatever can become of a file.
func anyhow() []wreck {
	return []wreck{cutOff, flipSome, flipSome, overwrite, remove, empty, spoilHead}
}

// plainly is what a database can notice that has no checksums but of its first pages.
func plainly() []wreck { return []wreck{spoilHead, remove, empty} }

func cutOff(r *rand.Rand, f *os.File, size int64) error { return f.Truncate(r.Int64N(size)) }
func empty(_ *rand.Rand, f *os.File, _ int64) error     { return f.Truncate(0) }
func remove(_ *rand.Rand, f *os.File, _ int64) error    { return os.Remove(f.Name()) }

// flipSome changes single bits in one place or in many.
func flipSome(r *rand.Rand, f *os.File, size int64) error {
	for range 1 + size>>16 {
		if err := flip(f, r.Int64N(size), r.IntN(8)); err != nil {
			return err
		}
	}
	return nil
}

func flip(f *os.File, off int64, bit int) error {
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return err
	}
	b[0] ^= 1 << bit
	_, err := f.WriteAt(b[:], off)
	return err
}

// overwrite has something else somewhere.
func overwrite(r *rand.Rand, f *os.File, size int64) error {
	p := junk(r, min(size, 1+r.Int64N(64<<10)))
	_, err := f.WriteAt(p, r.Int64N(size-int64(len(p))+1))
	return err
}

// spoilHead has something else where a file begins.
func spoilHead(r *rand.Rand, f *os.File, size int64) error {
	_, err := f.WriteAt(junk(r, min(size, 16<<10)), 0)
	return err
}

func junk(r *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// corrupt ends the daemon, damages files of one kind, and starts it.
func (r *run) corrupt(ctx context.Context, s step) error {
	rnd := rand.New(rand.NewPCG(s.seed, 4))
	h := pick(rnd)
	sig := unix.SIGKILL
	if strings.HasPrefix(h.name, "metadata.db") && rnd.IntN(4) > 0 {
		sig = unix.SIGTERM // the copy is as new as can be then
	}
	if h.name == bothMetadata {
		return r.restart(ctx, s, sig, func() error { return r.bereft(ctx, rnd, h) })
	}
	return r.restart(ctx, s, sig, func() error { return errors.Join(r.harm(rnd, h), dropAll()) })
}

// harm damages files of a kind.
func (r *run) harm(rnd *rand.Rand, h harm) error {
	root := r.disk.root
	paths, err := filepath.Glob(filepath.Join(root, h.glob))
	if err != nil {
		return err
	}
	var hit []string
	for _, p := range paths {
		if spare, err := h.spares(p); err != nil {
			return err
		} else if !spare && (!h.all || rnd.IntN(4) > 0) {
			hit = append(hit, p)
		}
	}
	if !h.all && len(hit) > 1 {
		at := rnd.IntN(len(hit))
		hit = hit[at : at+1]
	}
	for _, p := range hit {
		if dir := filepath.Dir(p); filepath.Dir(dir) == filepath.Join(root, "soci/spans") {
			r.line.forget()
			r.disk.taint(filepath.Base(dir))
		}
		if err := damage(rnd, p, h.how); err != nil {
			return fmt.Errorf("damage %s: %w", p, err)
		}
		r.report.add("files damaged: "+h.name, 1)
	}
	return nil
}

// copySuffix is of the copy of a file.
const copySuffix = ".copy"

// twin is the copy of the file at path, or what that is the copy of.
func twin(path string) string {
	if of, ok := strings.CutSuffix(path, copySuffix); ok {
		return of
	}
	return path + copySuffix
}

// spares reports whether the file at path is to be left alone, as its twin does not say the same.
func (h harm) spares(path string) (bool, error) {
	if !h.twin {
		return false, nil
	}
	if filepath.Ext(path) == ".db" {
		a, err := transaction(path)
		if err != nil {
			return false, err
		}
		b, err := transaction(twin(path))
		return err != nil || a != b, nil
	}
	a, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(twin(path))
	return err != nil || !bytes.Equal(a, b), nil
}

// transaction returns the number of a database's last transaction.
func transaction(path string) (n int, err error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return n, db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err == nil && info.Size() < tx.Size() {
			err = fmt.Errorf("read %s: %d bytes of %d", path, info.Size(), tx.Size())
		}
		n = tx.ID()
		return err
	})
}

// damage spoils one file, in one of the ways.
func damage(r *rand.Rand, path string, ways []wreck) (err error) {
	do := ways[r.IntN(len(ways))]
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	return do(r, f, info.Size())
}

// bereft damages both the metadata and its copy: the daemon is to start, and to serve the containers that run, while
// nobody asks it for anything else. Then it gets them back, as from an operator's backup.
func (r *run) bereft(ctx context.Context, rnd *rand.Rand, h harm) error {
	db := filepath.Join(r.disk.root, h.glob)
	held := db + ".held"
	_, err := os.Lstat(held)
	before := err == nil
	backup := make(map[string][]byte)
	for _, p := range []string{db, twin(db)} {
		if backup[p], err = os.ReadFile(p); errors.Is(err, os.ErrNotExist) {
			return nil // no copy yet
		} else if err != nil {
			return err
		}
	}
	defer r.line.begin(noContainerd, nil)()
	if err := r.node.StopContainerd(unix.SIGKILL); err != nil {
		return err
	}
	for p := range backup {
		if err := damage(rnd, p, h.how); err != nil {
			return fmt.Errorf("damage %s: %w", p, err)
		}
	}
	r.report.add("files damaged: "+h.name, 1)
	if err := r.node.StartSnapshotter(context.WithoutCancel(ctx)); err != nil {
		r.report.fault("the daemon does not start without its metadata: %v", err)
	}
	wait(ctx, time.Second) // of which the containers' readers make use
	if err := r.node.StopSnapshotter(unix.SIGKILL); err != nil {
		return err
	}
	for p, b := range backup {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			return err
		}
	}
	if !before {
		if err := os.Remove(held); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return r.node.StartContainerd(context.WithoutCancel(ctx))
}
