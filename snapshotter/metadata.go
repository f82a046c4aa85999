// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	metadataFile = "metadata.db"
	copySuffix   = ".copy"
	badSuffix    = ".damaged"
	maxAside     = 4       // damaged files of a name
	maxKeys      = 1 << 24 // of a database; more of them are a loop
)

var (
	errOpenElsewhere = errors.New("another daemon has it open")
	errDamaged       = errors.New("damaged")
)

// openMetadata opens the metadata store, which nobody else may have open after wait.
func openMetadata(ctx context.Context, root string, wait time.Duration) (*storage.MetaStore, error) {
	dir := filepath.Join(root, "snapshotter")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	db := filepath.Join(dir, metadataFile)
	ms, err := storage.NewMetaStore(db, func(o *bbolt.Options) error {
		o.Timeout = wait
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = ms.WithTransaction(ctx, false, func(context.Context) error { return nil })
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = errOpenElsewhere
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", db, errors.Join(err, ms.Close()))
	}
	return ms, nil
}

// mendMetadata sees to it that the metadata can be opened and read to its end. Where it
// is damaged or gone, its copy takes its place, and where there is no good one an empty database:
// all that has an id it does not know of is held then.
func mendMetadata(root string, wait time.Duration, log *slog.Logger) error {
	dir := filepath.Join(root, "snapshotter")
	db := filepath.Join(dir, metadataFile)
	ids, err := highestID(filepath.Join(dir, "snapshots"))
	if err != nil {
		return err
	}
	wrong := checkBoth(db, wait, log)
	switch {
	case wrong == nil:
		return nil
	case errors.Is(wrong, os.ErrNotExist) && ids == 0:
		if err := os.Remove(db + copySuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil // a new one
	case !unreadable(wrong):
		return fmt.Errorf("open %s: %w", db, wrong)
	}
	old, noCopy := openCopy(db+copySuffix, wait)
	if noCopy != nil && !unreadable(noCopy) {
		return fmt.Errorf("open %s: %w", db+copySuffix, noCopy)
	}
	held, aside, err := adopt(db, old.bytes, ids)
	if err == nil && noCopy != nil && ids > 0 {
		_, err = setAside(db + copySuffix) // or it would be written over at once
	}
	switch {
	case err != nil:
		return fmt.Errorf("restore %s: %w", db, err)
	case noCopy == nil:
		log.Error("metadata was damaged or gone and is restored from its copy: snapshots made or removed since are wrong", "path", db,
			"damaged", aside, "copied", old.made, "checksum_wrong", old.wrong, "error", wrong)
	case ids == 0:
		log.Warn("metadata was damaged and there are no snapshots: it begins anew", "path", db, "damaged", aside, "error", wrong)
	default:
		log.Error("metadata was damaged or gone and so was its copy: it begins anew, running containers go on, and containerd has to be rid of all images and containers it has from before",
			"path", db, "damaged", aside, "error", wrong, "copy", noCopy)
	}
	if held {
		log.Error("directories of snapshots that are not known any more are kept, as containers may use them: when none does, remove the file", "path", heldPath(root))
	}
	return nil
}

// unreadable reports whether err, of checkMetadata, says that there is no database to be had from a file.
func unreadable(err error) bool { return errors.Is(err, errDamaged) || errors.Is(err, os.ErrNotExist) }

// checkBoth is checkMetadata that notices, too, what only the copy tells: another letter in a label, a wrong
// list of free pages, or that the last transaction is lost. Where the database is not what its copy of the same
// transaction is, that takes its place: nothing else is lost with it.
func checkBoth(db string, wait time.Duration, log *slog.Logger) error {
	p, err := readLocked(db, wait)
	if err != nil {
		return err
	}
	old, err := readCopy(db + copySuffix)
	if err != nil || !old.summed {
		return checkMetadata(db, wait)
	}
	is, was := newestMeta(p), newestMeta(old.bytes)
	switch {
	case is == nil || was == nil || was.lastTransaction < is.lastTransaction:
		return checkMetadata(db, wait)
	case was.lastTransaction > is.lastTransaction:
		return fmt.Errorf("%w: its last transaction is %d, that of its copy %d", errDamaged, is.lastTransaction, was.lastTransaction)
	}
	roots := 2 * int(was.pageSize) // a copy has two like the newer one
	if n := len(old.bytes); len(p) >= n && n >= roots && bytes.Equal(p[roots:n], old.bytes[roots:]) {
		return nil
	}
	aside, err := setAside(db)
	if err == nil {
		err = writeFile(db, old.bytes)
	}
	if err == nil {
		err = syncDir(filepath.Dir(db))
	}
	log.Warn("metadata is not what its copy of the same transaction is, which takes its place", "path", db, "was", aside, "error", err)
	return err
}

// adopt makes content, which may be empty, the database at db, which is to give out no id up to last
// again. It reports whether there are ids that content does not know of, which are held then, and what has become of
// the database that was there, if there was one. Up to the end that stays where it is.
func adopt(db string, content []byte, last uint64) (held bool, aside string, err error) {
	if err := writeFile(db+".new", content); err != nil {
		return false, "", err
	}
	d, err := bbolt.Open(db+".new", 0o600, nil)
	if err != nil {
		return false, "", err
	}
	var known uint64
	err = d.Update(func(tx *bbolt.Tx) error {
		v, err := tx.CreateBucketIfNotExists([]byte("v1"))
		if err != nil {
			return err
		}
		if _, err := v.CreateBucketIfNotExists([]byte("parents")); err != nil {
			return err
		}
		b, err := v.CreateBucketIfNotExists([]byte("snapshots"))
		if err != nil {
			return err
		}
		known = b.Sequence()
		return b.SetSequence(max(known, last))
	})
	err = errors.Join(err, d.Close())
	if held = known < last; err == nil && held {
		err = hold(db+heldSuffix, idRange{known, last})
	}
	if err == nil {
		aside, err = setAside(db)
	}
	if err == nil {
		err = os.Rename(db+".new", db)
	}
	if err == nil {
		err = syncDir(filepath.Dir(db))
	}
	return held, aside, err
}

// setAside gives the file at path, if there is one, another name beside its own, and returns that. Of the files that an
// operator may want to have a look at, the first maxAside-1 are kept, and the last one.
func setAside(path string) (string, error) {
	to := path + badSuffix
	for n := 1; n < maxAside; n++ {
		if _, err := os.Lstat(to); err != nil {
			break
		}
		to = fmt.Sprintf("%s%s.%d", path, badSuffix, n)
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	switch err := os.Link(path, to); {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return to, os.Rename(path, to)
	}
	return to, nil
}

// highestID returns the highest id of a snapshot's directory in dir, 0 if there is none.
func highestID(dir string) (uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	var highest uint64
	for _, e := range entries {
		if id, err := strconv.ParseUint(e.Name(), 10, 63); err == nil {
			highest = max(highest, id)
		}
	}
	return highest, nil
}

// checkMetadata reads a database to its end. The error matches errDamaged if that is not
// possible, and os.ErrNotExist if there is none.
func checkMetadata(path string, wait time.Duration) error {
	p, err := readLocked(path, wait)
	switch {
	case err != nil:
		return err
	case len(p) == 0:
		return fmt.Errorf("%w: it is empty", errDamaged)
	}
	if err := checkPages(p); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- readDatabase(path, wait) }() // which may panic, or read what is not there
	if err = <-done; errors.Is(err, errDamaged) {
		if e := readable(path); e != nil { // the disk fails, which may pass
			return e
		}
	}
	return err
}

// readable reads a file to its end.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return errors.Join(err, f.Close())
}

func readDatabase(path string, wait time.Duration) (err error) {
	debug.SetPanicOnFault(true) // of this goroutine
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", errDamaged, v)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: wait})
	switch {
	case err == nil:
	case errors.Is(err, bolterrors.ErrTimeout):
		return errOpenElsewhere
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		strings.HasPrefix(err.Error(), "file size too small"):
		return fmt.Errorf("%w: %w", errDamaged, err)
	default:
		return err // of the disk, for want of memory, or another version's: nothing is known to be wrong with it
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if tx.Size() > info.Size() {
			return fmt.Errorf("%w: %d bytes of %d", errDamaged, info.Size(), tx.Size())
		}
		keys := 0
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return readBucket(b, &keys) })
	})
}

// readBucket reads all of a bucket, whose keys must be in order.
func readBucket(b *bbolt.Bucket, keys *int) error {
	var last []byte
	return b.ForEach(func(k, v []byte) error {
		if *keys++; *keys > maxKeys {
			return fmt.Errorf("%w: more than %d keys", errDamaged, maxKeys)
		}
		if len(k) > bbolt.MaxKeySize { // before it is copied
			return fmt.Errorf("%w: a key of %d bytes", errDamaged, len(k))
		}
		if last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("%w: keys out of order", errDamaged)
		}
		last = bytes.Clone(k)
		if v == nil {
			if sub := b.Bucket(k); sub != nil {
				return readBucket(sub, keys)
			}
		}
		return nil
	})
}
