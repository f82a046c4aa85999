// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// Policy is what an image's index and its layers must be like to be lazy. What is not
// is pulled as if there were no index, or refused. It holds for what is prepared from then on.
// The zero Policy asks for nothing but what this package and those below it bound anyway.
type Policy struct {
	// BoundIndex uses no index but the one that the image manifest names, which whoever can
	// push to the repository, but not change the manifest, cannot have added.
	BoundIndex bool
	// GuardPrivileged serves what is in files that are setuid or setgid, or have capabilities,
	// once the whole layer is there and is what its image says, not before. Who runs such a
	// file waits, for fs.Options.GuardWait at most; its layer goes before all others, and where there
	// is no room for it on disk it is fetched for that alone, and not kept. It needs the background.
	GuardPrivileged bool

	// RefuseDevices lets no layer be lazy, nor unpacked here, that has a block or character device, but for
	// overlayfs's whiteouts (0:0): its Prepare fails, for containerd would make the device otherwise. What an image
	// without an index has is containerd's affair.
	RefuseDevices bool

	MaxIndexSize int64 // bytes of an index; 0 means 4 MiB, which is the most
	MaxZTOCSize  int64 // bytes of a zTOC; 0 means 256 MiB, which is the most
	MaxFiles     int64 // entries of a layer; 0 means as many as can be served
	MaxLayerSize int64 // uncompressed bytes of a layer; 0 means any number
	MaxExpansion int64 // uncompressed bytes for each compressed one of a layer; 0 means any number
}

// validate returns an error that names the first field which makes no sense.
func (p Policy) validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"MaxIndexSize", p.MaxIndexSize}, {"MaxZTOCSize", p.MaxZTOCSize}, {"MaxFiles", p.MaxFiles},
		{"MaxLayerSize", p.MaxLayerSize}, {"MaxExpansion", p.MaxExpansion},
	} {
		if f.value < 0 {
			return fmt.Errorf("policy with %s %d", f.name, f.value)
		}
	}
	return nil
}

// zTOCSize is the most bytes that a zTOC may have.
func (p Policy) zTOCSize() int64 {
	if p.MaxZTOCSize == 0 {
		return maxZTOCSize
	}
	return min(p.MaxZTOCSize, maxZTOCSize)
}

// listed returns those of a layer's zTOCs that are not too large to be looked at. The error, a
// decisionError, says that there are some and all of them are.
func (p Policy) listed(ztocs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if p.MaxZTOCSize == 0 {
		return ztocs, nil
	}
	var fit []ocispec.Descriptor
	for _, d := range ztocs {
		if d.Size <= p.zTOCSize() {
			fit = append(fit, d)
		}
	}
	if len(fit) == 0 && len(ztocs) > 0 {
		return nil, local(ReasonLimit, fmt.Errorf("zTOC %s of %d bytes, more than %d", ztocs[0].Digest, ztocs[0].Size, p.zTOCSize()))
	}
	return fit, nil
}

// check holds a layer to the policy. The error is a decisionError. A layer that is too large is not
// unpacked here either: that is for whoever has to answer for the disk.
func (p Policy) check(z *ztoc.Reader) error {
	if err := p.devices(z); err != nil {
		return err // before what others may unpack
	}
	zi := z.ZInfo()
	switch in, out := zi.CompressedSize, zi.UncompressedSize; {
	case p.MaxFiles > 0 && int64(z.Len()) > p.MaxFiles:
		return local(ReasonLimit, fmt.Errorf("%d files, more than %d", z.Len(), p.MaxFiles))
	case p.MaxLayerSize > 0 && out > p.MaxLayerSize:
		return fallback(ReasonLimit, fmt.Errorf("%d bytes uncompressed, more than %d", out, p.MaxLayerSize))
	case p.MaxExpansion > 0 && out/p.MaxExpansion > in:
		return fallback(ReasonLimit, fmt.Errorf("%d bytes uncompressed, more than %d for each of %d", out, p.MaxExpansion, in))
	}
	return nil
}

// ruledOut reports whether err says that an image has an index that may not be used.
func ruledOut(err error) bool {
	return errors.Is(err, index.ErrUnbound) || errors.Is(err, index.ErrSize)
}

// withoutIndex is the reason why an image whose index cannot be used is not lazy.
func withoutIndex(err error) Reason {
	switch {
	case errors.Is(err, index.ErrUnbound):
		return ReasonUnbound
	case errors.Is(err, index.ErrSize):
		return ReasonLimit
	}
	return ReasonNoIndex
}
