// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !noasm && !nounsafe

package inflate

import "golang.org/x/sys/cpu"

// pairLiterals is the most symbols that kernel2 decodes of a stream before it looks at
// the stream's limits again.
const pairLiterals = 5

// exitNone says of a stream that it was the other that made kernel2 return.
const exitNone = exitCareful + 1

// pair runs a and b until one has stopped.
func pair(a, b *Job) {
	if !cpu.X86.HasBMI2 {
		a.alone()
		return
	}
	for {
		// Both must be ready at once; what is not keeps the other from nothing but a block's header.
		ready := a.ready()
		if !b.ready() || !ready {
			return
		}
		exitA, exitB := kernel2(a.Decoder, b.Decoder)
		a.exited(exitA)
		b.exited(exitB)
	}
}

// ready brings j to symbols that kernel2 can decode, or to its stop: then it reports false.
func (j *Job) ready() bool {
	d := j.Decoder
	c := &d.c
	for !j.stopped() {
		if d.mode == modeSymbols && (j.Last || len(c.src)-c.in >= MinInput) && (c.nrefs < len(c.refs) || c.nrefs == 0) {
			c.inMax = len(c.src) - inSlack
			c.posMax = min(j.Want-pairLiterals, len(c.dst)-outSlack, c.pos+callOutput)
			if c.in <= c.inMax && c.pos <= c.posMax {
				return true
			}
		}
		j.step()
	}
	return false
}

// exited does what kernel2 left j for.
func (j *Job) exited(exit int) {
	d := j.Decoder
	c := &d.c
	switch exit {
	case exitNone:
	case exitEnd:
		if stop := d.endBlock(); stop == StreamEnd {
			j.Stop = stop
		}
	case exitCareful, exitSlack:
		// A symbol by itself also gets past slack that a refill took: it goes on in any case.
		if !j.Last && c.in > c.inMax || c.nrefs == len(c.refs) && c.nrefs > 0 || c.pos >= j.Want {
			return
		}
		ended, err := d.symbol()
		j.Err = err
		if ended {
			j.exited(exitEnd)
		}
	}
}

// kernel2 decodes symbols of two streams, each as kernel does, until one of them exits.
//
//go:noescape
func kernel2(a, b *Decoder) (exitA, exitB int)
