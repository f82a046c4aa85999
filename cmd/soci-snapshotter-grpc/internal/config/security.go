// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"

	"github.com/seekoci/seekoci/snapshotter"
)

// Security is [security], which the incumbent has not: what an image must be like to be lazy. An
// image or layer that is not is pulled whole, or with RefuseDevices not at all, with the reason in the log. The zero Security asks
// for nothing but what is bounded anyway.
type Security struct {
	RequireV2Index           bool  `toml:"require_v2_index,omitempty"`            // an index that the image manifest names, and so whoever signs that
	RequireCompleteForSetuid bool  `toml:"require_complete_for_setuid,omitempty"` // setuid, setgid and files with capabilities wait until their layer is verified
	RefuseDevices            bool  `toml:"refuse_devices,omitempty"`              // the pull of an image with an index fails if a layer has a block or character device
	MaxIndexSize             int64 `toml:"max_index_size,omitempty"`              // bytes; 0: 4 MiB, the most
	MaxZTOCSize              int64 `toml:"max_ztoc_size,omitempty"`               // bytes; 0: 256 MiB, the most
	MaxLayerFiles            int64 `toml:"max_layer_files,omitempty"`             // 0: 4 Mi, the most
	MaxLayerSize             int64 `toml:"max_layer_size,omitempty"`              // uncompressed bytes; 0: any
	MaxExpansionRatio        int64 `toml:"max_expansion_ratio,omitempty"`         // uncompressed bytes for each compressed one; 0: 1032, the most that gzip has
}

// policy returns what c says about images.
func (c Config) policy() snapshotter.Policy {
	s := c.Security
	return snapshotter.Policy{
		BoundIndex: s.RequireV2Index, GuardPrivileged: s.RequireCompleteForSetuid, RefuseDevices: s.RefuseDevices,
		MaxIndexSize: s.MaxIndexSize, MaxZTOCSize: s.MaxZTOCSize, MaxFiles: s.MaxLayerFiles,
		MaxLayerSize: s.MaxLayerSize, MaxExpansion: s.MaxExpansionRatio,
	}
}

// validateSecurity returns an error that names the first key of [security] whose value cannot be meant.
func (c Config) validateSecurity() error {
	s := c.Security
	for _, f := range []struct {
		key   string
		value int64
	}{
		{"max_index_size", s.MaxIndexSize}, {"max_ztoc_size", s.MaxZTOCSize}, {"max_layer_files", s.MaxLayerFiles},
		{"max_layer_size", s.MaxLayerSize}, {"max_expansion_ratio", s.MaxExpansionRatio},
	} {
		if f.value < 0 {
			return fmt.Errorf("security.%s: %d is out of range", f.key, f.value)
		}
	}
	if s.RequireCompleteForSetuid && c.BackgroundFetch.Disable {
		return errors.New("security.require_complete_for_setuid: with background_fetch.disable no layer would ever be complete")
	}
	return nil
}
