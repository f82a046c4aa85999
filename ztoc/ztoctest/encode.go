// SPDX-License-Identifier: Apache-2.0

package ztoctest

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	kflate "github.com/klauspost/compress/flate"
)

// Encoder is one way to gzip a layer.
type Encoder struct {
	Name string // for subtests
	run  func(p []byte) ([]byte, error)
	prog string // looked up on PATH; "" for an encoder of this package
}

// Available says whether Encode can run here: always, unless the encoder is a
// program that is not installed.
func (e Encoder) Available() bool {
	if e.prog == "" {
		return true
	}
	_, err := exec.LookPath(e.prog)
	return err == nil
}

// Encode returns p, gzipped.
func (e Encoder) Encode(p []byte) ([]byte, error) {
	out, err := e.run(p)
	if err != nil {
		return nil, fmt.Errorf("encode with %s: %w", e.Name, err)
	}
	return out, nil
}

// Encoders returns every encoder, installed or not.
func Encoders() []Encoder {
	member := func(m Member) func([]byte) ([]byte, error) { return m.Encode }
	return []Encoder{
		{Name: "go-1", run: member(Member{Level: 1})},
		{Name: "go-6", run: member(Member{Level: 6})},
		{Name: "go-9", run: member(Member{Level: 9})},
		{Name: "go-huffman", run: member(Member{Level: flate.HuffmanOnly})},
		{Name: "stored", run: member(Member{Level: flate.NoCompression})},
		{Name: "sync-flush", run: member(Member{Level: 6, FlushEvery: 30000})},
		{Name: "klauspost-1", run: klauspost(1)},
		{Name: "klauspost-5", run: klauspost(5)},
		{Name: "klauspost-9", run: klauspost(9)},
		{Name: "klauspost-huffman", run: klauspost(kflate.HuffmanOnly)},
		{Name: "klauspost-stateless", run: stateless},
		{Name: "name", run: member(Member{Level: 6, Name: "layer.tar"})},
		{Name: "all-fields", run: member(Member{Level: 6, Name: "layer.tar", Comment: "every field", Extra: []byte("XX\x04\x00data"), HeaderCRC: 1})},
		{Name: "members", run: func(p []byte) ([]byte, error) { return Members(p, 100000, Member{Level: 6}) }},
		{Name: "members-fields", run: func(p []byte) ([]byte, error) {
			return Members(p, 70001, Member{Level: 6, Name: "part", HeaderCRC: 1})
		}},
		pipe("gzip", "-1", "-n"), pipe("gzip", "-6", "-n"), pipe("gzip", "-9", "-n"),
		pipe("pigz", "-i", "-b", "128", "-n"), pipe("pigz", "-p", "2", "-n"), pipe("pigz", "-11", "-I", "1", "-J", "3", "-n"),
		pipe("igzip", "-0", "-n"), pipe("igzip", "-1", "-n"), pipe("igzip", "-2", "-n"), pipe("igzip", "-3", "-n"),
		pipe("libdeflate-gzip", "-1"), pipe("libdeflate-gzip", "-6"), pipe("libdeflate-gzip", "-12"),
		{Name: "zopfli", prog: "zopfli", run: zopfli},
		{Name: "7zip", prog: "advdef", run: advdef},
	}
}

// pipe returns the encoder that pipes through prog.
func pipe(prog string, args ...string) Encoder {
	name := prog
	for _, a := range args {
		name += a
	}
	args = append(args, "-c")
	return Encoder{Name: name, prog: prog, run: func(p []byte) ([]byte, error) {
		var out, msg bytes.Buffer
		cmd := exec.Command(prog, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(p), &out, &msg
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(msg.Bytes()))
		}
		return out.Bytes(), nil
	}}
}

// zopfli encodes p with the program of that name, which wants a file.
func zopfli(p []byte) ([]byte, error) {
	return inFile("layer", p, "zopfli", "--i1")
}

// advdef encodes p with the deflate encoder of 7-Zip, which it applies to a file that is gzipped already.
func advdef(p []byte) ([]byte, error) {
	gz, err := Member{Level: 1}.Encode(p)
	if err != nil {
		return nil, err
	}
	return inFile("layer.gz", gz, "advdef", "-z", "-3", "-f", "-q")
}

// inFile runs prog on a file with what is in p, and returns what is in layer.gz then.
func inFile(name string, p []byte, prog string, args ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "ztoctest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(prog, append(args, name)...)
	cmd.Dir = dir
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(msg))
	}
	return os.ReadFile(filepath.Join(dir, "layer.gz"))
}

// klauspost returns the encoder of klauspost/compress.
func klauspost(level int) func([]byte) ([]byte, error) {
	return func(p []byte) ([]byte, error) {
		return Member{}.wrap(p, func(w io.Writer) (flusher, error) { return kflate.NewWriter(w, level) })
	}
}

// stateless encodes p with the encoder of klauspost/compress that keeps nothing between writes.
func stateless(p []byte) ([]byte, error) {
	return Member{}.wrap(p, func(w io.Writer) (flusher, error) { return unflushed{kflate.NewStatelessWriter(w)}, nil })
}

// unflushed is a writer that holds nothing back.
type unflushed struct{ io.WriteCloser }

func (unflushed) Flush() error { return nil }

// Member says how to write one gzip member (RFC 1952).
type Member struct {
	Level      int    // of compress/flate
	FlushEvery int    // bytes of input between empty stored blocks (sync flush); 0 for none
	Name       string // FNAME; "" for none
	Comment    string // FCOMMENT; "" for none
	Extra      []byte // FEXTRA; nil for none
	HeaderCRC  int    // not 0: FHCRC, the header's checksum plus HeaderCRC-1
}

// Encode returns p as one member.
func (m Member) Encode(p []byte) ([]byte, error) {
	return m.wrap(p, func(w io.Writer) (flusher, error) { return flate.NewWriter(w, m.Level) })
}

// Members returns p as members of at most size bytes each, and an empty one at the end.
func Members(p []byte, size int, m Member) ([]byte, error) {
	var out []byte
	for {
		n := min(size, len(p))
		one, err := m.Encode(p[:n])
		if err != nil {
			return nil, err
		}
		out = append(out, one...)
		if n == 0 {
			return out, nil
		}
		p = p[n:]
	}
}

// flusher is the part of the flate writers that Member needs.
type flusher interface {
	io.WriteCloser
	Flush() error
}

// wrap writes header, the deflate stream that open's writer makes, and trailer.
func (m Member) wrap(p []byte, open func(io.Writer) (flusher, error)) ([]byte, error) {
	out := bytes.NewBuffer(m.header())
	w, err := open(out)
	if err != nil {
		return nil, err
	}
	step := len(p)
	if m.FlushEvery > 0 {
		step = m.FlushEvery
	}
	for q := p; len(q) > 0; {
		n := min(step, len(q))
		if _, err := w.Write(q[:n]); err != nil {
			return nil, err
		}
		if q = q[n:]; m.FlushEvery > 0 {
			if err := w.Flush(); err != nil {
				return nil, err
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	trailer := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(p))
	out.Write(binary.LittleEndian.AppendUint32(trailer, uint32(len(p))))
	return out.Bytes(), nil
}

// header returns the member's header.
func (m Member) header() []byte {
	h := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	if m.Extra != nil {
		h[3] |= 1 << 2
		h = binary.LittleEndian.AppendUint16(h, uint16(len(m.Extra)))
		h = append(h, m.Extra...)
	}
	if m.Name != "" {
		h[3] |= 1 << 3
		h = append(append(h, m.Name...), 0)
	}
	if m.Comment != "" {
		h[3] |= 1 << 4
		h = append(append(h, m.Comment...), 0)
	}
	if m.HeaderCRC != 0 {
		h[3] |= 1 << 1
		h = binary.LittleEndian.AppendUint16(h, uint16(crc32.ChecksumIEEE(h))+uint16(m.HeaderCRC-1))
	}
	return h
}
