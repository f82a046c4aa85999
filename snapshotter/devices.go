// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"errors"
	"fmt"

	"github.com/seekoci/seekoci/ztoc"
)

// errDevice says that a layer has a device, and Policy.RefuseDevices is set.
var errDevice = errors.New("devices are refused")

// device returns the error of an entry that is a character or block device, nil of any other. A
// character device 0:0 is none, but overlayfs's whiteout.
func device(name string, char, block bool, major, minor int64) error {
	kind := "block"
	switch {
	case char && (major != 0 || minor != 0):
		kind = "character"
	case !block:
		return nil
	}
	return fmt.Errorf("%q is a %s device %d:%d: %w", name, kind, major, minor, errDevice)
}

// devices holds a layer to RefuseDevices. The error is a decisionError.
func (p Policy) devices(z *ztoc.Reader) error {
	if !p.RefuseDevices {
		return nil
	}
	for _, e := range z.Entries() {
		if err := device(e.Name, e.Type == ztoc.TypeChar, e.Type == ztoc.TypeBlock, e.Devmajor, e.Devminor); err != nil {
			return refused(err)
		}
	}
	return nil
}

// devicesOf is devices of a layer's zTOC.
func (p Policy) devicesOf(toc []byte, st layerState) error {
	if !p.RefuseDevices {
		return nil
	}
	z, err := parseZTOC(toc, st)
	if err != nil {
		return err
	}
	return p.devices(z)
}

// look returns look, nil or not, with a check for RefuseDevices before it.
func (p Policy) look(look func(h *tar.Header, read int64) error) func(h *tar.Header, read int64) error {
	if !p.RefuseDevices {
		return look
	}
	return func(h *tar.Header, read int64) error {
		err := device(h.Name, h.Typeflag == tar.TypeChar, h.Typeflag == tar.TypeBlock, h.Devmajor, h.Devminor)
		if err != nil || look == nil {
			return err
		}
		return look(h, read)
	}
}
