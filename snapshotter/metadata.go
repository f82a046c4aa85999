// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	metadataFile = "metadata.db"
	copySuffix   = ".copy"
	badSuffix    = ".damaged"
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
	wrong := checkBoth(db, wait)
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
	if err := os.Rename(db, db+badSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	held, err := adopt(db, old.bytes, ids)
	switch {
	case err != nil:
		return fmt.Errorf("restore %s: %w", db, err)
	case noCopy == nil:
		log.Error("metadata was damaged and is restored from its copy: snapshots made or removed since are wrong", "path", db,
			"damaged", db+badSuffix, "copied", old.made, "error", wrong)
	case ids == 0:
		log.Warn("metadata was damaged and there are no snapshots: it begins anew", "path", db, "damaged", db+badSuffix, "error", wrong)
	default:
		log.Error("metadata was damaged or gone and so was its copy: it begins anew, running containers go on, and containerd has to be rid of all images and containers it has from before",
			"path", db, "damaged", db+badSuffix, "error", wrong, "copy", noCopy)
	}
	if held {
		log.Error("directories of snapshots that are not known any more are kept, as containers may use them: when none does, remove the file", "path", heldPath(root))
	}
	return nil
}

// unreadable reports whether err, of checkMetadata, says that there is no database to be had from a file.
func unreadable(err error) bool { return errors.Is(err, errDamaged) || errors.Is(err, os.ErrNotExist) }

// checkBoth is checkMetadata that notices, too, what only the copy tells: another letter in a label, or
// that the last transaction is lost. Where the database says what a copy of the same transaction says, but is not
// the same, that takes its place: a transaction was never finished, or a list of free pages is wrong.
func checkBoth(db string, wait time.Duration) error {
	is, err := checkMetadata(db, wait)
	if err != nil {
		return err
	}
	old, err := openCopy(db+copySuffix, wait)
	switch {
	case err != nil || !old.summed || old.tx < is.tx:
		return nil
	case old.tx > is.tx:
		return fmt.Errorf("%w: its last transaction is %d, that of its copy %d", errDamaged, is.tx, old.tx)
	case old.sum != is.sum:
		return fmt.Errorf("%w: it is not what its copy of the same transaction is", errDamaged)
	}
	p, err := os.ReadFile(db)
	roots := 2 * is.pageSize // a copy has two like the newer one
	if err != nil || len(p) >= len(old.bytes) && bytes.Equal(p[roots:len(old.bytes)], old.bytes[roots:]) {
		return err
	}
	return writeFile(db, old.bytes)
}

// adopt makes content, which may be empty, the database at db, which is to give out no id up to last
// again. It reports whether there are ids that content does not know of, which are held then.
func adopt(db string, content []byte, last uint64) (held bool, err error) {
	if err := writeFile(db+".new", content); err != nil {
		return false, err
	}
	d, err := bbolt.Open(db+".new", 0o600, nil)
	if err != nil {
		return false, err
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
		err = os.Rename(db+".new", db)
	}
	if err == nil {
		err = syncDir(filepath.Dir(db))
	}
	return held, err
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

// contents tells what is in a database.
type contents struct {
	tx       int               // number of the last transaction
	sum      [sha256.Size]byte // of all keys, values and sequences
	pageSize int
}

// checkMetadata reads a database to its end. The error matches errDamaged if that is not
// possible, and os.ErrNotExist if there is none.
func checkMetadata(path string, wait time.Duration) (contents, error) {
	info, err := os.Stat(path)
	if err != nil {
		return contents{}, err
	}
	if info.Size() == 0 {
		return contents{}, fmt.Errorf("%w: it is empty", errDamaged)
	}
	var is contents
	done := make(chan error, 1)
	go func() { done <- readMetadata(path, wait, &is) }() // which may panic, or read what is not there
	err = <-done
	return is, err
}

func readMetadata(path string, wait time.Duration, is *contents) (err error) {
	debug.SetPanicOnFault(true) // of this goroutine
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", errDamaged, v)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: wait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return errOpenElsewhere
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %w", errDamaged, err)
	case err != nil && errors.As(err, new(*os.PathError)):
		return err // the disk's
	case err != nil:
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if tx.Size() > info.Size() {
			return fmt.Errorf("%w: %d bytes of %d", errDamaged, info.Size(), tx.Size())
		}
		sum, keys := sha256.New(), 0
		err = tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			fmt.Fprintf(sum, "%q ", name)
			return readBucket(b, sum, &keys)
		})
		is.tx, is.pageSize = tx.ID(), db.Info().PageSize
		sum.Sum(is.sum[:0])
		return err
	})
	return errors.Join(err, db.Close())
}

// readBucket reads all of a bucket, whose keys must be in order, to sum.
func readBucket(b *bbolt.Bucket, sum io.Writer, keys *int) error {
	fmt.Fprintf(sum, "%d{", b.Sequence())
	defer fmt.Fprint(sum, "}")
	var last []byte
	return b.ForEach(func(k, v []byte) error {
		if *keys++; *keys > maxKeys {
			return fmt.Errorf("%w: more than %d keys", errDamaged, maxKeys)
		}
		if last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("%w: keys out of order", errDamaged)
		}
		last = bytes.Clone(k)
		fmt.Fprintf(sum, "%q:%q ", k, v)
		if v == nil {
			if sub := b.Bucket(k); sub != nil {
				return readBucket(sub, sum, keys)
			}
		}
		return nil
	})
}
