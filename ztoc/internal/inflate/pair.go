// SPDX-License-Identifier: Apache-2.0

package inflate

// Job is a call of Decode for DecodePair: its arguments, then what it returned.
type Job struct {
	Decoder *Decoder
	Dst     []byte
	Pos     int
	Want    int
	Src     []byte
	In      int
	Last    bool

	Stop Stop  // 0: the job has not stopped yet. Never BlockEnd: a job passes over it
	Err  error // a fault; the job has stopped
}

// DecodePair works on two jobs of different decoders, on amd64 on both at once: two
// streams on one core are done earlier than one after the other. It returns as soon as
// one of them has stopped (or both have), so that the caller can put the next in its
// place while the other is under way. With a job that has stopped before, it does the
// other alone. Pos and In are always those reached.
func DecodePair(a, b *Job) {
	switch {
	case a.stopped():
		b.Decode()
	case b.stopped():
		a.Decode()
	default:
		a.begin()
		b.begin()
		pair(a, b)
		a.end()
		b.end()
	}
}

// Decode does what is left of j.
func (j *Job) Decode() {
	if j.stopped() {
		return
	}
	j.begin()
	j.alone()
	j.end()
}

func (j *Job) stopped() bool { return j.Stop != 0 || j.Err != nil }

func (j *Job) begin() { j.Decoder.begin(j.Dst, j.Pos, j.Src, j.In) }

func (j *Job) end() { j.Pos, j.In = j.Decoder.end() }

func (j *Job) alone() {
	for !j.stopped() {
		j.step()
	}
}

// step goes on to the end of the block at most.
func (j *Job) step() {
	j.Stop, j.Err = j.Decoder.step(j.Want, j.Last)
	if j.Stop == BlockEnd {
		j.Stop = 0
	}
}
