// SPDX-License-Identifier: Apache-2.0

// Inflatebench inflates a gzip file to standard output and checks it, as gzip -dc
// does, with package inflate or with another Go library, so that they can be
// measured against programs, as whole processes:
//
//	go build -o inflatebench ./ztoc/internal/inflate/inflatebench
//	taskset -c 0 inflatebench FILE >/dev/null
//	taskset -c 0 inflatebench -by klauspost FILE >/dev/null
//
// It lies here because nothing else may import package inflate; benchmark/core runs it.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	klauspost "github.com/klauspost/compress/gzip"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// Sizes of the buffers: what fits the caches of a core.
const (
	inSize  = 256 << 10
	outSize = 256 << 10
)

func main() {
	by := flag.String("by", "inflate", "`library`: inflate, klauspost or go (compress/gzip)")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: inflatebench [-by LIBRARY] FILE >/dev/null")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(os.Stdout, flag.Arg(0), *by); err != nil {
		fmt.Fprintf(os.Stderr, "inflatebench: inflate %s: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
}

func run(w io.Writer, name, by string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader
	switch by {
	case "inflate":
		return (&stream{w: w, f: f, src: make([]byte, 0, inSize), dst: make([]byte, inflate.WindowSize+outSize+1<<10)}).run()
	case "klauspost":
		r, err = klauspost.NewReader(f)
	case "go":
		r, err = gzip.NewReader(f)
	default:
		err = fmt.Errorf("no library %q", by)
	}
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, outSize))
	return err
}

// stream inflates a file of gzip members.
type stream struct {
	w    io.Writer
	f    io.Reader
	src  []byte // of the file; src[:in] is done with
	in   int
	last bool // the file ends with src
	dst  []byte
	d    inflate.Decoder
}

func (s *stream) run() error {
	for {
		if err := s.fill(); err != nil || s.last && s.in == len(s.src) {
			return err
		}
		if err := s.member(); err != nil {
			return err
		}
	}
}

// fill moves what is left of src to its start and reads more behind it.
func (s *stream) fill() error {
	n := copy(s.src[:cap(s.src)], s.src[s.in:])
	k, err := io.ReadFull(s.f, s.src[n:cap(s.src)])
	s.src, s.in = s.src[:n+k], 0
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		s.last, err = true, nil
	}
	return err
}

// member inflates the member at the start of src.
func (s *stream) member() error {
	header := bytes.NewReader(s.src)
	if _, err := gzip.NewReader(header); err != nil { // reads the header and not a byte more
		return err
	}
	s.in = len(s.src) - header.Len()
	s.d.Reset(0)
	var sum, size uint32
	for pos, done := 0, false; !done; {
		start := pos
		for {
			var stop inflate.Stop
			var err error
			pos, s.in, stop, err = s.d.Decode(s.dst, pos, inflate.WindowSize+outSize, s.src, s.in, s.last)
			if err != nil {
				return err
			}
			if done = stop == inflate.StreamEnd; done || stop == inflate.NeedOutput {
				break
			}
			if stop != inflate.NeedInput {
				continue
			}
			if err := s.fill(); err != nil {
				return err
			}
		}
		p := s.dst[start:pos]
		sum = crc32.Update(sum, crc32.IEEETable, p)
		size += uint32(len(p))
		if _, err := s.w.Write(p); err != nil {
			return err
		}
		if pos > inflate.WindowSize {
			pos = copy(s.dst, s.dst[pos-inflate.WindowSize:pos])
		}
	}
	return s.trailer(sum, size)
}

// trailer reads and compares the member's trailer.
func (s *stream) trailer(sum, size uint32) error {
	if len(s.src)-s.in < 8 {
		if err := s.fill(); err != nil {
			return err
		}
		if len(s.src) < 8 {
			return io.ErrUnexpectedEOF
		}
	}
	t := s.src[s.in:]
	s.in += 8
	if binary.LittleEndian.Uint32(t) != sum || binary.LittleEndian.Uint32(t[4:]) != size {
		return errors.New("checksum or size does not match")
	}
	return nil
}
