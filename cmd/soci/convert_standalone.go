// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/cmd/internal/store"
	"github.com/seekoci/seekoci/index"
)

// convertLayout converts the OCI layout at src, a directory or a tar, to one at dest.
func (e *env) convertLayout(ctx context.Context, src, dest, format string, sel selection, opts index.BuildOptions) (err error) {
	in, err := store.OpenSource(src)
	if err != nil {
		return err
	}
	defer in.Close()
	dest = filepath.Clean(dest)
	check := store.CheckFile // before the work of minutes
	if format == formatDir {
		check = store.CheckDir
	}
	if err := check(dest); err != nil {
		return err
	}
	st, err := store.NewStage(ctx, in, stageBase(dest))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := st.Close(); err == nil {
			err = cerr
		}
	}()
	root, err := rootOf(ctx, in, st)
	if err != nil {
		return fmt.Errorf("read image of %s: %w", src, err)
	}
	p := e.progress(ctx)
	res, err := index.Convert(ctx, st, root, sel.targets(root), e.report(p, opts))
	p.done()
	if err != nil {
		return fmt.Errorf("convert %s: %w", src, err)
	}
	if format == formatDir {
		return st.WriteDir(ctx, res.Index, dest)
	}
	return st.WriteArchive(ctx, res.Index, dest)
}

// stageBase is where zTOCs wait until the destination is written.
func stageBase(dest string) string {
	if dir := os.Getenv("TMPDIR"); dir != "" {
		return dir
	}
	return filepath.Dir(dest)
}

// rootOf returns the one image of a layout, of which everything is there: a
// manifest, an image index, or an image index made of several manifests.
// Manifests that are listed but missing are dropped from it.
func rootOf(ctx context.Context, in *store.Source, st *store.Stage) (ocispec.Descriptor, error) {
	list, err := in.Images()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(list) == 1 && images.IsManifestType(list[0].MediaType) {
		d := list[0]
		return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, nil
	}
	idx := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: list,
	}
	var root ocispec.Descriptor
	if len(list) == 1 && images.IsIndexType(list[0].MediaType) {
		root = ocispec.Descriptor{MediaType: list[0].MediaType, Digest: list[0].Digest, Size: list[0].Size}
		p, err := index.ReadAll(ctx, st, root, store.MaxManifestSize)
		if err != nil {
			return root, err
		}
		if err := json.Unmarshal(p, &idx); err != nil {
			return root, fmt.Errorf("decode image index %s: %w", root.Digest, err)
		}
	}
	return present(ctx, st, idx, root)
}

// present returns root if all of its manifests are in the stage, and otherwise
// an image index of those that are.
func present(ctx context.Context, st *store.Stage, idx ocispec.Index, root ocispec.Descriptor) (ocispec.Descriptor, error) {
	var there []ocispec.Descriptor
	for _, d := range idx.Manifests {
		ok, err := st.Exists(d)
		if err != nil {
			return root, err
		}
		if ok {
			there = append(there, d)
		}
	}
	if len(there) == 0 {
		return root, errors.New("none of its manifests is in the layout")
	}
	if root.Digest != "" && len(there) == len(idx.Manifests) {
		return root, nil
	}
	idx.Manifests = there
	p, err := json.Marshal(idx)
	if err != nil {
		return root, fmt.Errorf("encode image index: %w", err)
	}
	mediaType := idx.MediaType
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageIndex
	}
	return store.PushBytes(ctx, st, mediaType, p)
}
