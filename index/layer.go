// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
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
	reuse       []ocispec.Descriptor // zTOCs to be used instead, one for each want; nil if there are none

	// Set by the job's worker, read when done.
	result  LayerResult
	content []io.ReaderAt        // the zTOCs, one for each want; nil if skipped or reused
	spans   map[string]SpanRange // of the files to prefetch, by path
	done    bool
}

// want is a zTOC wanted of each layer.
type want struct {
	mediaType string
	format    ztoc.Format
	spanSize  int64 // as on the wire
}

// wants are the zTOCs wanted of each layer, the 0.9 one first.
func (o BuildOptions) wants() []want {
	ws := []want{{MediaTypeZTOC, ztoc.Format09, max(o.ZTOC.SpanSize, 0)}}
	if o.CompactSpanSize != 0 {
		ws = append(ws, want{MediaTypeCompact, ztoc.FormatCompact, o.CompactSpanSize})
	}
	return ws
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
		j.reuse = reuse(layer.Digest, opts)
	}
	return j
}

// reuse returns the zTOCs already made of a layer, or nil if one is missing.
func reuse(layer digest.Digest, opts BuildOptions) []ocispec.Descriptor {
	var made []ocispec.Descriptor
	for _, w := range opts.wants() {
		z, ok := opts.Reuse(layer, w.mediaType, w.spanSize)
		if !ok {
			return nil
		}
		made = append(made, z)
	}
	return made
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

// run makes the zTOCs, or takes those that are there.
func (j *job) run(ctx context.Context, b *builder) error {
	if z, ok := j.reusable(ctx, b); ok {
		j.result.Reused = true
		j.describe(j.reuse, readerFiles{z}, b)
		return nil
	}
	s, err := j.survey(ctx, b)
	if errors.Is(err, errZstd) {
		j.result.Skip = unsupported("zstd")
		return nil
	}
	if err != nil {
		return err
	}
	return closed(s, j.write(s, b))
}

// reusable returns the first zTOC to reuse, unless one of them is gone, damaged or not of this layer.
func (j *job) reusable(ctx context.Context, b *builder) (first *ztoc.Reader, ok bool) {
	if j.reuse == nil {
		return nil, false
	}
	for i, w := range b.opts.wants() {
		z, err := ReadZTOC(ctx, b.store, j.reuse[i])
		if err != nil || z.Format() != w.format || z.ZInfo().CompressedSize != j.layer.Size || z.ZInfo().SpanSize != w.spanSize {
			return nil, false
		}
		if d := z.LayerDigest(); d != "" && d != j.layer.Digest {
			return nil, false
		}
		if i == 0 {
			first = z
		}
	}
	return first, true
}

// survey reads the layer. The error errZstd says that the layer is one to skip.
func (j *job) survey(ctx context.Context, b *builder) (s *ztoc.Survey, err error) {
	rc, err := b.store.Fetch(ctx, j.layer)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	v := newVerifier(ctx, rc, j.layer)
	if j.layer.Digest.Algorithm() == digest.Canonical {
		v.hash = nil // the survey's digest does
	}
	if b.opts.OnProgress != nil {
		v.progress = func(n int64) { b.opts.OnProgress(j.layer, n) }
	}
	s, err = j.surveyOf(ctx, v, b)
	if cerr := closed(rc, nil); err == nil && cerr != nil {
		err = errors.Join(cerr, s.Close())
	}
	if err == nil || errors.Is(err, errZstd) || errors.Is(err, ErrDigest) || ctx.Err() != nil {
		return s, err
	}
	// A layer that is not what the manifest promises often does not parse either. Say what is
	// wrong with it first.
	if verr := j.examine(ctx, b); errors.Is(verr, ErrDigest) {
		return nil, verr
	}
	return nil, err
}

// surveyOf surveys what v reads, all of it.
func (j *job) surveyOf(ctx context.Context, v *verifier, b *builder) (*ztoc.Survey, error) {
	var r io.Reader = v
	if j.compression == anyCompression {
		br := bufio.NewReader(v)
		if isZstd(br) {
			return nil, errZstd
		}
		r = br
	}
	opts := ztoc.SurveyOptions{BuildOptions: b.opts.ZTOC, CompactSpanSize: b.opts.CompactSpanSize}
	opts.Compression = j.compression
	s, err := ztoc.NewSurvey(ctx, r, opts)
	if err != nil {
		return nil, err
	}
	if err = v.drain(); err == nil && v.hash == nil && s.LayerDigest() != j.layer.Digest {
		err = errDiffers
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// examine reads the layer and says whether it is what its descriptor promises.
func (j *job) examine(ctx context.Context, b *builder) error {
	rc, err := b.store.Fetch(ctx, j.layer)
	if err != nil {
		return err
	}
	return closed(rc, newVerifier(ctx, rc, j.layer).drain())
}

// write makes the zTOCs of the layer.
func (j *job) write(s *ztoc.Survey, b *builder) error {
	var made []ocispec.Descriptor
	for _, w := range b.opts.wants() {
		write := s.WriteZTOC
		if w.format == ztoc.FormatCompact {
			write = s.WriteCompact
		}
		content, desc, err := b.queue.hold(write)
		if err != nil {
			return err
		}
		j.content, made = append(j.content, content), append(made, desc)
	}
	j.describe(made, s, b)
	return s.Err()
}

// isZstd reports whether r begins with a zstd frame (RFC 8878, 3.1.1).
func isZstd(r *bufio.Reader) bool {
	magic, _ := r.Peek(4) // an error comes again with the next read
	return bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd})
}

// files is what is known of a layer's files, and which spans of its zTOC 0.9 hold which bytes.
type files interface {
	Entries() iter.Seq2[int, ztoc.Entry]
	SpansOf(r ztoc.Range) (first, end int)
	UncompressedSize() int64
}

// readerFiles are the files of a zTOC that is there.
type readerFiles struct{ *ztoc.Reader }

func (r readerFiles) SpansOf(b ztoc.Range) (first, end int) { return r.ZInfo().SpansOf(b) }
func (r readerFiles) UncompressedSize() int64               { return r.ZInfo().UncompressedSize }

// describe sets the result to the zTOCs made of the layer, whose digests and sizes made has.
func (j *job) describe(made []ocispec.Descriptor, f files, b *builder) {
	plain := !j.look(f, b.opts) && b.opts.DisableXattrs
	for i, w := range b.opts.wants() {
		d := ocispec.Descriptor{
			MediaType: w.mediaType,
			Digest:    made[i].Digest,
			Size:      made[i].Size,
			Annotations: map[string]string{
				AnnotationLayerDigest:    j.layer.Digest.String(),
				AnnotationLayerMediaType: j.layer.MediaType,
				AnnotationSpanSize:       strconv.FormatInt(w.spanSize, 10),
			},
		}
		if plain {
			d.Annotations[AnnotationDisableXattrs] = "true"
		}
		if w.format == ztoc.FormatCompact {
			j.result.Compact = d
		} else {
			j.result.ZTOC = d
		}
	}
}

// look goes through the files once, for what the options want to know of them: the spans of those to prefetch,
// and whether any needs xattrs.
func (j *job) look(f files, opts BuildOptions) (xattrs bool) {
	if !opts.DisableXattrs && len(opts.Prefetch) == 0 {
		return false
	}
	wanted := make(map[string]bool, len(opts.Prefetch))
	for _, p := range opts.Prefetch {
		wanted[p] = true
	}
	j.spans = make(map[string]SpanRange)
	for _, e := range f.Entries() {
		xattrs = xattrs || needsXattrs(&e)
		if len(wanted) == 0 || e.Type != ztoc.TypeReg {
			continue
		}
		if name := cleanPath(e.Name); wanted[name] {
			j.spans[name] = spansOf(f, &e)
		}
	}
	return xattrs
}

// needsXattrs reports whether an entry has xattrs, or makes a directory opaque, which overlayfs knows by xattrs.
func needsXattrs(e *ztoc.Entry) bool {
	if strings.HasSuffix(e.Name, opaqueMarker) {
		return true
	}
	for _, r := range e.PAX {
		if strings.HasPrefix(r.Key, xattrPrefix) {
			return true
		}
	}
	return false
}
