// SPDX-License-Identifier: Apache-2.0

// Package fs serves layers as read-only directories of one FUSE mount.
package fs

import (
	"log/slog"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
)

// Options configures Mount.
type Options struct {
	Log   *slog.Logger // nil means slog.Default
	Debug bool         // log every FUSE operation
	// FirstSlot is the lowest layer slot to give out; slots are never reused. See SlotFile.
	StateDir string // directory where the slot counter persists
}

// FS is the node's one FUSE mount.
type FS struct{}

// Mount mounts the file system on dir and serves it.
func Mount(dir string, opts Options) (*FS, error) { panic("not yet") }

// Attach makes the layer appear as directory name of the mount and returns its path.
func (f *FS) Attach(name string, toc []ztoc.Entry, data *span.Layer) (string, error) {
	panic("not yet")
}

// Detach removes the layer's directory. Files that are open go on reading.
func (f *FS) Detach(name string) error { panic("not yet") }

// Close unmounts and waits for the requests under way.
func (f *FS) Close() error { panic("not yet") }
