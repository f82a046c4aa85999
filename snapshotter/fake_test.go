// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/fs/span"
)

// must returns a function that fails the test if err is not nil and returns v.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testLog logs to the test's output.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// memory is a repository in memory. It is an index.Store and an index.Remote.
type memory struct {
	mu      sync.Mutex
	blobs   map[digest.Digest][]byte
	types   map[digest.Digest]string
	fetches map[digest.Digest]int

	// hook is asked before everything; its error is the answer. op is
	// "resolve", "fetch", "referrers", "open" or "read".
	hook func(ctx context.Context, op string, d digest.Digest) error
}

func newMemory() *memory {
	return &memory{
		blobs: make(map[digest.Digest][]byte), types: make(map[digest.Digest]string), fetches: make(map[digest.Digest]int),
		hook: func(context.Context, string, digest.Digest) error { return nil },
	}
}

func (m *memory) ask(ctx context.Context, op string, d digest.Digest) error {
	m.mu.Lock()
	hook := m.hook
	if op == "fetch" {
		m.fetches[d]++
	}
	m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return hook(ctx, op, d)
}

// fetched returns how often each content was fetched.
func (m *memory) fetched() map[digest.Digest]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.fetches)
}

// forget begins the counting anew.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.fetches)
}

func (m *memory) setHook(f func(ctx context.Context, op string, d digest.Digest) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = f
}

func (m *memory) get(d digest.Digest) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.blobs[d]
	if !ok {
		return nil, fmt.Errorf("content %s: %w", d, errdefs.ErrNotFound)
	}
	return p, nil
}

func (m *memory) put(mediaType string, p []byte) ocispec.Descriptor {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := digest.FromBytes(p)
	m.blobs[d], m.types[d] = p, mediaType
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(p))}
}

func (m *memory) putJSON(mediaType string, v any) ocispec.Descriptor {
	p, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return m.put(mediaType, p)
}

func (m *memory) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := m.ask(ctx, "fetch", desc.Digest); err != nil {
		return nil, err
	}
	p, err := m.get(desc.Digest)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(p)), nil
}

func (m *memory) Push(_ context.Context, desc ocispec.Descriptor, r io.Reader) error {
	p, err := io.ReadAll(r)
	if err == nil {
		m.put(desc.MediaType, p)
	}
	return err
}

func (m *memory) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	d := digest.Digest(ref)
	if err := m.ask(ctx, "resolve", d); err != nil {
		return ocispec.Descriptor{}, err
	}
	p, err := m.get(d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(p))}, nil
}

func (m *memory) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	if err := m.ask(ctx, "referrers", subject.Digest); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []ocispec.Descriptor
	for d, p := range m.blobs {
		var man ocispec.Manifest
		if json.Unmarshal(p, &man) == nil && man.Subject != nil && man.Subject.Digest == subject.Digest && man.Config.MediaType == artifactType {
			out = append(out, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(p)), ArtifactType: artifactType})
		}
	}
	return out, nil
}

// memoryBlob is one blob of a memory.
type memoryBlob struct {
	m    *memory
	desc ocispec.Descriptor
}

func (b memoryBlob) Size() int64 { return b.desc.Size }

func (b memoryBlob) OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := b.m.ask(ctx, "read", b.desc.Digest); err != nil {
		return nil, err
	}
	all, err := b.m.get(b.desc.Digest)
	if err != nil {
		return nil, err
	}
	if off < 0 || n < 0 || n > int64(len(all))-off {
		return nil, io.ErrUnexpectedEOF
	}
	return io.NopCloser(bytes.NewReader(all[off : off+n])), nil
}

func (b memoryBlob) Open(ctx context.Context) (io.ReadCloser, error) {
	if err := b.m.ask(ctx, "open", b.desc.Digest); err != nil {
		return nil, err
	}
	p, err := b.m.get(b.desc.Digest)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(&verified{bytes.NewReader(p), b.desc}), nil
}

// verified fails at the end of content that is not desc's.
type verified struct {
	*bytes.Reader
	desc ocispec.Descriptor
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		all := make([]byte, v.Size())
		if _, e := v.ReadAt(all, 0); e != nil && !errors.Is(e, io.EOF) {
			return n, e
		}
		if digest.FromBytes(all) != v.desc.Digest {
			return n, errors.New("digest does not match")
		}
	}
	return n, err
}

// repos serves every image from m.
func (m *memory) repos(string) (repository, error) {
	return repository{m, func(d ocispec.Descriptor) blob { return &memoryBlob{m, d} }}, nil
}

// fakeMount stands in for the FUSE mount: a layer is a plain directory with one
// file "name" that holds its name.
type fakeMount struct {
	dir string

	mu       sync.Mutex
	attached map[string]bool
	verdicts map[string]error // by name, of Verified
	slot     uint32           // the last one given out
	closed   bool
	err      error  // of Attach, if not nil
	errOf    string // the name that err is of; "" means all
}

func (f *fakeMount) Attach(name string, slot uint32, toc fs.TOC, _ *span.Layer) (fs.Attached, error) {
	a := fs.Attached{Path: filepath.Join(f.dir, name), Slot: slot, Implied: fs.Implied(toc)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil && (f.errOf == "" || f.errOf == name) {
		return a, f.err
	}
	if f.attached[name] || f.closed {
		return a, fmt.Errorf("attach %s: twice, or closed", name)
	}
	f.attached[name] = true
	if a.Slot == 0 {
		f.slot++
		a.Slot = f.slot
	}
	if err := os.MkdirAll(a.Path, 0o755); err != nil {
		return a, err
	}
	return a, os.WriteFile(filepath.Join(a.Path, "name"), []byte(name), 0o644)
}

func (f *fakeMount) Detach(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.attached[name] {
		return fmt.Errorf("detach %s: not attached", name)
	}
	delete(f.attached, name)
	return os.RemoveAll(filepath.Join(f.dir, name))
}

func (f *fakeMount) Verified(name string, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.attached[name] {
		return fmt.Errorf("verified %s: not attached", name)
	}
	if f.verdicts == nil {
		f.verdicts = make(map[string]error)
	}
	f.verdicts[name] = err
	return nil
}

// verdict returns the last verdict on a layer, and whether there is one.
func (f *fakeMount) verdict(name string) (error, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err, ok := f.verdicts[name]
	return err, ok
}

// Close unmounts: the layers' directories are gone.
func (f *fakeMount) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return os.RemoveAll(f.dir)
}

func (f *fakeMount) names() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.attached)
}

// fakePorts are the parts of a snapshotter at root without FUSE or network.
func fakePorts(t testing.TB, root string, m *memory) ports {
	t.Helper()
	spans := must(span.Open(spansDir(root), span.Options{Around: -1}))(t) // a busy machine takes its own memory for far away
	mount := &fakeMount{
		dir: filepath.Join(root, "snapshotter", "mnt"), attached: make(map[string]bool),
	}
	return ports{mount: mount, unmount: mount.Close, spans: spans, repos: m.repos}
}

// manifest is an OCI image manifest of config and layers.
func manifest(config ocispec.Descriptor, layers []ocispec.Descriptor) ocispec.Manifest {
	return ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: layers,
	}
}
