// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || noasm || nounsafe

package inflate

// fast decodes symbols of the current block at full speed, see the exits.
func (d *Decoder) fast() int { return d.portable() }
