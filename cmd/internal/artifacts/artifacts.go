// SPDX-License-Identifier: Apache-2.0

// Package artifacts keeps artifacts.db, the incumbent's list of the SOCI artifacts
// on a machine: which index belongs to which image manifest and which zTOC to which layer.
//
// A [DB] is a file; an [Entry] is one artifact in it.
//
//	db := artifacts.DB{Path: filepath.Join(root, "artifacts.db")}
//	err := db.Add(artifacts.Entry{Digest: desc.Digest, Type: artifacts.TypeIndex, ...})
//	...
//	e, err := db.NewestIndex(manifest)
//
// # Limits
//
//   - Everything is read by walking all entries: meant for some ten thousand of them.
//
// # Decisions
//
//   - The file is opened for each operation and closed again: bbolt locks it for the
//     whole process, and an index build of minutes must not keep another command out.
//     Where another process holds it, an operation waits for DB.Timeout and says so.
//   - An entry that does not parse is an error that names it; the incumbent skips it
//     silently together with everything behind it.
//   - A compact zTOC has a type of its own: the incumbent takes any soci_layer of the right
//     layer and span size for a zTOC to use again.
//   - Rebuild finds v2 indexes as well, by the image manifests that name them, records
//     prefetch artifacts as such, and leaves sound entries alone whose content is there, as well as
//     those that another command adds meanwhile. It reads only what can be a manifest: small and a JSON object.
package artifacts

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/seekoci/seekoci/index"
)

// DefaultTimeout is how long an operation waits for another process that holds the file.
const DefaultTimeout = 10 * time.Second

// ErrBusy says that another process holds the file.
var ErrBusy = errors.New("in use by another process")

// Type is the kind of an artifact.
type Type string

// The types.
const (
	TypeIndex    Type = "soci_index"
	TypeZTOC     Type = "soci_layer"
	TypePrefetch Type = "soci_prefetch"
	TypeCompact  Type = "seekoci_compact" // a compact zTOC; none of the incumbent's commands asks for the type
)

// Entry is one artifact.
type Entry struct {
	Digest         digest.Digest // of the artifact
	Size           int64         // bytes
	SpanSize       int64         // of a zTOC of either format, as on the wire
	OriginalDigest digest.Digest // of the image manifest of an index, of the layer of a zTOC or prefetch artifact
	ImageDigest    digest.Digest // the image's target; index only
	Platform       string        // as containerd formats it; index only
	Type           Type
	MediaType      string
	ArtifactType   string // of an index: its version's
	CreatedAt      time.Time
}

// EntryOf returns the entry of what a SOCI index lists as d, and whether it is an artifact that
// has one: a zTOC of either format or a prefetch artifact.
func EntryOf(d ocispec.Descriptor) (Entry, bool) {
	e := Entry{
		Digest:         d.Digest,
		Size:           d.Size,
		OriginalDigest: digest.Digest(d.Annotations[index.AnnotationLayerDigest]),
		MediaType:      d.MediaType,
	}
	switch d.MediaType {
	case index.MediaTypeZTOC:
		e.Type = TypeZTOC
	case index.MediaTypeCompact:
		e.Type = TypeCompact
	case index.MediaTypePrefetch:
		e.Type = TypePrefetch
		return e, true
	default:
		return Entry{}, false
	}
	var err error
	e.SpanSize, err = strconv.ParseInt(d.Annotations[index.AnnotationSpanSize], 10, 64)
	return e, err == nil // without it, of no use for anything but its index, which names it
}

// IsIndex reports whether e is a SOCI index.
func (e *Entry) IsIndex() bool { return e.MediaType == ocispec.MediaTypeImageManifest }

// DB is an artifacts.db. It is safe for concurrent use. The file is created when it is first needed, its directory
// is not. Errors name the file.
type DB struct {
	Path    string
	Timeout time.Duration // to wait for another process; 0 means DefaultTimeout
}

// The names in the file.
var rootBucket = []byte("soci_artifacts")

const (
	keySize         = "size"
	keySpanSize     = "span_size"
	keyOriginal     = "oci_digest"
	keyImage        = "image_digest"
	keyPlatform     = "platform"
	keyLocation     = "location"
	keyType         = "type"
	keyMediaType    = "media_type"
	keyArtifactType = "artifact_type"
	keyCreatedAt    = "created_at"
)

// open opens the file for one operation, do.
func (db DB) open(do func(*bolt.DB) error) (err error) {
	timeout := db.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	if err := db.create(); err != nil {
		return fmt.Errorf("create %s: %w", db.Path, err)
	}
	b, err := bolt.Open(db.Path, 0o600, &bolt.Options{Timeout: timeout})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("open %s: %w (waited %s)", db.Path, ErrBusy, timeout)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", db.Path, err)
	}
	defer func() {
		if cerr := b.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close %s: %w", db.Path, cerr)
		}
	}()
	return do(b)
}

// create makes the file if it is missing, whole or not at all: bbolt would leave a
// piece of it on a disk that is full, and refuse that ever after.
func (db DB) create() (err error) {
	if _, err := os.Stat(db.Path); !errors.Is(err, os.ErrNotExist) {
		return nil // there, or opening it says what is wrong
	}
	dir, err := os.MkdirTemp(filepath.Dir(db.Path), ".artifacts-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "db")
	b, err := bolt.Open(file, 0o600, nil)
	if err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	// Not a rename: another process may have been faster.
	err = os.Link(file, db.Path)
	if errors.Is(err, os.ErrExist) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) {
		return nil // no hard links here: bbolt makes the file in its place
	}
	return err
}

// update changes the file in one transaction.
func (db DB) update(do func(*bolt.Bucket) error) error {
	return db.open(func(b *bolt.DB) error {
		err := b.Update(func(tx *bolt.Tx) error {
			root, err := tx.CreateBucketIfNotExists(rootBucket)
			if err != nil {
				return err
			}
			return do(root)
		})
		if err != nil {
			return fmt.Errorf("update %s: %w", db.Path, err)
		}
		return nil
	})
}

// view reads the file; a file without artifacts is not visited.
func (db DB) view(do func(*bolt.Bucket) error) error {
	return db.open(func(b *bolt.DB) error {
		err := b.View(func(tx *bolt.Tx) error {
			if root := tx.Bucket(rootBucket); root != nil {
				return do(root)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", db.Path, err)
		}
		return nil
	})
}

// Add adds entries, all or none. An entry replaces the one of the same digest. A zero CreatedAt means now.
func (db DB) Add(entries ...Entry) error {
	return db.update(func(root *bolt.Bucket) error {
		for _, e := range entries {
			if err := put(root, e); err != nil {
				return fmt.Errorf("artifact %s: %w", e.Digest, err)
			}
		}
		return nil
	})
}

// Remove removes the entry of an artifact. If there is none, the error matches errdefs.ErrNotFound.
func (db DB) Remove(dgst digest.Digest) error {
	return db.update(func(root *bolt.Bucket) error {
		if root.Bucket([]byte(dgst)) == nil {
			return fmt.Errorf("artifact %s: %w", dgst, errdefs.ErrNotFound)
		}
		return root.DeleteBucket([]byte(dgst))
	})
}

// Get returns the entry of an artifact. If there is none, the error matches errdefs.ErrNotFound.
func (db DB) Get(dgst digest.Digest) (Entry, error) {
	var e Entry
	found := false
	err := db.view(func(root *bolt.Bucket) error {
		b := root.Bucket([]byte(dgst))
		if b == nil {
			return nil
		}
		found = true
		var err error
		e, err = get(b, dgst)
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("artifact %s: %w in %s", dgst, errdefs.ErrNotFound, db.Path)
	}
	return e, err
}

// List returns all entries, the newest first, those of one time in order of digest.
func (db DB) List() ([]Entry, error) {
	var list []Entry
	err := db.view(func(root *bolt.Bucket) error {
		return root.ForEachBucket(func(k []byte) error {
			e, err := get(root.Bucket(k), digest.Digest(k))
			if err != nil {
				return err
			}
			list = append(list, e)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.Digest, b.Digest))
	})
	return list, nil
}

// find returns the newest entry that has what match asks for.
func (db DB) find(what string, match func(*Entry) bool) (Entry, error) {
	list, err := db.List()
	if err != nil {
		return Entry{}, err
	}
	for i := range list {
		if match(&list[i]) {
			return list[i], nil
		}
	}
	return Entry{}, fmt.Errorf("%s: %w in %s", what, errdefs.ErrNotFound, db.Path)
}

// ZTOC returns the zTOC of a layer in the format of a media type, index.MediaTypeZTOC or index.MediaTypeCompact, with a
// span size (as on the wire). If there is none, the error matches errdefs.ErrNotFound.
func (db DB) ZTOC(layer digest.Digest, mediaType string, spanSize int64) (Entry, error) {
	return db.find(fmt.Sprintf("ztoc of layer %s with span size %d", layer, spanSize), func(e *Entry) bool {
		return (e.Type == TypeZTOC || e.Type == TypeCompact) && e.MediaType == mediaType &&
			e.OriginalDigest == layer && e.SpanSize == spanSize
	})
}

// NewestIndex returns the index of a version that was last made of an image manifest. If
// there is none, the error matches errdefs.ErrNotFound.
func (db DB) NewestIndex(manifest digest.Digest, v index.Version) (Entry, error) {
	return db.find(fmt.Sprintf("SOCI index v%d of image manifest %s", v, manifest), func(e *Entry) bool {
		return e.Type == TypeIndex && e.OriginalDigest == manifest && e.ArtifactType == v.ArtifactType()
	})
}

// put writes e below root.
func put(root *bolt.Bucket, e Entry) error {
	if err := e.Digest.Validate(); err != nil {
		return err
	}
	if e.CreatedAt.IsZero() {
		e.CreatedAt = time.Now()
	}
	created, err := e.CreatedAt.MarshalBinary()
	if err != nil {
		return err
	}
	b, err := root.CreateBucketIfNotExists([]byte(e.Digest))
	if err != nil {
		return err
	}
	for _, f := range []struct {
		key   string
		value []byte
	}{
		{keySize, binary.AppendVarint(nil, e.Size)},
		{keySpanSize, binary.AppendVarint(nil, e.SpanSize)},
		{keyOriginal, []byte(e.OriginalDigest)},
		{keyImage, []byte(e.ImageDigest)},
		{keyPlatform, []byte(e.Platform)},
		{keyLocation, []byte(e.OriginalDigest)},
		{keyType, []byte(e.Type)},
		{keyMediaType, []byte(e.MediaType)},
		{keyArtifactType, []byte(e.ArtifactType)},
		{keyCreatedAt, created},
	} {
		if err := b.Put([]byte(f.key), f.value); err != nil {
			return err
		}
	}
	return nil
}

// get reads the entry in b. A key that is not there is a zero field: older files lack some.
func get(b *bolt.Bucket, dgst digest.Digest) (Entry, error) {
	text := func(key string) string { return string(b.Get([]byte(key))) }
	e := Entry{
		Digest:         dgst,
		OriginalDigest: digest.Digest(text(keyOriginal)),
		ImageDigest:    digest.Digest(text(keyImage)),
		Platform:       text(keyPlatform),
		Type:           Type(text(keyType)),
		MediaType:      text(keyMediaType),
		ArtifactType:   text(keyArtifactType),
	}
	for _, f := range []struct {
		key string
		to  *int64
	}{{keySize, &e.Size}, {keySpanSize, &e.SpanSize}} {
		v := b.Get([]byte(f.key))
		if v == nil {
			continue
		}
		n := 0
		// What follows the number, if anything, has no meaning.
		if *f.to, n = binary.Varint(v); n <= 0 {
			return Entry{}, fmt.Errorf("artifact %s: malformed %s", dgst, f.key)
		}
	}
	if v := b.Get([]byte(keyCreatedAt)); v != nil {
		if err := e.CreatedAt.UnmarshalBinary(v); err != nil {
			return Entry{}, fmt.Errorf("artifact %s: malformed %s: %w", dgst, keyCreatedAt, err)
		}
	}
	return e, nil
}
