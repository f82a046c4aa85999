// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// encode compresses the parts of p one by one.
func encode(t *testing.T, open func(io.Writer) io.WriteCloser, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		w := open(&b)
		must(w.Write(p))(t)
		check(t, w.Close())
	}
	return b.Bytes()
}

// TestUnpack holds that layers of every compression are unpacked, that padding
// behind the tar counts, and that what does not match is refused.
func TestUnpack(t *testing.T) {
	needRoot(t)
	f := ztoctest.Big(1, "dir/file", 200_000)
	tar := must(ztoctest.Tar([]ztoctest.File{f}, ztoctest.TarOptions{Padding: 20 << 10}))(t)
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	zs := func(w io.Writer) io.WriteCloser { return must(zstd.NewWriter(w))(t) }
	good := encode(t, gz, tar)
	for _, c := range []struct {
		name   string
		layer  []byte
		diffID digest.Digest
		err    string
	}{
		{name: "plain", layer: tar},
		{name: "gzip", layer: good},
		{name: "gzip in members", layer: encode(t, gz, tar[:1000], tar[1000:])},
		{name: "zstd", layer: encode(t, zs, tar)},
		{name: "zstd in frames", layer: encode(t, zs, tar[:1000], tar[1000:])},
		{name: "zstd behind a skippable frame", layer: append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x'}, encode(t, zs, tar)...)},
		{name: "wrong diffID", layer: good, diffID: digest.FromString("x"), err: "diffID is " + digest.FromBytes(tar).String()},
		{name: "cut short", layer: good[:len(good)/2], err: "unexpected EOF"},
		{name: "garbage behind", layer: append(bytes.Clone(good), "garbage that is no member"...), err: "trailing data is not a gzip member"},
		{name: "empty", layer: []byte{}, err: "diffID"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			b := memoryBlob{m, m.put(ocispec.MediaTypeImageLayer, c.layer)}
			if c.diffID == "" {
				c.diffID = digest.FromBytes(tar)
			}
			dir := t.TempDir()
			usage, err := unpack(t.Context(), b, c.diffID, destination{dir: dir})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error is %v, want %q", err, c.err)
				}
				return
			}
			check(t, err)
			if got := must(os.ReadFile(filepath.Join(dir, "dir", "file")))(t); !bytes.Equal(got, f.Data) {
				t.Error("file differs")
			}
			if usage.Size < int64(len(f.Data)) || usage.Inodes != 3 {
				t.Errorf("usage is %+v", usage)
			}
		})
	}
}
