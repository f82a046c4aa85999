// SPDX-License-Identifier: Apache-2.0

package inflate

// fast decodes symbols of the current block at full speed, see the exits.
func (d *Decoder) fast() int { return d.portable() }
