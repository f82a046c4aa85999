// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc"
)

// push puts i and, if it has one, its index into a registry's repository.
func (i *testImage) push(t testing.TB, reg *registrytest.Server, repo string) {
	t.Helper()
	i.name = reg.Host() + "/" + repo + ":1"
	var manifests [][]byte
	for d, p := range i.m.blobs {
		var man ocispec.Manifest
		if json.Unmarshal(p, &man) == nil && man.SchemaVersion == 2 {
			manifests = append(manifests, p)
			continue
		}
		if got := must(reg.AddBlob(repo, bytes.NewReader(p)))(t); got.Digest != d {
			t.Fatalf("pushed %s, got %s", d, got.Digest)
		}
	}
	for _, p := range manifests {
		must(reg.AddManifest(repo, "", ocispec.MediaTypeImageManifest, p))(t)
	}
}

// newReal starts a snapshotter over a real mount and a registry client that gives up at once.
func newReal(t testing.TB, root string) *Snapshotter {
	t.Helper()
	return newPatient(t, root, registry.Retry{Max: -1})
}

// newPatient is newReal with retries.
func newPatient(t testing.TB, root string, retry registry.Retry) *Snapshotter {
	t.Helper()
	client := must(registry.NewClient(registry.Options{
		Credential: func(context.Context, string) (registry.Credential, error) { return registry.Credential{}, nil },
		Retry:      retry,
	}))(t)
	s := must(New(t.Context(), Options{Root: root, Registry: client, Log: testLog(t), Discover: []index.Version{index.V1, index.V2},
		Background: Background{Disable: true}}))(t)
	t.Cleanup(func() { s.Close() })
	return s
}

// unpackAll unpacks all layers of i into one directory, as a container should see it.
func unpackAll(t testing.TB, i *testImage) string {
	t.Helper()
	dir := t.TempDir()
	for _, tar := range i.tars {
		must(archive.Apply(t.Context(), dir, bytes.NewReader(tar)))(t)
	}
	return dir
}

// tree describes everything below dir, one line per file, with contents and xattrs.
// It runs in a process of its own: it reads a file system that this one serves.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	cmd := exec.Command(must(os.Executable())(t), "-test.run=^TestTreeHelper$")
	cmd.Env = append(os.Environ(), "SNAPSHOTTER_TREE="+dir, "GORACE=atexit_sleep_ms=0") // it would wait a second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("read %s: %v\n%s%s", dir, err, out, stderr.String())
	}
	lines := strings.Split(string(out), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "/") })
	if len(lines) < 5 {
		t.Fatalf("tree of %s is %q", dir, out)
	}
	return lines
}

// TestTreeHelper is the process that tree starts.
func TestTreeHelper(t *testing.T) {
	dir := os.Getenv("SNAPSHOTTER_TREE")
	if dir == "" {
		return // not the process that tree starts: nothing to hold
	}
	check(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return describe(os.Stdout, dir, path)
	}))
	os.Exit(0)
}

func describe(w io.Writer, root, path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("lstat %s: %w", path, err)
	}
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	line := fmt.Sprintf("/%s mode=%o uid=%d gid=%d size=%d rdev=%x mtime=%d.%d",
		strings.TrimPrefix(path, root), st.Mode, st.Uid, st.Gid, size, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
	if path == root {
		line = "/ root" // its owner and times are the mount's
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		line += fmt.Sprintf(" nlink=%d", st.Nlink)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		p, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		line += fmt.Sprintf(" data=%s", digest.FromBytes(p))
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		line += " -> " + to
	}
	xattrs, err := listXattrs(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s %v\n", line, xattrs)
	return err
}

// listXattrs returns the extended attributes of path that containers see.
func listXattrs(path string) ([]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, fmt.Errorf("listxattr %s: %w", path, err)
	}
	var out []string
	for name := range strings.SplitSeq(strings.Trim(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		val := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, val)
		if err != nil {
			return nil, fmt.Errorf("getxattr %s %s: %w", path, name, err)
		}
		out = append(out, fmt.Sprintf("%s=%x", name, val[:n]))
	}
	slices.Sort(out)
	return out, nil
}

// checkTree mounts a container's snapshot above parent and compares it with want.
func checkTree(t testing.TB, s *Snapshotter, key, parent string, want []string) {
	t.Helper()
	ctx := testContext(t)
	mounts := must(s.Prepare(ctx, key, parent))(t)
	if err := compareTree(t, mounts, want); err != nil {
		t.Fatalf("tree of %s: %v", key, err)
	}
	check(t, s.Remove(ctx, key))
	mounts = must(s.View(ctx, key, parent))(t)
	if err := compareTree(t, mounts, want); err != nil {
		t.Fatalf("tree of view %s: %v", key, err)
	}
	check(t, s.Remove(ctx, key))
	check(t, s.Cleanup(ctx))
}

func compareTree(t testing.TB, mounts []mount.Mount, want []string) error {
	t.Helper()
	dir := t.TempDir()
	check(t, mount.All(mounts, dir))
	defer func() { check(t, mount.UnmountAll(dir, 0)) }()
	got := tree(t, dir)
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			return fmt.Errorf("line %d is\n%s\nwant\n%s", i, append(got, "nothing")[min(i, len(got))], want[i])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d files, want %d, the first too many %s", len(got), len(want), got[len(want)])
	}
	return nil
}

// TestImage pulls images as containerd does, through a real registry and a real
// mount, and compares what a container sees with the unpacked image. Of the
// layers some are lazy and some, having no zTOC, are local.
func TestImage(t *testing.T) {
	needFUSE(t)
	t.Run("v1", func(t *testing.T) { testRealImage(t, index.V1, -1, 0) })
	t.Run("v2 small layers", func(t *testing.T) { testRealImage(t, index.V2, 1, 0) })
	t.Run("v1 compact", func(t *testing.T) { testRealImage(t, index.V1, -1, 64<<10) })
	t.Run("v2 compact small layers", func(t *testing.T) { testRealImage(t, index.V2, 1, 64<<10) })
}

func testRealImage(t *testing.T, version index.Version, minSize, compact int64) {
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	i := newImage(t, newMemory(), "", 1, 2, 3)
	if minSize > 0 {
		minSize = max(i.manifest.Layers[0].Size, i.manifest.Layers[1].Size, i.manifest.Layers[2].Size) // the largest alone
	}
	opts := index.BuildOptions{
		ZTOC: ztoc.BuildOptions{SpanSize: 64 << 10}, MinLayerSize: minSize, CompactSpanSize: compact,
	}
	switch version {
	case index.V2:
		i.buildWith(t, opts)
	case index.V1:
		x, _, err := index.Build(t.Context(), i.m, i.desc, index.V1, opts)
		check(t, err)
		i.index = x
	}
	i.push(t, reg, "library/app")
	root := t.TempDir()
	s := newReal(t, root)
	for n := range i.chains {
		_, err := s.Prepare(testContext(t), fmt.Sprint("extract-", n), i.parent(n), snapshots.WithLabels(i.labels(n)))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("prepare layer %d: %v", n, err)
		}
		info := must(s.Stat(testContext(t), i.chains[n].String()))(t)
		z, indexed := i.index.ZTOC(i.manifest.Layers[n].Digest)
		if c, ok := i.index.Compact(i.manifest.Layers[n].Digest); ok {
			z = c
		}
		if isRemote(info.Labels) != indexed || info.Labels[labelZTOC] != z.Digest.String() {
			t.Errorf("layer %d has a zTOC: %v, %s, labels %v", n, indexed, z.Digest, info.Labels)
		}
	}
	want := tree(t, unpackAll(t, i))
	checkTree(t, s, "container", i.top(), want)

	// What was read is on disk, and so is everything else that is needed.
	check(t, s.Close())
	reg.Close()
	s = newReal(t, root)
	checkTree(t, s, "again", i.top(), want)

	// With its snapshots the image is gone from disk.
	for n := len(i.chains) - 1; n >= 0; n-- {
		check(t, s.Remove(testContext(t), i.chains[n].String()))
	}
	check(t, s.Cleanup(testContext(t)))
	for _, dir := range []string{"soci/layers", "soci/spans", "snapshotter/snapshots", "snapshotter/mnt"} {
		if e := must(os.ReadDir(filepath.Join(root, dir)))(t); len(e) != 0 {
			t.Errorf("%v left in %s", e, dir)
		}
	}
}
