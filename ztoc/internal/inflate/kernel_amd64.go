// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !noasm && !nounsafe

package inflate

import "golang.org/x/sys/cpu"

// callOutput bounds what one call of the kernel inflates: no goroutine can be
// preempted inside assembly.
const callOutput = 256 << 10

// fast decodes symbols of the current block at full speed, see the exits.
func (d *Decoder) fast() int {
	if !cpu.X86.HasBMI2 {
		return d.portable()
	}
	c := &d.c
	end := c.posMax
	for {
		c.posMax = min(end, c.pos+callOutput)
		exit := kernel(d)
		if exit != exitSlack || c.pos <= c.posMax || c.pos > end {
			c.posMax = end
			return exit
		}
	}
}

// kernel is portable in assembly.
//
//go:noescape
func kernel(d *Decoder) int
