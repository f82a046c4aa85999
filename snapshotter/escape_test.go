// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"

	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
)

// entry is one header of a hostile layer.
type entry struct {
	typ        byte
	name, link string
	edit       func(h *tar.Header)
}

func reg(name string) entry          { return entry{typ: tar.TypeReg, name: name} }
func dirs(name string) entry         { return entry{typ: tar.TypeDir, name: name} }
func symlink(name, to string) entry  { return entry{typ: tar.TypeSymlink, name: name, link: to} }
func hardlink(name, to string) entry { return entry{typ: tar.TypeLink, name: name, link: to} }
func with(f func(*tar.Header)) entry { return entry{typ: tar.TypeReg, name: "odd", edit: f} }
func pax(key, val string) entry {
	return with(func(h *tar.Header) { h.PAXRecords = map[string]string{key: val} })
}
func node(typ byte, major, minor int64) entry {
	return entry{typ: typ, name: "node", edit: func(h *tar.Header) { h.Devmajor, h.Devminor = major, minor }}
}

// escapes are layers by which one might get out of a directory, or make of the tree what no tar can.
func escapes() map[string][]entry {
	long := strings.Repeat("n", 256)
	return map[string][]entry{
		"nothing odd":    {dirs("a"), reg("a/b"), symlink("c", "a/b"), hardlink("d", "a/b")},
		"upwards":        {reg("../escaped")},
		"far upwards":    {reg(strings.Repeat("../", 100) + "escaped")},
		"upwards inside": {dirs("a"), reg("a/../../escaped")},
		"up and down":    {dirs("a"), reg("a/../b")},
		"directory up":   {dirs("../escaped")},
		"absolute":       {reg("/escaped")},
		"many slashes":   {dirs("a"), reg("//a///b")},
		"dots":           {dirs("a"), reg("./a/./b")},
		"dot":            {reg(".")},
		"dot dot":        {reg("..")},
		"long name":      {reg(long)},
		"long directory": {dirs(long), reg(long + "/a")},
		"long path":      {reg(strings.Repeat("a/", 2049) + "a")},
		"10,000 levels":  {dirs(strings.Repeat("d/", 10_000))},
		"control":        {reg("a\x01\x1b[2J\n"), reg("\xff\xfe"), reg(" "), reg("...")},

		"below a symlink out":   {symlink("l", "/etc"), reg("l/escaped")},
		"below a symlink up":    {symlink("l", ".."), reg("l/escaped")},
		"below a symlink in":    {dirs("real"), symlink("l", "real"), reg("l/a")},
		"below a chain":         {symlink("a", "b"), symlink("b", "/"), reg("a/escaped")},
		"below a loop":          {symlink("a", "a"), reg("a/b")},
		"symlink then the same": {symlink("l", "/etc/escaped"), reg("l")},
		"symlink to a symlink":  {symlink("l", "m"), symlink("m", "/etc/shadow")},
		"symlink upwards":       {symlink("l", strings.Repeat("../", 500)+"etc/shadow")},
		"symlink of 4,096":      {symlink("l", strings.Repeat("x", 4096))},
		"symlink replaced":      {symlink("l", "/etc"), dirs("l"), reg("l/a")},

		"file over directory":       {dirs("a"), reg("a")},
		"file over full directory":  {dirs("a"), reg("a/b"), reg("a")},
		"directory over file":       {reg("a"), dirs("a"), reg("a/b")},
		"symlink over directory":    {dirs("a"), reg("a/b"), symlink("a", "/etc")},
		"directory over symlink":    {symlink("a", "/etc"), dirs("a")},
		"hard link over directory":  {reg("f"), dirs("a"), reg("a/b"), hardlink("a", "f")},
		"hard link over file":       {reg("f"), reg("g"), hardlink("g", "f")},
		"file twice":                {reg("a"), reg("a")},
		"file below a file":         {reg("a"), reg("a/b")},
		"directory twice":           {dirs("a"), reg("a/b"), entry{typ: tar.TypeDir, name: "a", edit: func(h *tar.Header) { h.Mode = 0o1777 }}},
		"replaced under a link":     {reg("a"), hardlink("b", "a"), reg("a")},
		"same name, other spelling": {dirs("a"), reg("a/b"), reg("./a//b")},

		"link to itself":         {hardlink("a", "a")},
		"link forward":           {hardlink("a", "b"), reg("b")},
		"links in a circle":      {hardlink("a", "b"), hardlink("b", "c"), hardlink("c", "a")},
		"chain of links":         {reg("a"), hardlink("b", "a"), hardlink("c", "b"), hardlink("d", "c")},
		"link to a directory":    {dirs("a"), hardlink("b", "a")},
		"link to nothing":        {hardlink("a", "missing")},
		"link to the root":       {hardlink("a", "/")},
		"link without a target":  {hardlink("a", "")},
		"link absolute":          {reg("b"), hardlink("a", "/b")},
		"link upwards":           {reg("b"), hardlink("a", "../b")},
		"link out":               {hardlink("a", "../../../../etc/passwd")},
		"link to a symlink":      {symlink("l", "/etc/passwd"), hardlink("a", "l")},
		"link through a symlink": {dirs("d"), reg("d/f"), symlink("l", "d"), hardlink("a", "l/f")},
		"link through one out":   {symlink("l", "/etc"), hardlink("a", "l/passwd")},
		"link to a device":       {node(tar.TypeChar, 1, 3), hardlink("a", "node")},

		"null device":       {node(tar.TypeChar, 1, 3)},
		"disk":              {node(tar.TypeBlock, 8, 0)},
		"fifo":              {node(tar.TypeFifo, 0, 0)},
		"a whiteout's node": {node(tar.TypeChar, 0, 0)},
		"block device 0:0":  {node(tar.TypeBlock, 0, 0)},
		"large minor":       {node(tar.TypeChar, 1, 1<<19)},
		"major too large":   {node(tar.TypeChar, 1<<20, 1)},

		"whiteout":                  {reg(".wh.gone")},
		"whiteout of nothing":       {reg(".wh.")},
		"whiteout of dot":           {reg(".wh..")},
		"whiteout of dot dot":       {reg(".wh...")},
		"whiteout up":               {dirs("a"), reg("a/.wh...")},
		"whiteout of a whiteout":    {reg(".wh..wh.a")},
		"whiteout that is a dir":    {dirs(".wh.a")},
		"below a whiteout":          {dirs(".wh.a"), reg(".wh.a/b")},
		"whiteout then the file":    {reg(".wh.a"), reg("a")},
		"the file then whiteout":    {reg("a"), reg(".wh.a")},
		"directory then whiteout":   {dirs("a"), reg("a/b"), reg(".wh.a")},
		"opaque":                    {dirs("a"), reg("a/.wh..wh..opq"), reg("a/b")},
		"opaque last":               {dirs("a"), reg("a/b"), reg("a/.wh..wh..opq")},
		"opaque root":               {reg(".wh..wh..opq")},
		"opaque that is a symlink":  {dirs("a"), symlink("a/.wh..wh..opq", "/etc")},
		"opaque below a symlink":    {symlink("a", "/etc"), reg("a/.wh..wh..opq")},
		"whiteout below a symlink":  {symlink("a", "/etc"), reg("a/.wh.passwd")},
		"whiteout that is a link":   {hardlink(".wh.a", "/etc/passwd")},
		"whiteout, name of 255":     {reg(".wh." + strings.Repeat("n", 251))},
		"whiteout, name too long":   {reg(".wh." + strings.Repeat("n", 255))},
		"whiteout of what is below": {dirs("a"), dirs("a/b"), reg("a/.wh.b"), reg("a/b/c")},

		"PAX name up":        {pax("path", "../escaped")},
		"PAX name absolute":  {pax("path", "/escaped")},
		"PAX name of 70,000": {pax("path", strings.Repeat("p", 70_000))},
		"PAX link out":       {entry{typ: tar.TypeLink, name: "a", link: "b", edit: func(h *tar.Header) { h.PAXRecords = map[string]string{"linkpath": "../../etc/passwd"} }}},
		"attribute":          {pax("SCHILY.xattr.user.a", "b")},
		"attribute of 64 Ki": {pax("SCHILY.xattr.user.a", strings.Repeat("v", 64<<10+1))},
		"attribute's name":   {pax("SCHILY.xattr.user."+long, "v")},
		"overlay attribute":  {pax("SCHILY.xattr.trusted.overlay.redirect", "/etc")},
		"overlay opaque":     {pax("SCHILY.xattr.trusted.overlay.opaque", "y")},
		"user's overlay":     {pax("SCHILY.xattr.user.overlay.redirect", "/etc")},
		"no name space":      {pax("SCHILY.xattr.nonsense", "v")},
		"no attribute":       {pax("SCHILY.xattr.", "v")},
		"broken capability":  {pax("SCHILY.xattr.security.capability", "x")},
		"broken ACL":         {pax("SCHILY.xattr.system.posix_acl_access", "x")},

		"all mode bits":      {with(func(h *tar.Header) { h.Mode = 0o7777 })},
		"type in the mode":   {with(func(h *tar.Header) { h.Mode = 0o060644 })},
		"user 2^31":          {with(func(h *tar.Header) { h.Uid = 1 << 31 })},
		"user 2^32-2":        {with(func(h *tar.Header) { h.Uid = math.MaxUint32 - 1 })},
		"user that is none":  {with(func(h *tar.Header) { h.Uid = math.MaxUint32 })},
		"user beyond 32":     {with(func(h *tar.Header) { h.Uid = 1 << 40 })},
		"negative group":     {with(func(h *tar.Header) { h.Gid = -5 })},
		"before 1970":        {with(func(h *tar.Header) { h.ModTime = time.Unix(-1_000_000, 5) })},
		"in the year 20,000": {with(func(h *tar.Header) { h.ModTime = time.Unix(568_971_820_800, 0) })},
		"at the end of time": {with(func(h *tar.Header) { h.ModTime = time.Unix(1<<62, 0) })},
	}
}

// hostile makes the layer: five ordinary files, then the entries.
func hostile(t testing.TB, entries []entry) ([]byte, error) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	base := []entry{dirs("base"), reg("base/1"), reg("base/2"), reg("base/3"), symlink("base/4", "1")}
	for _, e := range append(base, entries...) {
		h := &tar.Header{Typeflag: e.typ, Name: e.name, Linkname: e.link, Mode: 0o755, ModTime: time.Unix(1_600_000_000, 0), Format: tar.FormatPAX}
		if e.typ == tar.TypeReg {
			h.Size = int64(len(e.name))
		}
		if e.typ == tar.TypeDir && !strings.HasSuffix(h.Name, "/") {
			h.Name += "/"
		}
		if e.edit != nil {
			e.edit(h)
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			must(io.WriteString(w, e.name))(t)
		}
	}
	check(t, w.Close())
	return b.Bytes(), nil
}

// source is a layer in memory.
type source []byte

func (s source) Size() int64 { return int64(len(s)) }

func (s source) Open(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s[off : off+n])), nil
}

// applied unpacks a layer as containerd does. Whatever it is, nothing beside dir may change.
func applied(t testing.TB, layer []byte) (string, error) {
	t.Helper()
	around := t.TempDir()
	dir := filepath.Join(around, "a", "b")
	check(t, os.MkdirAll(dir, 0o755))
	_, err := archive.Apply(t.Context(), dir, bytes.NewReader(layer), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	for d, want := range map[string]string{around: "a", filepath.Join(around, "a"): "b"} {
		if e := must(os.ReadDir(d))(t); len(e) != 1 || e[0].Name() != want {
			t.Errorf("beside the directory there is %v", e)
		}
	}
	return dir, err
}

// visible is what can be seen of a tree's lines: not the times of whiteouts, nor whiteouts of what no file is called.
func visible(lines []string) []string {
	var out []string
	for _, l := range lines {
		if before, after, ok := strings.Cut(l, " mtime="); ok && strings.Contains(before, " mode=20000 ") && strings.HasSuffix(before, " rdev=0") {
			if strings.Contains(before, "/.wh.") {
				continue
			}
			_, links, _ := strings.Cut(after, " ")
			l = before + " " + links
		}
		out = append(out, l)
	}
	return out
}

// TestEscapes holds that a layer, whatever is in it, is served as containerd unpacks it, or refused and then
// unpacked by it: never anything else, and nothing outside of its directory.
func TestEscapes(t *testing.T) {
	needFUSE(t)
	root := t.TempDir()
	m := must(fs.Mount(filepath.Join(root, "mnt"), fs.Options{StateDir: filepath.Join(root, "state"), Log: slog.New(slog.DiscardHandler)}))(t)
	t.Cleanup(func() { check(t, m.Close()) })
	spans := must(span.Open(filepath.Join(root, "spans"), span.Options{}))(t)
	t.Cleanup(func() { check(t, spans.Close()) })
	outside := must(os.ReadFile("/etc/passwd"))(t)
	// Containerd gives these images up. As they do no harm, we need not: see the Decisions of package fs.
	lenient := map[string]bool{
		"link forward": true, "the file then whiteout": true, "directory then whiteout": true, "whiteout of what is below": true,
	}
	for name, entries := range escapes() {
		t.Run(name, func(t *testing.T) {
			layer, err := hostile(t, entries)
			if err != nil {
				t.Fatalf("the layer cannot be made: %v", err)
			}
			dir, applyErr := applied(t, layer)
			z, err := ztoc.Build(t.Context(), bytes.NewReader(layer), ztoc.BuildOptions{})
			if err != nil {
				if !errors.Is(err, ztoc.ErrFormat) && !errors.Is(err, ztoc.ErrLimit) && !errors.Is(err, ztoc.ErrUnsupported) {
					t.Errorf("index: error %v", err)
				}
				return
			}
			data := must(spans.Layer("layer", z.ZInfo, source(layer)))(t)
			defer func() { check(t, errors.Join(data.Close(), spans.Remove("layer"))) }()
			a, err := m.Attach("layer", 0, z, data)
			if err != nil {
				if !errors.Is(err, fs.ErrTOC) {
					t.Errorf("attach: error %v", err)
				}
				return
			}
			defer func() { check(t, m.Detach("layer")) }()
			if applyErr != nil {
				if !lenient[name] {
					t.Errorf("served, where containerd says: %v", applyErr)
				}
				return
			}
			got, want := visible(tree(t, a.Path)), visible(tree(t, dir))
			for _, l := range got {
				if !slices.Contains(want, l) {
					t.Errorf("served, not unpacked:   %s", l)
				}
			}
			for _, l := range want {
				if !slices.Contains(got, l) {
					t.Errorf("unpacked, not served: %s", l)
				}
			}
		})
	}
	if got := must(os.ReadFile("/etc/passwd"))(t); !bytes.Equal(got, outside) {
		t.Error("a file outside has changed")
	}
}
