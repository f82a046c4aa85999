// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"go.etcd.io/bbolt"
)

const (
	copyEvery = 10 * time.Second // if anything has changed
	// seal ends a copy, before the CRC32C of what comes before, in four bytes, little-endian. The
	// copies of older versions have neither. A database does not mind.
	seal = "soci-metadata-1\n"
)

// sealed returns the database p with its checksum behind it.
func sealed(p []byte) []byte {
	sum := crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))
	return binary.LittleEndian.AppendUint32(append(p, seal...), sum)
}

// unsealed returns the database in a copy, whether that has a checksum, and whether it is right.
func unsealed(p []byte) (db []byte, summed, right bool) {
	n := len(p) - len(seal) - 4
	if n < 0 || string(p[n:n+len(seal)]) != seal {
		return p, false, false
	}
	return p[:n], true, bytes.Equal(sealed(bytes.Clone(p[:n])), p)
}

// copied is a copy of the metadata.
type copied struct {
	bytes  []byte
	summed bool // its checksum was seen to be right
	wrong  bool // it was seen to be wrong: the copy tells nothing of the database, but is better than none
	made   time.Time
}

// readCopy reads a copy, whatever the database in it says.
func readCopy(path string) (copied, error) {
	info, err := os.Stat(path)
	if err != nil {
		return copied{}, err
	}
	p, err := os.ReadFile(path)
	if err != nil {
		return copied{}, err
	}
	db, summed, right := unsealed(p)
	return copied{bytes: db, summed: right, wrong: summed && !right, made: info.ModTime()}, nil
}

// openCopy reads a copy, and the database in it to its end. The errors are those of checkMetadata.
func openCopy(path string, wait time.Duration) (copied, error) {
	if err := checkMetadata(path, wait); err != nil {
		return copied{}, err
	}
	return readCopy(path)
}

// copies keeps a copy of the metadata, for the case that it is damaged.
type copies struct {
	ms   *storage.MetaStore
	path string
	log  *slog.Logger
	last int // transaction that was copied
}

// run copies the metadata at once if the copy is older, then whenever it has changed, and when ctx ends.
func (c *copies) run(ctx context.Context) {
	tick := time.NewTicker(copyEvery)
	defer tick.Stop()
	now := make(chan struct{})
	if c.late() { // of a daemon that is killed again and again there would be no copy
		close(now)
	}
	for ended, failed := false, false; !ended; {
		select {
		case <-now:
			now = nil
		case <-tick.C:
		case <-ctx.Done():
			ended = true
		}
		err := c.copy(context.WithoutCancel(ctx))
		if err != nil && !failed { // a full disk is full for long
			c.log.Warn("copy metadata", "path", c.path, "error", err)
		}
		failed = err != nil
	}
}

// late reports whether the database was written to after its copy.
func (c *copies) late() bool {
	db, err := os.Stat(strings.TrimSuffix(c.path, copySuffix))
	if err != nil {
		return false
	}
	copied, err := os.Stat(c.path)
	return err != nil || !copied.ModTime().After(db.ModTime())
}

// copy writes the copy, if anything has changed since.
func (c *copies) copy(ctx context.Context) error {
	var b bytes.Buffer
	id, err := c.read(ctx, &b)
	if err != nil || id == c.last {
		return err
	}
	if err := writeFile(c.path, sealed(b.Bytes())); err != nil {
		return err
	}
	c.last = id
	return nil
}

// read reads the metadata, if anything has changed, and returns the number of the last transaction.
func (c *copies) read(ctx context.Context, b *bytes.Buffer) (int, error) {
	_, t, err := c.ms.TransactionContext(ctx, false)
	if err != nil {
		return 0, err
	}
	defer t.Rollback() //nolint:errcheck // it only reads
	tx, ok := t.(*bbolt.Tx)
	if !ok {
		return 0, fmt.Errorf("transactions are of the type %T", t)
	}
	if tx.ID() != c.last {
		_, err = tx.WriteTo(b)
	}
	return tx.ID(), err
}
