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

// device is the error of an entry of a layer.
func device(kind, name string, major, minor int64) error {
	return fmt.Errorf("%q is a %s device %d:%d: %w", name, kind, major, minor, errDevice)
}

// devices holds a layer to RefuseDevices. A character device 0:0 is none, but overlayfs's whiteout. The error is a
// decisionError.
func (p Policy) devices(z *ztoc.Reader) error {
	if !p.RefuseDevices {
		return nil
	}
	for _, e := range z.Entries() {
		switch {
		case e.Type == ztoc.TypeBlock:
			return refused(device("block", e.Name, e.Devmajor, e.Devminor))
		case e.Type == ztoc.TypeChar && (e.Devmajor != 0 || e.Devminor != 0):
			return refused(device("character", e.Name, e.Devmajor, e.Devminor))
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
		switch {
		case h.Typeflag == tar.TypeBlock:
			return device("block", h.Name, h.Devmajor, h.Devminor)
		case h.Typeflag == tar.TypeChar && (h.Devmajor != 0 || h.Devminor != 0):
			return device("character", h.Name, h.Devmajor, h.Devminor)
		case look == nil:
			return nil
		}
		return look(h, read)
	}
}
