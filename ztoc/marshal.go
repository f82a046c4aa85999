// SPDX-License-Identifier: Apache-2.0

package ztoc

// Marshal encodes z as zTOC 0.9, byte for byte as the incumbent does.
func (z *ZTOC) Marshal() ([]byte, error) { panic("not yet") }

// Unmarshal decodes and validates a zTOC 0.9. The result aliases p (windows only; strings are copied).
func Unmarshal(p []byte) (*ZTOC, error) { panic("not yet") }
