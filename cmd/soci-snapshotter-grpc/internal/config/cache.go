// SPDX-License-Identifier: Apache-2.0

package config

import "fmt"

// Cache is [cache], which the incumbent has not: how much of the disk lazy layers may take. What
// is too much is evicted, what nobody uses and was read least lately first, and fetched again when
// it is asked for. Without min_free_bytes and min_free_percent, 18 percent of the disk are left free, but
// not more than 10 GiB: kubelet removes images and evicts pods from 15 percent on. A node with a
// larger disk and a kubelet wants min_free_percent = 18.
type Cache struct {
	MaxBytes       int64  `toml:"max_bytes,omitempty"`        // of lazy layers, uncompressed; 0: no limit
	MinFreeBytes   *int64 `toml:"min_free_bytes,omitempty"`   // of the disk
	MinFreePercent *int64 `toml:"min_free_percent,omitempty"` // of the disk; of both the larger one counts
}

const (
	defaultMinFreePercent = 18
	defaultMinFreeBytes   = 10 << 30 // at most
)

// validateCache returns an error that names the first key of [cache] whose value cannot be meant.
func (c Config) validateCache() error {
	switch k := c.Cache; {
	case k.MaxBytes < 0:
		return fmt.Errorf("cache.max_bytes: %d is out of range", k.MaxBytes)
	case k.MinFreeBytes != nil && *k.MinFreeBytes < 0:
		return fmt.Errorf("cache.min_free_bytes: %d is out of range", *k.MinFreeBytes)
	case k.MinFreePercent != nil && (*k.MinFreePercent < 0 || *k.MinFreePercent > 100):
		return fmt.Errorf("cache.min_free_percent: %d is out of range", *k.MinFreePercent)
	}
	return nil
}

// reserve returns how much of a disk of size bytes is to be left free.
func (k Cache) reserve(size int64) int64 {
	if k.MinFreeBytes == nil && k.MinFreePercent == nil {
		return min(size/100*defaultMinFreePercent, defaultMinFreeBytes)
	}
	var free int64
	if k.MinFreeBytes != nil {
		free = *k.MinFreeBytes
	}
	if k.MinFreePercent != nil {
		free = max(free, size/100**k.MinFreePercent)
	}
	return free
}
