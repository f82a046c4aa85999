// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc"
)

// anyCompression is the compression of a layer whose media type does not say it.
const anyCompression ztoc.Compression = 0

// errZstd says that a layer whose media type does not tell its compression is zstd.
var errZstd = errors.New("zstd")

const (
	xattrPrefix  = "SCHILY.xattr."
	opaqueMarker = ".wh..wh..opq"
)

// job is one layer to index and what became of it.
type job struct {
	layer       ocispec.Descriptor
	compression ztoc.Compression
	reuse       ocispec.Descriptor // a zTOC to be used instead; zero if there is none

	// Set by the job's worker, read when done.
	result  LayerResult
	content io.ReaderAt          // the zTOC; nil if skipped or reused
	spans   map[string]SpanRange // of the files to prefetch, by path
	done    bool
}

// newJob decides what is to be done with a layer.
func newJob(layer ocispec.Descriptor, opts BuildOptions) *job {
	j := &job{layer: layer, result: LayerResult{Layer: layer}}
	if layer.Size < opts.MinLayerSize {
		j.result.Skip = fmt.Sprintf("size %d is less than min-layer-size %d", layer.Size, opts.MinLayerSize)
		return j
	}
	j.compression, j.result.Skip = compression(layer.MediaType)
	if j.result.Skip == "" && opts.Reuse != nil {
		if z, ok := opts.Reuse(layer.Digest, opts.wireSpanSize()); ok {
			j.reuse = z
		}
	}
	return j
}

// compression says how layers of a media type are compressed, or why they are skipped.
func compression(mediaType string) (c ztoc.Compression, skip string) {
	switch mediaType {
	case ocispec.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return ztoc.Gzip, ""
	case ocispec.MediaTypeImageLayer:
		return ztoc.Uncompressed, ""
	case "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar":
		return anyCompression, "" // said of gzip layers, too
	}
	// "+zstd", or a type we do not know; nothing for a tar that is not distributable.
	algo := mediaType
	if strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.") {
		_, algo, _ = strings.Cut(mediaType, "+")
		algo = algo[strings.LastIndexByte(algo, '+')+1:]
	}
	return 0, unsupported(algo)
}

// unsupported is the incumbent's reason to skip a layer compressed with algo.
func unsupported(algo string) string {
	return fmt.Sprintf("is compressed in an unsupported format. expect: [tar, gzip, unknown] but got %q", algo)
}

// run makes the zTOC, or takes the one that is there.
func (j *job) run(ctx context.Context, b *builder) error {
	if j.reuse.Digest != "" {
		if z, ok := j.reusable(ctx, b); ok {
			j.result.Reused = true
			j.describe(z, j.reuse, b)
			return nil
		}
	}
	z, err := j.index(ctx, b)
	if errors.Is(err, errZstd) {
		j.result.Skip = unsupported("zstd")
		return nil
	}
	if err != nil {
		return err
	}
	p, err := z.Marshal()
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{Digest: digest.FromBytes(p), Size: int64(len(p))}
	if j.content, err = b.queue.hold(p); err != nil {
		return err
	}
	j.describe(z, desc, b)
	return nil
}

// reusable returns the zTOC to reuse, unless it is gone, damaged or not of this layer.
func (j *job) reusable(ctx context.Context, b *builder) (*ztoc.ZTOC, bool) {
	z, err := ReadZTOC(ctx, b.store, j.reuse)
	if err != nil || z.ZInfo.CompressedSize != j.layer.Size || z.ZInfo.SpanSize != b.opts.wireSpanSize() {
		return nil, false
	}
	return z, true
}

// index reads the layer and returns its zTOC. The error errZstd says that the layer is one to skip.
func (j *job) index(ctx context.Context, b *builder) (z *ztoc.ZTOC, err error) {
	rc, err := b.store.Fetch(ctx, j.layer)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	defer func() { err = closed(rc, err) }()
	v := &verifier{stopped: ctx.Err, r: rc, desc: j.layer, hash: j.layer.Digest.Verifier()}
	if b.opts.OnProgress != nil {
		v.progress = func(n int64) { b.opts.OnProgress(j.layer, n) }
	}
	var r io.Reader = v
	if j.compression == anyCompression {
		br := bufio.NewReader(v)
		if isZstd(br) {
			return nil, errZstd
		}
		r = br
	}
	opts := b.opts.ZTOC
	opts.Compression = j.compression
	z, err = ztoc.Build(ctx, r, opts)
	// A layer that is not what the manifest promises often does not parse either. Say what is
	// wrong with it first.
	if verr := v.drain(); verr != nil && (err == nil || errors.Is(verr, ErrDigest)) {
		return nil, verr
	}
	return z, err
}

// isZstd reports whether r begins with a zstd frame (RFC 8878, 3.1.1).
func isZstd(r *bufio.Reader) bool {
	magic, _ := r.Peek(4) // an error comes again with the next read
	return bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd})
}

// describe sets the result to the zTOC z, whose digest and size desc has.
func (j *job) describe(z *ztoc.ZTOC, desc ocispec.Descriptor, b *builder) {
	j.result.ZTOC = ocispec.Descriptor{
		MediaType: MediaTypeZTOC,
		Digest:    desc.Digest,
		Size:      desc.Size,
		Annotations: map[string]string{
			AnnotationLayerDigest:    j.layer.Digest.String(),
			AnnotationLayerMediaType: j.layer.MediaType,
			AnnotationSpanSize:       strconv.FormatInt(b.opts.wireSpanSize(), 10),
		},
	}
	if b.opts.DisableXattrs && !needsXattrs(z.TOC) {
		j.result.ZTOC.Annotations[AnnotationDisableXattrs] = "true"
	}
	j.spans = findSpans(z, b.opts.Prefetch)
}

// needsXattrs reports whether a layer has xattrs, or opaque directories, which overlayfs knows by xattrs.
func needsXattrs(toc []ztoc.Entry) bool {
	for i := range toc {
		if strings.HasSuffix(toc[i].Name, opaqueMarker) {
			return true
		}
		for _, r := range toc[i].PAX {
			if strings.HasPrefix(r.Key, xattrPrefix) {
				return true
			}
		}
	}
	return false
}
